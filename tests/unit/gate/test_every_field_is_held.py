"""Whatever a record says is held by something: each number and word of it is changed, alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from sample_record import build_full_record

from mxcheck.gate.bounds_tables import Bounds
from mxcheck.gate.decision import Accepted, decide
from mxcheck.gate.record import record_from_dict
from mxcheck.gate.update import Update

ACCEPTED = build_full_record()
WIDE = Bounds(kl=1.0, rise=1.0)

#: What may change alone, and why.
FREE = {
    "environment": "it says what a figure was made with, and explains a red case",
    "noise": "a run measures none: it is the baseline's, under its seal",
    "arithmetic": "another machine: that alone is nothing wrong",
    "size": "of a layer's update by the reference: it tells a machine whose layers have other arithmetic",
}

#: What is refused by its form, whatever was accepted; so that nothing of it need be held.
MALFORMED = {"kind": "one of few words", "subject": "a case of kind recipe has none"}
#: Fields of which the sample has no part, and what holds them.
EMPTY = {
    "options": "the recipe, which every option changes",
    "unconverted": "the modules that were converted, which it lacks",
    "metrics": "test_verdict_metrics.py",
    "absent": "the known records of step 3",
}


def leaves(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each number and word."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield from leaves(value, (*path, key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from leaves(value, (*path, index))
    else:
        yield path


def other(value: Any) -> Any:
    """Another value of the same type, as near as a fault may bring it."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value + 1e-6
    return f"{value}x"


def changed(path: tuple[Any, ...]) -> dict[str, Any]:
    data = copy.deepcopy(ACCEPTED.as_dict())
    place = data
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = other(place[path[-1]])
    return data


def outcome(path: tuple[Any, ...]) -> str:
    """What becomes of a record that was changed there: `malformed` is one that no gate would see."""
    try:
        record = record_from_dict(changed(path))
        return decide(record, Accepted(record=ACCEPTED), WIDE, Update()).result.word
    except ValueError as error:
        return "contradicts itself" if "the record contradicts itself: " in str(error) else "malformed"


ALL = list(leaves(ACCEPTED.as_dict()))
PATHS = [path for path in ALL if FREE.keys().isdisjoint(path)]


def test_nothing_changes_nothing() -> None:
    record = record_from_dict(copy.deepcopy(ACCEPTED.as_dict()))
    assert decide(record, Accepted(record=ACCEPTED), WIDE, Update()).result.word == "pass"


@pytest.mark.parametrize("field", list(dict.fromkeys(path[0] for path in PATHS)))
def test_no_part_of_a_field_changes_alone(field: str) -> None:
    free = ["/".join(map(str, path)) for path in PATHS if path[0] == field and outcome(path) == "pass"]
    assert free == []


@pytest.mark.parametrize("field", FREE)
def test_what_is_free_is_there(field: str) -> None:
    paths = [path for path in ALL if field in path]
    assert any(outcome(path) == "pass" for path in paths)


def test_what_is_refused_by_its_form_proves_nothing_and_is_counted() -> None:
    """A None would be among them: any other value has another type."""
    malformed = [path for path in PATHS if outcome(path) == "malformed"]
    assert [path[0] for path in malformed] == list(MALFORMED)


def test_fields_without_a_part_are_known() -> None:
    assert ACCEPTED.as_dict().keys() - {path[0] for path in ALL} == EMPTY.keys()
