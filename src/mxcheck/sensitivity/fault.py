"""A fault: a small, named change of the real code, applied while the program runs and taken back after."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import CodeType, FunctionType
from typing import Any

#: Where faults live, in the order of tables.
GROUPS = (
    "element cast",
    "scale",
    "block and axis",
    "layout",
    "conversion",
    "attention and experts",
    "loading",
    "evaluation",
    "gate",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """One piece of a function's source replaced by another.

    The function stays the same object and gets other code, so that every name for it sees the change.

    Attributes:
        target: `package.module:function` or `package.module:Class.method`.
        old: a piece of its source that occurs in it exactly once.
        new: what stands there instead.
    """

    target: str
    old: str
    new: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A name of a module, or an attribute of a class, bound to another value.

    Attributes:
        target: `package.module:NAME` or `package.module:Class.attribute`: where the value is looked up, which
            is not where it comes from if it was imported by name.
        value: the other value, made from the one that stands there.
    """

    target: str
    value: Callable[[Any], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault of the catalogue.

    Attributes:
        name: lower case with underscores, unique.
        group: one of `GROUPS`.
        what: what is wrong, in one sentence.
        source: where it has gone wrong like this, or what makes it likely.
        changes: what has to be changed for it; usually one.
        formats: the formats that it concerns: the kernel suite runs their cells.
        options: options of a model run that reach it, where the plain ones do not (`--mx-attention`).
        precisions: the steps of the ladder that the model suite runs.
        survives: why it is not caught, where a run has shown that it is not.
    """

    name: str
    group: str
    what: str
    source: str
    changes: tuple[Edit | Setting, ...]
    formats: tuple[str, ...] = ("fp8_e4m3", "fp4_e2m1")
    options: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ("fp8_e4m3", "fp4_e2m1")
    survives: str = ""


@contextmanager
def applied(fault: Fault) -> Iterator[None]:
    """The program with the fault in it, for as long as the context lasts.

    What was computed and kept before stays as it was; a process of its own for each fault is on the safe
    side. Raises ValueError, naming the fault, where a change does not fit the code any more.
    """
    with ExitStack() as stack:
        for change in fault.changes:
            try:
                stack.enter_context(_edited(change) if isinstance(change, Edit) else _set(change))
            except (ValueError, AttributeError, ImportError, SyntaxError) as error:
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
def _edited(change: Edit) -> Iterator[None]:
    owner, name = _owner(change.target)
    function = _function(inspect.getattr_static(owner, name))
    source = textwrap.dedent(inspect.getsource(function))
    if (count := source.count(change.old)) != 1:
        raise ValueError(f"{change.old!r} occurs {count} times in its source, not once; mend the catalogue")
    before = function.__code__
    function.__code__ = _compiled(source.replace(change.old, change.new), function)
    try:
        yield
    finally:
        function.__code__ = before


def _owner(target: str) -> tuple[Any, str]:
    """The module or class that has the name, and the name."""
    module, _, path = target.partition(":")
    owner: Any = import_module(module)
    *outer, name = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    return owner, name


def _function(found: Any) -> FunctionType:
    """The plain function behind decorators and descriptors."""
    if isinstance(found, property):
        found = found.fget
    found = getattr(found, "func", found)  # cached_property
    found = inspect.unwrap(getattr(found, "__func__", found))
    if not isinstance(found, FunctionType):
        raise ValueError(f"no function written in Python, but {type(found).__name__}")
    return found


def _compiled(source: str, function: FunctionType) -> CodeType:
    """The code of a function's changed source, with the free variables that it had.

    A function takes no code with other free variables, so it is compiled where such names are in scope.
    """
    names = function.__code__.co_freevars
    lines = ["from __future__ import annotations", "def scope():", *(f"    {name} = None" for name in names)]
    text = "\n".join([*lines, textwrap.indent(source, "    ")])
    file = function.__code__.co_filename
    compiled = compile(text, file, "exec", dont_inherit=True)
    for code in _nested(compiled):
        if code.co_name == function.__name__:
            if code.co_freevars != names:
                raise ValueError(f"has free variables {names}, its change {code.co_freevars}")
            return code
    raise ValueError("its source holds no function of that name")


def _nested(code: CodeType) -> Iterator[CodeType]:
    """The code objects inside, outermost first."""
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    for one in inner:
        yield one
    for one in inner:
        yield from _nested(one)
