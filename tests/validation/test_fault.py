"""A fault is in the code while it is applied, wherever the code lives, and gone after."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import code_to_edit
import pytest
from code_to_edit import Thing, plain

from validation.faults.fault import Fault, Rewrite, Setting, applied, rewrite
from validation.faults.fault_place import (
    Function,
    Step,
    argument,
    assignment,
    call,
    choice,
    comparison,
    condition,
    constant,
    entry,
    function,
    located,
    loop,
    mention,
    operation,
    returned,
    statement,
    value,
)


def fault(*changes: Rewrite | Setting) -> Fault:
    return Fault(name="one", group="gate", what="Wrong.", source="made up", changes=changes)


def added(name: str) -> tuple[Rewrite]:
    return rewrite(f"code_to_edit:{name}", returned(), to="it + 1")


def one_more(name: str) -> Fault:
    return fault(*added(name))


@pytest.mark.parametrize(
    ("name", "call", "right", "wrong"),
    [
        ("plain", lambda: code_to_edit.plain(1), 2, 3),
        ("decorated", lambda: code_to_edit.decorated(1), 4, 6),
        ("Thing.method", lambda: Thing().method(1), 2, 3),
        ("Thing.figure", lambda: Thing().figure, 11, 12),
        ("Thing.kept", lambda: Thing().kept, 11, 12),
        ("Thing.static", lambda: Thing.static(1), 2, 3),
        ("Thing.of_class", lambda: Thing.of_class(1), 12, 13),
    ],
    ids=["function", "decorated", "method", "property", "cached property", "static", "class"],
)
def test_a_rewrite_changes_code_and_is_taken_back(
    name: str, call: Callable[[], float], right: float, wrong: float
) -> None:
    assert call() == right
    with applied(one_more(name)):
        assert call() == wrong
    assert call() == right


def test_other_names_of_a_function_see_the_rewrite() -> None:
    with applied(one_more("plain")):
        assert plain(1) == 3


def test_a_cache_is_not_emptied() -> None:
    """Why every fault has a process of its own."""
    code_to_edit.cached.cache_clear()
    assert code_to_edit.cached(1) == 2
    with applied(one_more("cached")):
        assert (code_to_edit.cached(1), code_to_edit.cached(5)) == (2, 7)
    code_to_edit.cached.cache_clear()


def test_free_variables_are_kept() -> None:
    with applied(fault(*rewrite("code_to_edit:closure", returned(), to="it + factor"))):
        assert code_to_edit.closure(2) == 9
    assert code_to_edit.closure(2) == 6


def test_a_later_rewrite_of_a_function_adds_to_an_earlier() -> None:
    with applied(fault(*added("plain"), *added("plain"))):
        assert plain(1) == 4
    assert plain(1) == 2


def test_an_error_points_to_the_line_of_its_place() -> None:
    source = Path(code_to_edit.__file__).read_text().splitlines()
    with (
        applied(fault(*rewrite("code_to_edit:plain", returned(), to="it / 0"))),
        pytest.raises(ZeroDivisionError) as caught,
    ):
        plain(1)
    assert source[caught.traceback[-1].lineno].strip() == "return value + 1"


def test_a_setting_is_made_from_the_value_that_stands_there() -> None:
    with applied(fault(Setting(target="code_to_edit:BOUND", value=lambda bound: 10 * bound))):
        assert code_to_edit.limited(39)
    assert not code_to_edit.limited(39)


def test_a_setting_of_a_class() -> None:
    with applied(fault(Setting(target="code_to_edit:Thing.unit", value=lambda _: 0.0))):
        assert Thing().figure == 1
    assert Thing().figure == 11


def test_changes_are_taken_back_after_an_error() -> None:
    with pytest.raises(KeyError), applied(one_more("plain")):
        raise KeyError
    assert plain(1) == 2


def test_what_was_applied_is_taken_back_where_a_later_change_does_not_fit() -> None:
    stale = fault(*added("plain"), *rewrite("code_to_edit:Thing.method", value("gone"), to="1"))
    with pytest.raises(ValueError, match="no value gone"), applied(stale):
        pass
    assert plain(1) == 2


def in_plain(*at: Step, to: str) -> Fault:
    return fault(*rewrite("code_to_edit:plain", *at, to=to))


@pytest.mark.parametrize(
    ("stale", "message"),
    [
        (in_plain(call("sum"), to="1"), "no call sum; of this kind there: none"),
        (one_more("gone"), "gone"),
        (one_more("Thing"), "no function written in Python, but type"),
        (in_plain(returned(), to="it + "), "invalid syntax"),
        (in_plain(returned(), to="it; it"), "invalid syntax"),
        (in_plain(returned(), to="value + 1"), "stands there already"),
        (in_plain(returned(), to="it + added"), "names that it does not know: added"),
        (in_plain(returned(), statement(), to="return it"), "names that it does not know: it"),
        (fault(*rewrite("code_to_edit:closure", returned(), to="value")), "free variables"),
        (fault(Setting(target="code_to_edit:GONE", value=float)), "GONE"),
        (fault(Setting(target="no_such_module:X", value=float)), "no_such_module"),
    ],
    ids=[
        *("lost", "name", "class", "syntax", "statements for an expression", "no change", "unknown name"),
        *("it in an expression", "free", "setting", "module"),
    ],
)
def test_a_change_that_does_not_fit_is_refused_with_its_names(stale: Fault, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught, applied(stale):
        pass
    assert str(caught.value).startswith(f"fault one: {stale.changes[0].target}: ")


# Places, each by every kind of step. What is found is shown as text.

TEXT = '''
@decorated(first=1)
def example(x: Tensor, y: Tensor = call_of(0)) -> Tensor:
    """What it does."""
    size: int = x.shape[0]
    self.size, *rest = measure(x, 2, mode="own", **options)
    table[size] = 3
    size += 4
    if size > limit and x.any():
        x = scale(x).scale(factors[size](x))
    while running["now"]:
        running = False
    for one in sorted(rest):
        use(one)
    names = [name for name in self.names if name not in table]
    flags = {row: check(row) for row in rows}
    chosen = a if size == 1 else b
    figures = {"kl": -x, 2: y, **more}

    def inner(value):
        """Inside."""
        for unit in units:
            return [adapt(value, unit)]

    act = lambda z: apply(z)
    if empty:
        return None
    return x * y - size / 2
'''


def _id(case: object) -> str:
    return "-".join(map(str, case)) or "body" if isinstance(case, tuple) else str(case).replace("\n", "; ")


def tree(text: str = TEXT) -> Function:
    (found,) = ast.parse(text).body
    assert isinstance(found, Function)
    return found


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ((call("measure"),), "measure(x, 2, mode='own', **options)"),
        ((call("scale", nth=1),), "scale(x).scale(factors[size](x))"),
        ((call("scale", nth=2),), "scale(x)"),
        ((call("factors"),), "factors[size](x)"),
        ((call("apply"),), "apply(z)"),
        ((call("measure"), argument(2)), "2"),
        ((call("measure"), argument("mode")), "'own'"),
        ((argument("**"),), "options"),
        ((assignment("size", nth=1),), "size: int = x.shape[0]"),
        ((assignment("size", nth=2),), "size += 4"),
        ((assignment("self.size"),), "self.size, *rest = measure(x, 2, mode='own', **options)"),
        ((assignment("rest"), call("measure"), argument(1)), "x"),
        ((assignment("table[]"),), "table[size] = 3"),
        ((value("size", nth=1),), "x.shape[0]"),
        ((value("size", nth=2),), "4"),
        ((value("table[]"),), "3"),
        ((returned(nth=2),), "x * y - size / 2"),
        ((condition("limit"),), "size > limit and x.any()"),
        ((condition("any"), mention("size")), "size"),
        ((condition("running"),), "running['now']"),
        ((condition("now"),), "running['now']"),
        ((condition("table"),), "name not in table"),
        ((choice("size"),), "a if size == 1 else b"),
        ((comparison("limit"),), "size > limit"),
        ((operation("and"),), "size > limit and x.any()"),
        ((operation("-"),), "x * y - size / 2"),
        ((operation("-"), operation("/")), "size / 2"),
        ((mention("shape"),), "x.shape"),
        ((mention("limit"),), "limit"),
        ((constant("own"),), "'own'"),
        ((constant(False),), "False"),
        ((entry("kl"),), "-x"),
        ((entry("2"),), "y"),
        ((function("inner"), call("adapt"), argument(2)), "unit"),
        ((function("inner"), returned(), loop()), "units"),
        ((call("use"), statement()), "use(one)"),
        ((call("use"), loop()), "sorted(rest)"),
        ((condition("table"), loop()), "self.names"),
        ((call("check"), loop()), "rows"),
        ((constant(4), statement(), value("size")), "4"),
    ],
    ids=_id,
)
def test_a_path_leads_to_one_place(path: tuple[Step, ...], found: str) -> None:
    assert ast.unparse(located(tree(), path)) == found


def test_no_step_leads_to_the_function_and_one_to_a_function_inside() -> None:
    example = tree()
    assert located(example, ()) is example
    inner = located(example, (function("inner"),))
    assert isinstance(inner, ast.FunctionDef)
    assert inner.name == "inner"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ((call("adapt"),), "no call adapt; of this kind there: measure, any, scale, factors, sorted, use"),
        (
            (call("measure"), argument(3)),
            "no argument 3 in call measure; of this kind there: 1, 2, mode, \\*\\*",
        ),
        ((mention("Tensor"),), "no mention of Tensor"),
        ((call("call_of"),), "no call call_of"),
        ((argument("first"),), "no argument first"),
        ((constant("What it does"),), "no constant 'What it does'"),
        ((constant(0.0),), "no constant 0.0"),
        ((value("self"),), "no value self; of this kind there: size, self.size, rest, table"),
        ((function("outer"),), "no function outer; of this kind there: inner; mend the path"),
        ((call("measure"), loop()), "no loop around it in call measure; of this kind there: none"),
        ((call("sorted"), loop()), "no loop around it in call sorted"),
        ((assignment("size"),), "2 times assignment size, in lines 5, 8, wanted one; narrow the path, or"),
        ((returned(),), "2 times returned value, in lines 27, 28, wanted one"),
        ((returned(nth=3),), "returned value number 3: there are 2, in lines 27, 28; allowed: 1 to 2"),
        ((returned(nth=0),), "returned value number 0: there are 2"),
        ((condition("limit"), operation("or")), "no operation or in condition on limit; .* there: and;"),
    ],
    ids=_id,
)
def test_a_path_that_leads_nowhere_or_to_several_is_refused(path: tuple[Step, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        located(tree(), path)


# What a place may become, and what may change around it.

CODE = '''
def rule(x, low=0):
    """The rule."""
    start = x + low
    if start > 3:
        start = min(start, 9)
    spare = 1
    return 2 * start + spare
'''

#: The same, in other words: lines broken, comments, other names for what no fault of below names, more code.
REFORMATTED = '''
def unrelated(): ...

def rule(
    x,
    low=0,
):
    """The rule, in
    other words."""
    checked = [x]  # start = x + low
    start = (
        x
        + low
    )
    if (start
            > 3):  # the bound
        start = min(
            start, 9,
        )

    other = 1
    del checked
    return (2 * start
            + other)
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Makes a module of a text, named `rules`."""

    def made(text: str) -> ModuleType:
        path = tmp_path / f"rules{len(text)}.py"
        path.write_text(text, encoding="utf-8")
        spec = importlib.util.spec_from_file_location("rules", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "rules", module)
        spec.loader.exec_module(module)
        return module

    return made


