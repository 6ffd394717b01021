"""tools/hold_te.py: that it sees what differs. (`make compare-flashinfer` compiles flashinfer itself.)"""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import published_te
import pytest
from numpy.typing import NDArray

from mxcheck.formats.oracle import quantize_array
from mxcheck.formats.spec import cast_spec, dialect
from validation.second_oracle.search import FP32_INF

TE = cast_spec("fp8_e4m3", **dialect("te"))


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    path = Path(__file__).parents[2] / "tools" / "hold_te.py"
    spec = importlib.util.spec_from_file_location("hold_te", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def blocks(tool: ModuleType) -> Any:
    return tool.finite_blocks(seed=1)[::97]


@pytest.mark.parametrize("start", [0, 0x045F_FF00, 0x3F00_0000, FP32_INF - 5000])
@pytest.mark.parametrize("name", ["fp8_e4m3", "fp8_e5m2"])
def test_no_amax_differs(tool: ModuleType, name: str, start: int) -> None:
    assert tool.wrong_amax(name, start, min(start + 50_000, FP32_INF)) == []


def test_one_amax_that_differs_is_found(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the exact rule in the formula's place; across the end of a chunk too."""

    def exact(amax: NDArray[np.float32], largest: float) -> Any:
        del largest
        return quantize_array(amax[:, None], replace(TE, scale_rule="rceil", block_size=1))[1][:, 0]

    monkeypatch.setattr(published_te, "scale_codes", exact)
    monkeypatch.setattr(tool, "_CHUNK", 1000)
    for start in (0x0460_0001 - 999, 0x0460_0001 - 1000, 0x0460_0001):
        assert tool.wrong_amax("fp8_e4m3", start, 0x0460_0001 + 3000) == [0x0460_0001]


def test_blocks_of_a_release_before_2_13_differ_under_00_alone(tool: ModuleType, blocks: Any) -> None:
    counts = tool.held(lambda x: published_te.cast(x, "fp8_e4m3", release=(2, 12)), blocks)
    under = counts.pop("differ from te, under the scale 00")
    assert counts == {
        "blocks": len(blocks),
        "differ from reciprocal_one": 0,
        "differ from te, elsewhere": 0,
    }
    assert 0 < under < len(blocks) / 10


def test_ours_and_the_exact_rule_differ_as_they_should(tool: ModuleType) -> None:
    blocks = tool.finite_blocks(seed=1)
    blocks = blocks[np.abs(blocks).max(-1) < 1e-35]  # where they do
    ours = tool.held(lambda x: (lambda got: (got[0], got[1][:, 0]))(quantize_array(x, TE)), blocks)
    assert ours["differ from te, under the scale 00"] == ours["differ from te, elsewhere"] == 0
    assert ours["differ from reciprocal_one"] > 0
    rceil = replace(TE, scale_rule="rceil")
    exact = tool.held(lambda x: (lambda got: (got[0], got[1][:, 0]))(quantize_array(x, rceil)), blocks)
    assert exact["differ from te, elsewhere"] == 1


def test_without_flashinfer_it_says_how_to_get_it(tool: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"no flashinfer in .*; `make compare-flashinfer` puts it there"):
        tool.main(["flashinfer", str(tmp_path)])
