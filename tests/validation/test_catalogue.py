"""The catalogue fits the code, and is what it says: many faults, in every group."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from types import CodeType
from typing import Any

import pytest

from validation.faults.catalogued import assembled, catalogue, chosen_faults
from validation.faults.fault import GROUPS, Fault, Rewrite, Setting, applied, rewrite
from validation.faults.fault_code import plain_function
from validation.faults.fault_place import constant, mention

FAULTS = catalogue()
ONE = Fault(
    name="one",
    group="scale",
    what="Wrong.",
    source="made up",
    changes=rewrite("mxcheck.gate.statistics:rms", mention("fmean"), to="sum"),
)


def standing(target: str) -> Any:
    """What stands at the target of a change: the bare function, or the value."""
    module, _, path = target.partition(":")
    *outer, name = path.split(".")
    owner = import_module(module)
    for part in outer:
        owner = getattr(owner, part)
    return inspect.getattr_static(owner, name)


def instructions(code: CodeType) -> Iterator[object]:
    """What the code does, and the code inside it; not where it was written."""
    yield code.co_code, code.co_names, code.co_varnames, code.co_freevars
    for one in code.co_consts:
        yield from instructions(one) if isinstance(one, CodeType) else [repr(one)]


def in_force(fault: Fault) -> list[object]:
    """What each change of the fault changes, as it is now."""
    return [
        list(instructions(plain_function(standing(change.target)).__code__))
        if isinstance(change, Rewrite)
        else repr(standing(change.target))
        for change in fault.changes
    ]


@pytest.mark.parametrize("name", FAULTS)
def test_applies_changes_something_and_is_taken_back(name: str) -> None:
    fault = FAULTS[name]
    before = in_force(fault)
    for _ in range(2):  # its places are there again after the first time
        with applied(fault):
            assert all(now != then for now, then in zip(in_force(fault), before, strict=True))
        assert in_force(fault) == before


def test_a_change_that_compiles_to_the_same_would_be_seen() -> None:
    idle = replace(ONE, changes=rewrite("code_to_edit:plain", constant(1), to="3 - 2"))
    before = in_force(idle)
    with applied(idle):
        assert in_force(idle) == before
    with applied(ONE):
        assert in_force(ONE) != before


def test_nothing_quotes_the_code_that_it_changes() -> None:
    kinds = {type(change) for fault in FAULTS.values() for change in fault.changes}
    assert kinds == {Rewrite, Setting}


def test_there_are_eighty_and_some_in_each_group() -> None:
    sizes = Counter(fault.group for fault in FAULTS.values())
    assert sum(sizes.values()) >= 80
    assert list(sizes) == list(GROUPS)
    assert min(sizes.values()) >= 5


@pytest.mark.parametrize("name", FAULTS)
def test_says_what_it_is(name: str) -> None:
    fault = FAULTS[name]
    assert name == fault.name
    assert name.isidentifier()
    assert name == name.lower()
    assert fault.what.endswith(".")
    assert fault.source
    assert fault.changes


@pytest.mark.parametrize(
    ("by_group", "message"),
    [
        ({"scale": [ONE, ONE]}, "fault one is there twice"),
        ({"layout": [ONE]}, "its group is 'scale', its file that of 'layout'"),
        ({"scale": [replace(ONE, formats=("fp8",))]}, "unknown format of fault one 'fp8'"),
        ({"scale": [replace(ONE, precisions=("fp8",))]}, "unknown precision of fault one 'fp8'"),
    ],
    ids=["twice", "group", "format", "precision"],
)
def test_a_catalogue_that_is_not_in_order_is_refused(by_group: dict[str, list[Fault]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        assembled(by_group)


def test_faults_are_chosen_by_name_and_group() -> None:
    every = assembled({"scale": [ONE], "layout": [replace(ONE, name="two", group="layout")]})
    assert [fault.name for fault in chosen_faults(every)] == ["one", "two"]
    assert [fault.name for fault in chosen_faults(every, names=["two"])] == ["two"]
    assert [fault.name for fault in chosen_faults(every, names=["two"], groups=["scale"])] == ["one", "two"]
    with pytest.raises(ValueError, match="unknown fault 'three'"):
        chosen_faults(every, names=["three"])
    with pytest.raises(ValueError, match="unknown group 'gates'"):
        chosen_faults(every, groups=["gates"])
