"""A module's names are read from its source: what is surely none of them is refused before it is imported."""

from __future__ import annotations

from importlib.util import spec_from_file_location
from pathlib import Path

import pytest

from mxcheck.kernels.names_in_source import check_has


def check(folder: Path, source: str) -> None:
    """Whether a module of this source may have `cast`."""
    path = folder / "casts.py"
    path.write_text(source)
    spec = spec_from_file_location("casts", path)
    assert spec is not None
    check_has(spec, "cast")


@pytest.mark.parametrize(
    "source",
    [
        "def cast(x, spec): ...",
        "class cast: ...",
        "import deep\ncast = deep.cast",
        "from deep import other as cast",
        "import cast.deep",
        "for cast in (1,): pass",
        "if True:\n    def cast(): ...",
        "def make():\n    global cast\n    cast = 1\nmake()",
        "match 1:\n    case cast: pass",
        "from deep import *",
        "def __getattr__(name): ...",
        "globals()['cast'] = 1",
        "import sys\nsetattr(sys.modules[__name__], 'ca' + 'st', 1)",
        "exec('cast = 1')",
        "def broken(:",
        "raise OSError('no library')",
    ],
)
def test_what_may_be_there_is_not_refused(source: str, tmp_path: Path) -> None:
    check(tmp_path, source)


@pytest.mark.parametrize("source", ["def cats(x, spec): ...\n_own = 1", "def cats(): ...\nimport deep as d"])
def test_what_is_not_is_refused(source: str, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^unknown function of module 'casts': 'cast'; allowed: cats; did you "
    ):
        check(tmp_path, source)


def test_a_folder_has_no_source(tmp_path: Path) -> None:
    spec = spec_from_file_location("casts", tmp_path / "casts.so")
    assert spec is not None
    check_has(spec, "cast")