@pytest.mark.parametrize("text", [CODE, REFORMATTED], ids=["as it was", "reformatted and renamed"])
@pytest.mark.parametrize(
    ("path", "to", "result"),
    [
        ((), "return 7", 7),
        ((), "x = 10\nit", 19),
        ((value("start", nth=1),), "it * 2", 19),
        ((assignment("start", nth=2),), "it\nstart += 5", 23),
        ((assignment("start", nth=2),), "start += 5\nit", 19),
        ((assignment("start", nth=2),), "pass", 13),
        ((condition("start"),), "False", 13),
        ((condition("start"),), "not it", 13),
        ((condition("start"), statement()), "if low:\n    it\nelse:\n    start = 0", 1),
        ((comparison("start"),), "start < 3", 13),
        ((call("min"), argument(2)), "5", 11),
        ((call("min"), argument(2)), "it - 5", 9),
        ((call("min"),), "max(start, 9)", 19),
        ((operation("*"),), "it * it", 145),
        ((returned(), operation("+")), "2 * start", 12),
        ((returned(), mention("start")), "low", 1),
        ((constant(2),), "3", 19),
    ],
    ids=_id,
)
def test_a_place_becomes_other_code_however_it_is_written(
    module: Callable[[str], ModuleType], text: str, path: tuple[Step, ...], to: str, result: int
) -> None:
    rules = module(text)
    assert rules.rule(6) == 13
    with applied(fault(Rewrite(target="rules:rule", at=path, to=to))):
        assert rules.rule(6) == result
        assert rules.rule.__doc__.startswith("The rule")
    assert rules.rule(6) == 13


