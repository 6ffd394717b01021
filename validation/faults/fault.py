"""A fault: a small, named change of the real code, applied while the program runs and reverted afterwards."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import FunctionType
from typing import Any

from mxcheck.kernels.compiled.library import switched_off
from validation.faults.fault_code import compiled, plain_function, rewrite_tree, tree_of
from validation.faults.fault_place import Function, Step, located

#: Groups of faults, in the order of tables.
GROUPS = (
    "element cast",
    "scale",
    "block and axis",
    "layout",
    "conversion",
    "attention and experts",
    "loading",
    "evaluation",
    "measuring",
    "state and size",
    "gate",
    "record keeping",
    "callers",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """Replace the code at one place of a function.

    The function object stays the same and gets other code, so that every reference to it sees the change.

    Attributes:
        target: `package.module:function` or `package.module:Class.method`.
        at: the steps to the place (`fault_place`). None: the whole body except the docstring.
        to: the new code: an expression for an expression, statements for a statement or a body. The name `it`
            in it stands for the old code: `it + 1`, or `it` on a line of its own before or after a statement.
            It may use the names that the function knows.
    """

    target: str
    at: tuple[Step, ...]
    to: str


def rewrite(target: str, *at: Step, to: str) -> tuple[Rewrite]:
    """Return one `Rewrite`, as the `changes` of a fault."""
    return (Rewrite(target=target, at=at, to=to),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Bind a name of a module, or an attribute of a class, to another value.

    Attributes:
        target: `package.module:NAME` or `package.module:Class.attribute`: the place where the value is looked
            up, which differs from its origin if it was imported by name.
        value: computes the new value from the old one.
    """

    target: str
    value: Callable[[Any], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault of the catalogue.

    Attributes:
        name: lower case with underscores, unique.
        group: one of `GROUPS`.
        what: the error, in one sentence.
        source: where this error has occurred, or what makes it likely.
        changes: the required changes; usually one.
        formats: affected formats: the kernel suite runs their cells.
        options: options of a model run that reach it, where the default ones do not (`--mx-attention`).
        precisions: the precisions of the ladder that the model suite runs.
        survives: why it is not detected, where a run has shown that it is not.
        unseen: written by somebody who had not read the checks, before any run searched for it. Such faults
            are counted separately: a check may have been written for each of the others.
    """

    name: str
    group: str
    what: str
    source: str
    changes: tuple[Rewrite | Setting, ...]
    formats: tuple[str, ...] = ("fp8_e4m3", "fp4_e2m1")
    options: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ("mxfp8_e4m3", "mxfp4_e2m1")
    survives: str = ""
    unseen: bool = False


@contextmanager
def applied(fault: Fault) -> Iterator[None]:
    """Apply the fault to the program while the context lasts.

    Results computed and cached before stay as they were; a separate process for each fault avoids them.
    Raises ValueError, naming the fault, where a change does not fit the code any more.
    """
    trees: dict[FunctionType, Function] = {}
    with ExitStack() as stack:
        stack.enter_context(
            switched_off()
        )  # faults are put into Python: what is compiled would not have them
        for change in fault.changes:
            try:
                match change:
                    case Setting():
                        stack.enter_context(_set(change))
                    case Rewrite():
                        stack.enter_context(_rewritten(change, trees))
            except (ValueError, AttributeError, ImportError, OSError, SyntaxError) as error:
                raise ValueError(f"fault {fault.name}: {change.target}: {error}") from error
        yield


@contextmanager
def _set(change: Setting) -> Iterator[None]:
    owner, name = _owner(change.target)
    before = getattr(owner, name)
    setattr(owner, name, change.value(before))
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def _rewritten(change: Rewrite, trees: dict[FunctionType, Function]) -> Iterator[None]:
    """Apply a `Rewrite`. `trees` holds the functions that the fault has changed: a later change of one adds
    to an earlier."""
    owner, name = _owner(change.target)
    function = plain_function(inspect.getattr_static(owner, name))
    tree = trees.setdefault(function, tree_of(function))
    rewrite_tree(tree, located(tree, change.at), change.to)
    before = function.__code__
    function.__code__ = compiled(tree, function)
    try:
        yield
    finally:
        function.__code__ = before


def _owner(target: str) -> tuple[Any, str]:
    """Return the module or class that has the name, and the name."""
    module, _, path = target.partition(":")
    owner: Any = import_module(module)
    *outer, name = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    return owner, name
