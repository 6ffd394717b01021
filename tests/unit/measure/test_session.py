"""One worker's bench: what it remembers of a model, and what it writes down of its environment."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from mxcheck.pytest_plugin.workbench import Workbench

from mxcheck.models.load import load
from mxcheck.pytest_plugin.leasing import Leasing
from mxcheck.pytest_plugin.settings import Settings
from mxcheck.scheduling.devices import cores
from mxcheck.scheduling.ledger import Ledger

Lay = Callable[..., Settings]


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the models that were loaded, by the real loader."""
    names: list[str] = []

    def counted(name: str, **arguments: Any) -> Any:
        names.append(name)
        return load(name, **arguments)

    monkeypatch.setattr("mxcheck.models.load.load", counted)
    return names


def test_a_model_that_failed_is_not_loaded_again_for_its_other_cases(
    lay: Lay, loads: list[str], tmp_path: Path
) -> None:
    bench = Workbench(lay("--mx-sequence-length", "999"), tmp_path)
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"^--mx-sequence-length 999: the tokens of ref-llama were sampled"
        ):
            bench.resident("ref-llama")
    assert loads == ["ref-llama"]


def test_a_library_s_version_is_in_the_environment_of_its_cases_alone(lay: Lay, tmp_path: Path) -> None:
    settings = lay("--mx-precision", "fp32,bnb_int8", "--mx-max-samples", "1", "--mx-sequence-length", "32")
    bench = Workbench(settings, tmp_path)
    plain, library = (bench.record(case).environment for case in settings.cases)
    assert library["bitsandbytes"] == version("bitsandbytes")
    assert "bitsandbytes" not in plain
    assert (plain["batch_size"], library["batch_size"]) == ("8", "1")


def test_what_does_not_become_resident_holds_nothing(
    lay: Lay, configure: Callable[..., pytest.Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory runs out while a model loads: at first, and again with the host to itself."""
    settings = lay("--mx-device", "cpu", "--mx-leases", str(tmp_path / "leases"))
    held: list[dict[str, int]] = []

    def load(*_: Any, **__: Any) -> Any:
        held.extend(dict(lease.slots_of) for lease in Ledger(settings.leases).leases())
        raise MemoryError

    monkeypatch.setattr("mxcheck.models.load.load", load)
    leasing = Leasing(configure(), settings, tell=lambda *_: None, twice=False)
    bench = Workbench(settings, tmp_path, leasing=leasing)
    for larger in (True, False):
        with pytest.raises(MemoryError):
            bench.resident("ref-llama")
        assert Ledger(settings.leases).leases() == []
        assert bench.enlarge("ref-llama") == larger
    assert held == [{"cpu": 1}, {"cpu": cores()}]
    leasing.close()
