"""Places in a function, found by their kind and name (a call of NAME, the value of NAME), never by their
text.

A path of steps leads to one expression or statement. Each step searches the place that the previous step
found; the first searches the whole function. A place does not depend on formatting, on comments, on the names
of other variables, or on code elsewhere in the function.

Steps search lambdas and comprehensions, but not inner functions: `function` leads into those.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

Function = ast.FunctionDef | ast.AsyncFunctionDef
Parents = Mapping[ast.AST, ast.AST]

_OPERATORS: Mapping[type[ast.AST], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.Pow: "**",
    ast.MatMult: "@",
    ast.BitOr: "|",
    ast.BitAnd: "&",
    ast.BitXor: "^",
    ast.LShift: "<<",
    ast.RShift: ">>",
    ast.And: "and",
    ast.Or: "or",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step on the path to a place; created by the functions below.

    Attributes:
        kind: one of `_KINDS`.
        name: the name searched for; empty where the kind has no names.
        nth: the index among several with this name, from 1 on, in the order of the text and an outer one
            before those inside it. None: there must be only one.
    """

    kind: str
    name: str = ""
    nth: int | None = None

    def __str__(self) -> str:
        which = "" if self.nth is None else f" number {self.nth}"
        return f"{self.kind} {self.name}".rstrip() + which


def call(name: str, *, nth: int | None = None) -> Step:
    """Find the call of NAME: `NAME(...)`, `x.NAME(...)` or `NAME[key](...)`."""
    return Step(kind="call", name=name, nth=nth)


def argument(which: int | str, *, nth: int | None = None) -> Step:
    """Find an argument of the call found before, or of any call inside.

    Args:
        which: the position of a positional one, from 1 on; the name of a keyword; `**` for unpacked keywords.
        nth: as in `Step`.
    """
    return Step(kind="argument", name=str(which), nth=nth)


def assignment(name: str, *, nth: int | None = None) -> Step:
    """Find the statement that binds NAME: `x`, `self.x`, or `x[]` for an item of x."""
    return Step(kind="assignment", name=name, nth=nth)


def value(name: str, *, nth: int | None = None) -> Step:
    """Find the value that NAME, written as in `assignment`, is bound to."""
    return Step(kind="value", name=name, nth=nth)


def returned(*, nth: int | None = None) -> Step:
    """Find the value that the function returns."""
    return Step(kind="returned value", nth=nth)


def condition(name: str, *, nth: int | None = None) -> Step:
    """Find the condition of an `if`, `while` or comprehension that contains NAME, `x.NAME` or `x["NAME"]`."""
    return Step(kind="condition on", name=name, nth=nth)


def choice(name: str, *, nth: int | None = None) -> Step:
    """Find the whole expression `a if ... else b` whose condition contains NAME, `x.NAME` or `x["NAME"]`."""
    return Step(kind="choice by", name=name, nth=nth)


def comparison(name: str, *, nth: int | None = None) -> Step:
    """Find the comparison that contains NAME, `x.NAME` or `x["NAME"]`."""
    return Step(kind="comparison of", name=name, nth=nth)


def operation(operator: str, *, nth: int | None = None) -> Step:
    """Find the expression with this operator between its operands, including `and` and `or`."""
    return Step(kind="operation", name=operator, nth=nth)


def mention(name: str, *, nth: int | None = None) -> Step:
    """Find the expression NAME or `x.NAME`, where it is read."""
    return Step(kind="mention of", name=name, nth=nth)


def constant(what: object, *, nth: int | None = None) -> Step:
    """Find the constant with this value and type."""
    return Step(kind="constant", name=repr(what), nth=nth)


def entry(key: str, *, nth: int | None = None) -> Step:
    """Find the value of the key in a dictionary display."""
    return Step(kind="entry", name=key, nth=nth)


def function(name: str) -> Step:
    """Find the inner function of that name. Code in its place becomes its body."""
    return Step(kind="function", name=name)


def statement() -> Step:
    """Find the innermost statement around the place found before."""
    return Step(kind="statement around it")


def loop() -> Step:
    """Find the iterable of the innermost `for` around the place found before, including a comprehension's."""
    return Step(kind="loop around it")


def located(tree: Function, path: tuple[Step, ...]) -> ast.AST:
    """Return the one node that the path leads to: an expression, a statement, or `tree` itself for an empty
    path.

    Raises ValueError where a step finds nothing, or several without an `nth`. The message gives their lines
    in the file, or the alternatives of that kind.
    """
    parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
    place: ast.AST = tree
    way: list[str] = []
    for step in path:
        place = _one(step, place, parents, where=" in ".join(reversed(way)))
        way.append(str(step))
    return place


def _one(step: Step, place: ast.AST, parents: Parents, *, where: str) -> ast.AST:
    named = sorted(_KINDS[step.kind](place, parents), key=lambda pair: _position(pair[1]))
    found = [node for name, node in named if name == step.name]
    inside = f" in {where}" if where else ""
    if not found:
        others = ", ".join(dict.fromkeys(name for name, _ in named if name)) or "none"
        raise ValueError(f"no {step}{inside}; of this kind there: {others}; mend the path")
    lines = ", ".join(str(_position(node)[0]) for node in found)
    if step.nth is None and len(found) > 1:
        raise ValueError(
            f"{len(found)} times {step}{inside}, in lines {lines}, wanted one; narrow the path, or give nth="
        )
    if step.nth is not None and not 1 <= step.nth <= len(found):
        raise ValueError(
            f"{step}{inside}: there are {len(found)}, in lines {lines}; allowed: 1 to {len(found)}"
        )
    return found[(step.nth or 1) - 1]


