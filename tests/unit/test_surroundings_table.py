"""tools/surroundings.py: when an outcome is kept, and what counts as the known one."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("surroundings", REPOSITORY / "tools" / "surroundings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def kept(tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], str]:
    """What a row's outcome is: the number of runs so far."""
    runs: list[Any] = []

    def tried(_folder: Path, row: Any, _places: object) -> dict[str, str]:
        runs.append(row)
        return {"word": str(len(runs))}

    monkeypatch.setattr(tool, "_try", tried)
    return lambda row: str(tool._kept(tmp_path, row)["word"])


def test_a_run_that_was_stopped_goes_on(tool: ModuleType, kept: Callable[[Any], str]) -> None:
    one, other = (row for row in tool.ROWS if row.name in ("--lf", "--ff, two workers"))
    assert [kept(row) for row in (one, other, one, other)] == ["1", "2", "1", "2"]


@pytest.mark.parametrize("what", ["sources", "release", "row"])
def test_an_outcome_is_kept_for_what_it_rests_on(
    tool: ModuleType, kept: Callable[[Any], str], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    row = tool.ROWS[0]
    assert kept(row) == "1"
    if what == "sources":
        monkeypatch.setattr(tool, "folder_digest", lambda _: "edited")
    elif what == "release":
        monkeypatch.setattr(tool, "version", lambda _: "another")
    else:
        row = replace(row, ini="xfail_strict = true")
    assert kept(row) == "2"


def test_names_of_rows_name_files(tool: ModuleType) -> None:
    assert len({tool._file_name(row) for row in tool.ROWS}) == len(tool.ROWS)


def test_an_unusable_plugin_is_red_as_is_known(tool: ModuleType) -> None:
    (row,) = (row for row in tool.ROWS if row.unusable)
    known = tool.Ended(code=1, output=f"F\n{row.symptom}\n", seconds=1)
    assert known.trouble(row) == ""
    assert replace(known, output="F\n").trouble(row) == "another outcome than is known"
    ours = f"{known.output}Traceback (most recent call last)\n"
    assert replace(known, output=ours).trouble(row) == "a traceback"
