"""Every CUDA branch of src/mxcheck, read from the code itself, so that the list cannot go stale. No torch.

A branch is a statement whose code says cuda, gpu, nvidia or (compute) capability, in a name, an attribute or
a string, or compares something with the CPU. Docstrings, comments, imports and signatures are none: nothing
is decided there.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "src" / "mxcheck"

_WORD = re.compile("(?i:cuda|gpu|nvidia)|capability")
#: How the package writes the CPU where it compares with it.
_CPU = ("cpu", "CPU")
#: What of a compound statement is its own: its body is statements of their own.
_BODIES = ("body", "orelse", "finalbody", "handlers", "cases")
_WIDTH = 110
_COMMENT = re.compile(r"(^|\s)# .*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """One statement.

    Attributes:
        file: below src/mxcheck.
        function: its qualified name; empty at the top of a module.
        code: the statement, or the head of a compound one, on one line.
        lines: where it stands; only a trace needs them, since they move with every edit.
        arm: the first line of what an `if` decides about; None for any other statement.
        is_data: whether it is a table or a constant of a module or class, which is read and not run.
    """

    file: str
    function: str
    code: str
    lines: range
    arm: int | None
    is_data: bool

    @property
    def key(self) -> str:
        """What it is called in a report: the same after an edit elsewhere in its file."""
        return f"{self.file}: {self.function}: {self.code}"


@cache
def branches(package: Path = PACKAGE) -> tuple[Branch, ...]:
    """All of them, by file and line."""
    return tuple(one for path in sorted(package.rglob("*.py")) for one in branches_of(path, package))


def branches_of(path: Path, package: Path = PACKAGE) -> list[Branch]:
    """Those of one file below `package`."""
    text = path.read_text(encoding="utf-8")
    tree, lines = ast.parse(text), text.splitlines()
    file = path.relative_to(package).as_posix()
    found = [
        Branch(
            file=file,
            function=where.name,
            code=_shown(lines, _head(node)),
            lines=_head(node),
            arm=_arm(node),
            is_data=where.is_data,
        )
        for node, where in _statements(tree, _Place(name="", is_data=True))
        if _mentions(node)
    ]
    return sorted(found, key=lambda branch: branch.lines.start)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """The function or class that a statement stands in, by its qualified name."""

    name: str
    is_data: bool


def _statements(node: ast.AST, where: _Place) -> Iterator[tuple[ast.stmt, _Place]]:
    """Every statement that can decide something, and where it stands."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{where.name}.{child.name}".lstrip(".")
            yield from _statements(child, _Place(name=name, is_data=isinstance(child, ast.ClassDef)))
            continue
        if isinstance(child, ast.stmt) and not isinstance(child, ast.Import | ast.ImportFrom):
            yield child, where
        if isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
            yield from _statements(child, where)


def _own(node: ast.stmt) -> Iterator[ast.AST]:
    """The nodes of a statement without those of its bodies."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return  # a docstring
    for name, value in ast.iter_fields(node):
        if name not in _BODIES:
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, ast.AST):
                    yield from ast.walk(part)


def _mentions(statement: ast.stmt) -> bool:
    return any(_is_mention(node) for node in _own(statement))


def _is_mention(node: ast.AST) -> bool:
    match node:
        case ast.Compare():
            return any(_is_cpu(side) for side in (node.left, *node.comparators))
        case ast.Name(id=text) | ast.Attribute(attr=text) | ast.Constant(value=str(text)):
            return _WORD.search(text) is not None
        case ast.keyword(arg=str(text)):
            return _WORD.search(text) is not None
    return False


def _is_cpu(node: ast.expr) -> bool:
    match node:
        case ast.Name(id=text) | ast.Constant(value=str(text)):
            return text in _CPU
    return False


def _head(node: ast.stmt) -> range:
    bodies = [part for name in _BODIES for part in getattr(node, name, [])]
    end = min((part.lineno for part in bodies), default=(node.end_lineno or node.lineno) + 1)
    return range(node.lineno, max(end, node.lineno + 1))


def _arm(node: ast.stmt) -> int | None:
    return node.body[0].lineno if isinstance(node, ast.If) else None


def _shown(lines: list[str], where: range) -> str:
    """The source on one line, without comments, cut to a width that a table bears.

    Not as `ast.unparse` has it: that differs between versions of Python, and a run's keys with it.
    """
    text = " ".join(_COMMENT.sub("", lines[number - 1]).strip() for number in where).strip()
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"