def test_a_renamed_variable_that_new_code_uses_is_named(module: Callable[[str], ModuleType]) -> None:
    module(REFORMATTED)
    uses = fault(*rewrite("rules:rule", returned(), to="start + spare"))
    with pytest.raises(ValueError, match="names that it does not know: spare"), applied(uses):
        pass


def test_a_file_that_changed_since_it_was_imported_is_refused(module: Callable[[str], ModuleType]) -> None:
    rules = module(CODE)
    assert rules.__file__ is not None
    Path(rules.__file__).write_text("# a line more\n" + CODE, encoding="utf-8")
    stale = fault(*rewrite("rules:rule", to="return 7"))
    with pytest.raises(ValueError, match="defines no rule in line 2"), applied(stale):
        pass


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def rule(it):\n    return 2 * it\n", "has a variable 'it', which here means the code"),
        ("rule = lambda x: 2 * x\n", "defines no <lambda> in line 1"),
        ("exec('def rule(): return 2')\n", "could not get source code"),
        ("from math import sqrt as rule\n", "no function written in Python, but builtin_function_or_method"),
    ],
    ids=["own it", "lambda", "no file", "builtin"],
)
def test_a_function_that_cannot_be_rewritten_says_why(
    module: Callable[[str], ModuleType], text: str, message: str
) -> None:
    module(text)
    with (
        pytest.raises(ValueError, match=f"fault one: rules:rule: .*{message}"),
        applied(fault(*rewrite("rules:rule", to="return 7"))),
    ):
        pass
