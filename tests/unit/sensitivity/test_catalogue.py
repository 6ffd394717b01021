"""The catalogue fits the code, and is what it says: many faults, in every group."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from mxcheck.sensitivity.catalogued import assembled, catalogue, chosen_faults
from mxcheck.sensitivity.fault import GROUPS, Edit, Fault, applied

FAULTS = catalogue()
ONE = Fault(
    name="one",
    group="scale",
    what="Wrong.",
    source="made up",
    changes=(Edit(target="mxcheck.gate.statistics:rms", old="fmean", new="sum"),),
)


@pytest.mark.parametrize("name", FAULTS)
def test_applies_and_is_taken_back(name: str) -> None:
    with applied(FAULTS[name]):
        pass
    with applied(FAULTS[name]):  # the text that it replaces stands there again
        pass


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
