"""tools/bounds_table.py: what it writes into docs/bounds.md, and that the page is current."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from sample_record import build_record

from mxcheck.files.write import write_text
from mxcheck.gate.baseline import encode
from mxcheck.models.recipes.ladder import with_tiers

REPOSITORY = Path(__file__).parents[2]
PAGE = "before\n<!-- begin: tools/bounds_table.py -->\nold\n<!-- end: tools/bounds_table.py -->\nafter\n"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bounds_table", REPOSITORY / "tools" / "bounds_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def row(table: str, case_name: str) -> list[str]:
    (found,) = (line for line in table.splitlines() if line.startswith(f"| {case_name} |"))
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_the_committed_page_is_current(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    page = REPOSITORY / "docs" / "bounds.md"
    assert tool.main(["--check", "--page", str(page), "--baselines", str(REPOSITORY / "baselines")]) == 0
    assert capsys.readouterr().out == f"{page}: current\n"


def test_a_row(tool: ModuleType, tmp_path: Path) -> None:
    for model, kl in (("ref-llama", 0.0068), ("ref-neo", 0.0114), ("outlier-llama", 0.0065)):
        write_text(
            tmp_path / model / "mxfp8_e4m3-B.json", encode(build_record(model=model, sequence_kl=[kl] * 4))
        )
    cells = row(tool.table(tmp_path), "mxfp8_e4m3-B")
    # perplexity: exp(0.001425) - 1, the mean rise of the sample record
    assert cells[:4] == ["mxfp8_e4m3-B", "0.0068, +0.14 %", "0.011, +0.14 %", ""]
    assert cells[4:9] == ["0.023", "50 %", "0.0065, +0.14 %", "0.013", "50 %"]
    assert cells[9] == "Llama-3.2-1B +1.2 % [1], Llama-3.2-3B +0.7 % [1], Llama-3.1-8B +0.8 % [2]"


def test_what_was_not_measured_is_empty(tool: ModuleType, tmp_path: Path) -> None:
    assert row(tool.table(tmp_path), "mxint8-A") == ["mxint8-A", *[""] * 3, "0.0016", "", "", "0.011", "", ""]


def test_what_is_its_reference_costs_nothing(tool: ModuleType, tmp_path: Path) -> None:
    same = build_record(
        precision="fp32", tier=None, sequence_kl=[0.0] * 4, top1_agreement=1.0, bit_equal=True
    )
    write_text(tmp_path / "ref-moe" / "fp32.json", encode(same))
    assert row(tool.table(tmp_path), "fp32") == ["fp32", "", "", "0", "0", "", "", "0", "", ""]


def test_every_plain_precision_has_a_row(tool: ModuleType, tmp_path: Path) -> None:
    names = [line.split(" | ")[0].lstrip("| ") for line in tool.table(tmp_path).splitlines()[2:]]
    plain = [precision if tier is None else f"{precision}-{tier}" for precision, tier in with_tiers()]
    assert names[: len(plain)] == plain
    assert all(name.endswith("-linears") for name in names[len(plain) :])
    assert tool.PUBLISHED.keys() <= set(plain)


def test_every_source_is_on_the_page(tool: ModuleType) -> None:
    page = (REPOSITORY / "docs" / "bounds.md").read_text(encoding="utf-8")
    sources = {found.source for rows in tool.PUBLISHED.values() for found in rows}
    assert sources == {1, 2, 3, 4, 5}
    assert all(f"\n| {source} | " in page for source in sources)


def test_it_rewrites_the_table_alone(tool: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    arguments = ["--page", str(page), "--baselines", str(tmp_path)]
    assert tool.main([*arguments, "--check"]) == 1
    assert page.read_text() == PAGE
    assert tool.main(arguments) == 0
    lines = page.read_text().splitlines()
    assert (lines[0], lines[1], lines[-2], lines[-1]) == ("before", tool.BEGIN, tool.END, "after")
    assert lines[2].startswith("| precision | ref-llama |")
    assert tool.main([*arguments, "--check"]) == 0


@pytest.mark.parametrize(
    "page",
    [
        pytest.param("no markers", id="none"),
        pytest.param(PAGE.replace("end:", "und:"), id="no-end"),
        pytest.param(PAGE + PAGE, id="twice"),
        pytest.param("".join(reversed(PAGE.splitlines(keepends=True))), id="reversed"),
    ],
)
def test_a_page_without_its_place_is_refused(tool: ModuleType, page: str) -> None:
    with pytest.raises(ValueError, match=r"the page needs one line .*begin.*end"):
        tool.replaced(page, "new")
