"""A fault is in the code while it is applied, wherever the code lives, and gone after."""

from __future__ import annotations

from collections.abc import Callable

import code_to_edit
import pytest
from code_to_edit import Thing, plain

from mxcheck.sensitivity.fault import Edit, Fault, Setting, applied


def fault(*changes: Edit | Setting) -> Fault:
    return Fault(name="one", group="gate", what="Wrong.", source="made up", changes=changes)


def edit(name: str, old: str = "+ 1", new: str = "+ 2") -> Fault:
    return fault(Edit(target=f"code_to_edit:{name}", old=old, new=new))


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
def test_an_edit_changes_code_and_is_taken_back(
    name: str, call: Callable[[], float], right: float, wrong: float
) -> None:
    assert call() == right
    with applied(edit(name)):
        assert call() == wrong
    assert call() == right


def test_other_names_of_a_function_see_the_edit() -> None:
    with applied(edit("plain")):
        assert plain(1) == 3


def test_a_cache_is_not_emptied() -> None:
    """Why every fault has a process of its own."""
    code_to_edit.cached.cache_clear()
    assert code_to_edit.cached(1) == 2
    with applied(edit("cached")):
        assert (code_to_edit.cached(1), code_to_edit.cached(5)) == (2, 7)
    code_to_edit.cached.cache_clear()


def test_free_variables_are_kept() -> None:
    with applied(edit("closure", "value * factor", "value * factor + factor")):
        assert code_to_edit.closure(2) == 9
    assert code_to_edit.closure(2) == 6


def test_a_setting_is_made_from_the_value_that_stands_there() -> None:
    with applied(fault(Setting(target="code_to_edit:BOUND", value=lambda bound: 10 * bound))):
        assert code_to_edit.limited(39)
    assert not code_to_edit.limited(39)


def test_a_setting_of_a_class() -> None:
    with applied(fault(Setting(target="code_to_edit:Thing.unit", value=lambda _: 0.0))):
        assert Thing().figure == 1
    assert Thing().figure == 11


def test_changes_are_taken_back_after_an_error() -> None:
    with pytest.raises(KeyError), applied(edit("plain")):
        raise KeyError
    assert plain(1) == 2


def test_what_was_applied_is_taken_back_where_a_later_change_does_not_fit() -> None:
    stale = fault(*edit("plain").changes, *edit("Thing.method", "no such text").changes)
    with pytest.raises(ValueError, match="no such text"), applied(stale):
        pass
    assert plain(1) == 2


@pytest.mark.parametrize(
    ("stale", "message"),
    [
        (edit("plain", "+ 3"), "occurs 0 times"),
        (edit("plain", "value"), "occurs 2 times"),
        (edit("gone"), "gone"),
        (edit("Thing"), "no function written in Python, but type"),
        (edit("plain", "+ 1", "+ "), "invalid syntax"),
        (edit("closure", "value * factor", "value"), "free variables"),
        (fault(Setting(target="code_to_edit:GONE", value=float)), "GONE"),
        (fault(Setting(target="no_such_module:X", value=float)), "no_such_module"),
    ],
    ids=["lost", "ambiguous", "name", "class", "syntax", "free", "setting", "module"],
)
def test_a_change_that_does_not_fit_is_refused_with_its_names(stale: Fault, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught, applied(stale):
        pass
    assert str(caught.value).startswith(f"fault one: {stale.changes[0].target}: ")
