"""The rows of the conformance matrix."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import mxcheck
from mxcheck.conformance.cases.cells import LEVELS, Cell, cells
from mxcheck.formats.blocks import BLOCK_FORMATS
from mxcheck.formats.spec import DIALECTS, ROUNDINGS, CastSpec


def test_quick_has_each_rule_each_rounding_and_each_format() -> None:
    ids = [cell.id for cell in cells("quick")]
    assert [name for name in ids if name.startswith("mxfp8_e5m2")] == [
        "mxfp8_e5m2-floor",
        "mxfp8_e5m2-floor-away",
        "mxfp8_e5m2-floor-zero",
        "mxfp8_e5m2-floor-stochastic",
        "mxfp8_e5m2-ceil",
        "mxfp8_e5m2-even",
        "mxfp8_e5m2-rceil",
        "mxfp8_e5m2-reciprocal",
        "mxfp8_e5m2-reciprocal-nan_stays",
    ]
    assert [name for name in ids if name.startswith("mxint8")] == [
        "mxint8-floor",
        "mxint8-floor-away",
        "mxint8-floor-zero",
        "mxint8-floor-stochastic",
        "mxint8-ceil",
        "mxint8-rceil",
    ]
    assert ids[-5:] == [f"{name}-amax" for name in list(BLOCK_FORMATS)[-5:]]
    assert list(dict.fromkeys(cell.format for cell in cells("quick"))) == list(BLOCK_FORMATS)


def test_full_has_every_combination() -> None:
    found = cells("full")
    assert set(cells("quick")) < set(found)
    for name, block in BLOCK_FORMATS.items():
        own = {(one.scale_rule, one.rounding, one.nonfinite) for one in found if one.format == name}
        real = block.scale != "e8m0"
        policies = ("block", "element") if name in ("fp8_e4m3", "fp8_e5m2") else ("block",)
        assert own == {
            (rule, rounding, policy)
            for rule in block.scale_rules
            for rounding in (("even",) if real else ROUNDINGS)
            for policy in policies
        }


def test_every_dialect_has_its_cell() -> None:
    found = {(cell.scale_rule, cell.rounding, cell.nonfinite) for cell in cells("quick")}
    for bundle in DIALECTS.values():
        assert (bundle["scale_rule"], bundle["rounding"], bundle["nonfinite"]) in found


@pytest.mark.parametrize("level", LEVELS)
def test_ids_are_unique_and_name_one_format(level: str) -> None:
    """`-k mxfp8_e4m3` selects the MX format alone."""
    found = cells(level)
    assert len({cell.id for cell in found}) == len(found)
    for cell in found:
        assert [name for name in BLOCK_FORMATS if name in cell.id] == [cell.format]


def test_a_cell_makes_its_cast() -> None:
    cell = Cell(format="fp8_e4m3", scale_rule="rceil", rounding="away", nonfinite="element")
    assert cell.rule == "rceil-away-nan_stays"
    assert cell.spec(axis=0, block_size=None) == CastSpec(
        format="fp8_e4m3", scale_rule="rceil", rounding="away", nonfinite="element", axis=0
    )
    assert Cell(format="nvfp4", scale_rule="amax").spec().block_size == 16


def _names_of_the_suites() -> set[str]:
    """Of their folders, modules and tests: what `-k` matches besides a case's own id."""
    root = Path(mxcheck.__file__).parents[2]
    files = [*(root / "src/mxcheck/suite").rglob("*.py"), *(root / "tests/kernels").glob("*.py")]
    paths = [
        file.relative_to(root).with_suffix("") for file in [*files, *(root / "tests/models").glob("*.py")]
    ]
    tests = [
        name for file in files for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)
    ]
    assert {"test_casts", "test_conformance", "kernels", "suite"} < {
        part for path in paths for part in path.parts
    } | set(tests)
    return {part for path in paths for part in path.parts} | set(tests)


@pytest.mark.parametrize("level", LEVELS)
def test_no_part_of_an_id_is_in_the_name_of_a_test_module_or_folder(level: str) -> None:
    """`-k "not te"` deselected everything: `test` has a `te`."""
    names = _names_of_the_suites()
    found = {
        (part, name)
        for cell in cells(level)
        for part in cell.id.split("-")
        for name in names
        if part.casefold() in name.casefold()
    }
    assert not found
    assert any("te" in name for name in names)


def test_a_former_id_tells_its_cell() -> None:
    former = {cell.id: cell.former_ids for cell in cells("quick")}
    assert former["mxfp8_e4m3-floor"] == ("fp8_e4m3-floor",)
    assert former["mxfp8_e5m2-reciprocal-nan_stays"] == ("fp8_e5m2-reciprocal-nan_stays", "fp8_e5m2-rceil-te")
    assert former["mxint8-floor"] == former["nvfp4-amax"] == ()
    assert sum(name.endswith("-te") for names in former.values() for name in names) == 2


def test_cells_need_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, mxcheck.conformance.cases.cells\n"
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