def _position(node: ast.AST) -> tuple[int, int]:
    assert isinstance(node, ast.expr | ast.stmt)
    return node.lineno, node.col_offset


def _inside(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the node (without its body if it is a function) and all below, without annotations and inner
    functions."""
    if isinstance(node, Function):
        below = list[ast.AST](node.body)
    else:
        yield node
        below = [
            child
            for field, content in ast.iter_fields(node)
            if field != "annotation"
            for child in (content if isinstance(content, list) else [content])
            if isinstance(child, ast.AST)
        ]
    for child in below:
        if isinstance(child, Function):
            yield child
        else:
            yield from _inside(child)


def _identifier(node: ast.AST) -> str:
    """Return the last name of `f`, `x.f`, `f[key]` and `x.f(...)`; empty for anything else."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Subscript(value=inner) | ast.Call(func=inner):
            return _identifier(inner)
    return ""


def _names(node: ast.AST) -> set[str]:
    """Return every name, attribute and key in text that occurs in the expression."""
    found = set[str]()
    for one in _inside(node):
        match one:
            case ast.Name(id=name) | ast.Attribute(attr=name):
                found.add(name)
            case ast.Subscript(slice=ast.Constant(value=str(key))):
                found.add(key)
    return found


Named = Iterator[tuple[str, ast.AST]]


def _calls(place: ast.AST, _: Parents) -> Named:
    for node in _inside(place):
        if isinstance(node, ast.Call):
            yield _identifier(node.func), node


def _arguments(place: ast.AST, _: Parents) -> Named:
    for node in [place] if isinstance(place, ast.Call) else _inside(place):
        if isinstance(node, ast.Call):
            yield from ((str(index), one) for index, one in enumerate(node.args, start=1))
            yield from ((keyword.arg or "**", keyword.value) for keyword in node.keywords)


def _bound(target: ast.AST) -> Iterator[str]:
    match target:
        case ast.Tuple(elts=parts) | ast.List(elts=parts):
            for part in parts:
                yield from _bound(part)
        case ast.Starred(value=inner):
            yield from _bound(inner)
        case ast.Subscript(value=inner):
            yield f"{ast.unparse(inner)}[]"
        case _:
            yield ast.unparse(target)


def _assignments(place: ast.AST, _: Parents) -> Iterator[tuple[str, ast.AST]]:
    for node in _inside(place):
        match node:
            case ast.Assign(targets=targets):
                yield from ((name, node) for target in targets for name in _bound(target))
            case ast.AnnAssign(target=target, value=ast.AST()) | ast.AugAssign(target=target):
                yield from ((name, node) for name in _bound(target))


def _values(place: ast.AST, parents: Parents) -> Named:
    for name, node in _assignments(place, parents):
        assert isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign)
        assert node.value is not None
        yield name, node.value


def _returned(place: ast.AST, _: Parents) -> Named:
    for node in _inside(place):
        if isinstance(node, ast.Return) and node.value is not None:
            yield "", node.value


def _conditions(place: ast.AST, _: Parents) -> Named:
    for node in _inside(place):
        match node:
            case ast.If(test=test) | ast.While(test=test):
                tests = [test]
            case ast.comprehension(ifs=tests):
                pass
            case _:
                tests = []
        yield from ((name, test) for test in tests for name in sorted(_names(test)))


def _choices(place: ast.AST, _: Parents) -> Named:
    for node in _inside(place):
        if isinstance(node, ast.IfExp):
            yield from ((name, node) for name in sorted(_names(node.test)))


def _comparisons(place: ast.AST, _: Parents) -> Named:
    for node in _inside(place):
        if isinstance(node, ast.Compare):
            yield from ((name, node) for name in sorted(_names(node)))


def _operations(place: ast.AST, _: Parents) -> Named:
    for node in _inside(place):
        if isinstance(node, ast.BinOp | ast.BoolOp):
            yield _OPERATORS[type(node.op)], node


def _mentions(place: ast.AST, _: Parents) -> Named:
    for node in _inside(place):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
            yield _identifier(node), node


def _constants(place: ast.AST, _: Parents) -> Named:
    for node in _inside(place):
        if isinstance(node, ast.Constant):
            yield repr(node.value), node


def _entries(place: ast.AST, _: Parents) -> Named:
    for node in _inside(place):
        if isinstance(node, ast.Dict):
            for key, content in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant):
                    yield str(key.value), content


def _functions(place: ast.AST, _: Parents) -> Named:
    for node in _inside(place):
        if isinstance(node, Function):
            yield node.name, node


def _statement_around(place: ast.AST, parents: Parents) -> Named:
    while not isinstance(place, ast.stmt):
        place = parents[place]
    yield "", place


def _loop_around(place: ast.AST, parents: Parents) -> Named:
    inner, outer = place, parents.get(place)
    while outer is not None:
        match outer:
            case ast.For(iter=through) | ast.AsyncFor(iter=through) | ast.comprehension(iter=through):
                if inner is not through:
                    yield "", through
                    return
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                if not isinstance(inner, ast.comprehension):
                    yield "", outer.generators[-1].iter
                    return
        inner, outer = outer, parents.get(outer)


_KINDS: Mapping[str, Callable[[ast.AST, Parents], Named]] = {
    "call": _calls,
    "argument": _arguments,
    "assignment": _assignments,
    "value": _values,
    "returned value": _returned,
    "condition on": _conditions,
    "choice by": _choices,
    "comparison of": _comparisons,
    "operation": _operations,
    "mention of": _mentions,
    "constant": _constants,
    "entry": _entries,
    "function": _functions,
    "statement around it": _statement_around,
    "loop around it": _loop_around,
}
