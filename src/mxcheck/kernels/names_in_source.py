"""Read the names of a module from its source, without importing it."""

from __future__ import annotations

import ast
from importlib.machinery import ModuleSpec
from pathlib import Path

from mxcheck.formats.choices import unknown


def check_has(spec: ModuleSpec, name: str) -> None:
    """Check that a module has a name, or may get it when imported.

    Raises:
        ValueError: there is no such name; lists the names of its functions.
    """
    if spec.origin is None or not spec.origin.endswith(".py"):
        return
    try:
        tree = ast.parse(Path(spec.origin).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return  # the import will report what is wrong with it
    names = _names(tree)
    if names is not None and name not in names:
        own = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        functions = [one for one in own if not one.startswith("_")]
        raise unknown(f"function of module {spec.name!r}:", name, functions)


def _names(tree: ast.Module) -> set[str] | None:
    """Return the names that a module's source binds; None where it may get others: by `import *`, a
    `__getattr__`, or writes into its own dictionary."""
    found: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                found.add(name)
            case (
                ast.Name(id="globals" | "locals" | "vars" | "exec" | "setattr" | "eval")
                | ast.Attribute(attr="modules" | "__dict__")
            ):
                return None
            case ast.alias(name="*"):
                return None
            case ast.Raise() if node in tree.body:
                return None  # it has a more specific reason
            case ast.alias(name=name, asname=asname):
                found.add(asname or name.partition(".")[0])
            case ast.MatchAs(name=str(name)):
                found.add(name)
    return None if "__getattr__" in found else found
