"""The house: one name for one module, and no file that is too long or too short to be one subject."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src" / "mxcheck").rglob("*.py"))
MOST, LEAST = 400, 20


def repeated(paths: Iterable[Path]) -> dict[str, int]:
    """The names that several files have, and how many."""
    counts = Counter(path.name for path in paths if not path.name.startswith("__"))
    return {name: count for name, count in counts.items() if count > 1}


def of_another_length(paths: Iterable[Path]) -> dict[str, int]:
    """The files with too many or too few lines; the suite's thin files and `__init__` may be short."""
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
    return {
        path.name: length
        for path, length in lengths.items()
        if length > MOST or (length < LEAST and not path.name.startswith(("__", "test_")))
    }


def test_no_two_modules_have_one_name() -> None:
    assert repeated([*SOURCES, *(ROOT / "validation").rglob("*.py")]) == {}


def test_a_file_is_one_subject() -> None:
    assert of_another_length(SOURCES) == {}


def test_what_is_looked_for_is_found(tmp_path: Path) -> None:
    for folder, lines in (("a", 30), ("b", 30), ("c", 401), ("d", 19)):
        (tmp_path / folder).mkdir()
        name = "one.py" if folder in "ab" else f"{folder}.py"
        (tmp_path / folder / name).write_text("x = 1\n" * lines)
    (tmp_path / "__init__.py").touch()
    paths = list(tmp_path.rglob("*.py"))
    assert repeated(paths) == {"one.py": 2}
    assert of_another_length(paths) == {"c.py": 401, "d.py": 19}
