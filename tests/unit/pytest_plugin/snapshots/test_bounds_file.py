"""A line is added to a file of somebody's, and nothing of it is lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sample_record import build_record

from mxcheck.gate.absolute_checks import Absolute
from mxcheck.gate.bounds_tables import read_bounds
from mxcheck.pytest_plugin.snapshots.bounds_file import add_bounds

RECORD = build_record()
FOUND = Absolute(signed=(0.001,), compared=64)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bounds.toml"


def case_names(path: Path) -> set[str]:
    return set(read_bounds(path.parent).get("default", {}))


@pytest.mark.parametrize("before", ["", "\n\n", None])
def test_a_new_file_says_what_it_is(path: Path, before: str | None) -> None:
    if before is not None:
        path.write_text(before, encoding="utf-8")
    add_bounds(RECORD, FOUND, path.parent)
    assert path.read_text(encoding="utf-8").startswith(
        "# Bounds of ref-llama: what a precision may cost on it"
    )
    assert case_names(path) == {"mxfp8_e4m3-B"}


def test_a_line_under_a_former_name_is_the_case_s(path: Path) -> None:
    mine = "fp8_e4m3-B = { kl = 1 }\n"
    path.write_text(mine, encoding="utf-8")
    add_bounds(RECORD, FOUND, path.parent)
    assert path.read_text(encoding="utf-8") == mine
    add_bounds(replace(RECORD, tier="A"), FOUND, path.parent)
    assert path.read_text(encoding="utf-8").startswith(mine)
    assert case_names(path) == {"mxfp8_e4m3-A", "mxfp8_e4m3-B"}


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_what_people_wrote_stays(path: Path, newline: str) -> None:
    mine = newline.join(["# mine", "bf16 = { kl = 1 } # wide"])
    path.write_bytes(mine.encode())
    add_bounds(RECORD, FOUND, path.parent)
    add_bounds(replace(RECORD, options=["rceil"]), FOUND, path.parent)
    after = path.read_bytes()
    assert after.startswith(mine.encode() + newline.encode())
    assert after.count(b"\n") == after.count(newline.encode())
    assert case_names(path) == {"bf16", "mxfp8_e4m3-B", "mxfp8_e4m3-B+rceil"}
    add_bounds(RECORD, FOUND, path.parent)
    assert path.read_bytes() == after, "it has its line"


def test_a_byte_order_mark_is_no_part_of_it(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbfbf16 = { kl = 1 }\n")
    add_bounds(RECORD, FOUND, path.parent)
    assert case_names(path) == {"bf16", "mxfp8_e4m3-B"}


def test_a_file_with_sections_is_left_alone(path: Path) -> None:
    """A line at its end would be the section's."""
    path.write_text("[bf16]\nkl = 0.5\n", encoding="utf-8")
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"has sections.*`mxfp8_e4m3-B = \{ kl = 0.002 \}` before the first"):
        add_bounds(RECORD, FOUND, path.parent)
    assert path.read_bytes() == before


def test_a_link_stays_one(path: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared.toml"
    shared.write_text("bf16 = { kl = 1 }\n", encoding="utf-8")
    path.symlink_to(shared)
    add_bounds(RECORD, FOUND, path.parent)
    assert path.is_symlink()
    assert "mxfp8_e4m3-B" in shared.read_text(encoding="utf-8")
