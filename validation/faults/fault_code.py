"""The code of a function: parse it, change it at a place, and compile it for the same function object."""

from __future__ import annotations
import __future__

import ast
import builtins
import dis
import inspect
from copy import deepcopy
from types import CodeType, FunctionType
from typing import Any

from validation.faults.fault_place import Function

#: Name of the old code within new code.
IT = "it"


def plain_function(found: Any) -> FunctionType:
    """Return the function behind decorators and descriptors: property, cached_property, static and class
    methods.

    Raises ValueError where there is none written in Python.
    """
    if isinstance(found, property):
        found = found.fget
    found = getattr(found, "func", found)  # cached_property
    found = inspect.unwrap(getattr(found, "__func__", found))
    if not isinstance(found, FunctionType):
        raise ValueError(f"no function written in Python, but {type(found).__name__}")
    return found


def tree_of(function: FunctionType) -> Function:
    """Return the function's syntax tree, with the lines of its file.

    Raises ValueError where the file has no `def` at the function's line, OSError where there is no file.
    """
    lines, _ = inspect.findsource(function)
    code = function.__code__
    wanted = code.co_name, code.co_firstlineno
    for node in ast.walk(ast.parse("".join(lines))):
        if isinstance(node, Function) and (node.name, _first_line(node)) == wanted:
            return node
    raise ValueError(f"{code.co_filename} defines no {code.co_name} in line {code.co_firstlineno}")


def _first_line(node: Function) -> int:
    """Return the line of the first decorator, or of the `def`, where a code object starts."""
    return min(one.lineno for one in (node, *node.decorator_list))


def rewrite_tree(tree: Function, place: ast.AST, to: str) -> None:
    """Replace the code at one place of the function's tree.

    Args:
        tree: the function.
        place: a node of it: an expression, a statement, or a function, which stands for its body.
        to: an expression in place of an expression, else statements. The name `it` stands for the old code.
            The docstring of a function is kept, and is no part of its body.

    Raises SyntaxError for invalid code, ValueError where nothing changes or where the function has a variable
    `it` of its own.
    """
    if any(isinstance(node, ast.Name) and node.id == IT for node in ast.walk(tree)):
        raise ValueError(f"has a variable {IT!r}, which here means the code that stands there; rename it")
    before = ast.dump(tree)
    if isinstance(place, ast.expr):
        new = _moved(ast.parse(to, mode="eval"), place)
        _Swap(place, _Put(place).visit(new).body).visit(tree)
    elif isinstance(place, Function):
        start = 0 if ast.get_docstring(place, clean=False) is None else 1
        new = _moved(ast.parse(to), place)
        place.body[start:] = _Put(place.body[start:]).visit(new).body
    else:
        assert isinstance(place, ast.stmt)
        new = _moved(ast.parse(to), place)
        _Swap(place, _Put([place]).visit(new).body).visit(tree)
    if ast.dump(tree) == before:
        raise ValueError(f"{to!r} stands there already; a fault has to change something")


class _Put(ast.NodeTransformer):
    """Substitute the old code wherever new code says `it`."""

    def __init__(self, there: ast.AST | list[ast.stmt]) -> None:
        self._there = there

    def visit_Name(self, node: ast.Name) -> Any:
        return deepcopy(self._there) if node.id == IT and isinstance(self._there, ast.AST) else node

    def visit_Expr(self, node: ast.Expr) -> Any:
        if isinstance(self._there, list) and isinstance(node.value, ast.Name) and node.value.id == IT:
            return deepcopy(self._there)
        return self.generic_visit(node)


class _Swap(ast.NodeTransformer):
    """Replace one node by another, or one statement by several."""

    def __init__(self, old: ast.AST, new: Any) -> None:
        self._old, self._new = old, new

    def visit(self, node: ast.AST) -> Any:
        return self._new if node is self._old else self.generic_visit(node)


def _moved(new: ast.AST, place: ast.AST) -> ast.AST:
    """Set the line of new code to that of its place, so that an error in it points there."""
    for node in ast.walk(new):
        if isinstance(node, ast.expr | ast.stmt | ast.keyword | ast.arg | ast.excepthandler | ast.alias):
            ast.copy_location(node, place)
    return new


def compiled(tree: Function, function: FunctionType) -> CodeType:
    """Compile a changed tree of the function, with the function's free variables.

    A function accepts no code with other free variables, so it is compiled where such names are in scope.

    Raises ValueError for other free variables, and for a name that neither the function nor its module knows:
    new code may use a variable that has since been renamed.
    """
    names = function.__code__.co_freevars
    scope = ast.parse("".join(("def scope():\n", *(f"    {name} = None\n" for name in names), "    pass\n")))
    (around,) = scope.body
    assert isinstance(around, ast.FunctionDef)
    bare = deepcopy(tree)
    bare.decorator_list = []
    around.body.append(bare)
    file = function.__code__.co_filename
    future = function.__code__.co_flags & __future__.annotations.compiler_flag
    code = _code_of(compile(scope, file, "exec", flags=future, dont_inherit=True), "scope")
    code = _code_of(code, tree.name)
    if code.co_freevars != names:
        raise ValueError(f"has free variables {names}, its change {code.co_freevars}")
    if unknown := sorted(_globals(code) - function.__globals__.keys() - vars(builtins).keys()):
        raise ValueError(
            f"its change uses names that it does not know: {', '.join(unknown)}; mend the catalogue"
        )
    return code


def _code_of(outer: CodeType, name: str) -> CodeType:
    found = (one for one in outer.co_consts if isinstance(one, CodeType) and one.co_name == name)
    return next(found)


def _globals(code: CodeType) -> set[str]:
    """Return the names that the code, and that of functions inside, looks up in its module."""
    inner = (one for one in code.co_consts if isinstance(one, CodeType))
    own = {one.argval for one in dis.get_instructions(code) if one.opname == "LOAD_GLOBAL"}
    return own.union(*map(_globals, inner))
