"""`mxcheck sample` loads a model as the gate will."""

from __future__ import annotations

from pathlib import Path

import pytest
from hub_cache import save_tiny

from mxcheck.cli import main
from mxcheck.evaluation.tokens import load_tokens
from mxcheck.models import load as loader
from mxcheck.models.cards import CARDS

WORDS = ("--sequences", "2", "--length", "24")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save_tiny(tmp_path / "tiny", CARDS["llama-3.1-8b"])
    return tmp_path / "tiny"


def test_dtype_and_device_reach_the_loader(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dtypes = []
    real = loader.load

    def seen(name: str, **arguments: object) -> object:
        loaded = real(name, **arguments)  # type: ignore[arg-type]
        dtypes.append((str(loaded.model.dtype), arguments["device"], arguments["trust_remote_code"]))
        return loaded

    monkeypatch.setattr(loader, "load", seen)
    assert main(["sample", str(model), *WORDS, "--dtype", "bf16", "--baselines", "a"]) == 0
    assert main(["sample", str(model), *WORDS, "--trust-remote-code", "--baselines", "b"]) == 0
    assert dtypes == [("torch.bfloat16", "cpu", False), ("torch.float32", "cpu", True)]
    assert load_tokens(Path("a/tiny/tokens.safetensors")).shape == (2, 24)
