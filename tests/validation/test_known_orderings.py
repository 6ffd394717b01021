"""Orderings of known costs: all are right on this code, and a fault is seen."""

from __future__ import annotations

import pytest

from validation.faults.catalogued import catalogue
from validation.faults.fault import applied
from validation.known_verdicts.known_orderings import missed_orderings


def test_these_orderings_are_sound() -> None:
    assert list(missed_orderings()) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("any_order_will_do", "holds is judged wrong where an exception that shows reversed is known"),
        ("order_by_its_mean_alone", "costs that show undecided are taken for holds"),
        ("order_of_the_arguments", "costs that show holds are taken for reversed"),
    ],
)
def test_a_fault_is_seen(name: str, words: str) -> None:
    with applied(catalogue()[name]):
        said = next(missed_orderings())
    assert said.startswith(words)
    assert "\n" not in said
