"""Print constraints that pin each dependency to its floor in pyproject.toml: `make floors`.

torch is pinned as in constraints.txt instead: its floor is stated and not tried.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
_FLOOR = re.compile(r"^([\w.-]+)(?:\[[\w,]+\])?>=([\w.]+)")


def floors(project: Path, pinned: Path) -> Iterator[str]:
    """Yield `name==version` for each requirement of `pyproject.toml` with a floor."""
    tables = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    (torch,) = re.findall(r"^torch==.*$", pinned.read_text(encoding="utf-8"), re.MULTILINE)
    yield torch
    for group in (tables["dependencies"], *tables["optional-dependencies"].values()):
        for name, floor in (found.groups() for one in group if (found := _FLOOR.match(one))):
            if name != "torch":
                yield f"{name}=={floor}"


if __name__ == "__main__":
    print("\n".join(floors(ROOT / "pyproject.toml", ROOT / "constraints.txt")))
