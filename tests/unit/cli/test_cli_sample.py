"""`mxcheck sample` loads a model as the gate will."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hub_cache import save_tiny
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, LlamaConfig, LlamaForCausalLM

from mxcheck.cli import main
from mxcheck.evaluation.tokens import load_tokens
from mxcheck.models.zoo import load as loader
from mxcheck.models.zoo.cards import CARDS

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


def _gemma3() -> Gemma3ForConditionalGeneration:
    text = {
        "vocab_size": 96,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "head_dim": 16,
    }
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "image_size": 28}
    config = Gemma3Config(
        text_config={**text, "num_attention_heads": 2, "num_key_value_heads": 1},
        vision_config={**vision, "num_attention_heads": 2, "patch_size": 14},
        mm_tokens_per_image=4,
        image_token_index=95,
        boi_token_index=94,
        eoi_token_index=93,
    )
    return Gemma3ForConditionalGeneration(config)


def _longrope() -> LlamaForCausalLM:
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 8}
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        rope_parameters={**rope, "short_factor": [1.0] * 8, "long_factor": [8.0] * 8},
    )
    return LlamaForCausalLM(config)


def test_a_multimodal_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    _gemma3().save_pretrained(tmp_path / "gemma")
    assert main(["sample", str(tmp_path / "gemma"), *WORDS, "--baselines", str(tmp_path)]) == 0
    tokens = load_tokens(tmp_path / "gemma" / "tokens.safetensors")
    assert (tokens[:, 0] == 2).all()  # the text model's BOS


def test_a_cache_that_does_not_do_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    _longrope().save_pretrained(tmp_path / "long")
    assert main(["sample", str(tmp_path / "long"), *WORDS, "--baselines", str(tmp_path)]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "without a cache" in line]
    assert len(told) == 1
    assert "its logits after 24 tokens are other ones with it, by" in told[0]


def test_a_bos_outside_the_vocabulary_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model = _longrope()
    model.config.bos_token_id = 96
    model.save_pretrained(tmp_path / "no-bos")
    assert main(["sample", str(tmp_path / "no-bos"), *WORDS, "--baselines", str(tmp_path)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "mxcheck: LlamaForCausalLM cannot start from its BOS token: config.bos_token_id is 96, outside the "
        "vocabulary; set it to a token id from 0 to 95"
    )


def test_a_model_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    _longrope().save_pretrained(tmp_path / "my model")
    words = ["sample", f"mine={tmp_path / 'my model'}", "--sequences", "2", "--length", "6"]
    assert main([*words, "--baselines", str(tmp_path)]) == 0
    assert load_tokens(tmp_path / "mine" / "tokens.safetensors").shape == (2, 6)
    assert main(["sample", "mine=ref-llama"]) == 2
    assert main(["sample", f"ref-llama={tmp_path / 'my model'}"]) == 2
    assert capsys.readouterr().err.count("ships with its tokens") == 2
