"""Examples for the surroundings of the six steps: calls with the results that they must return."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """The required result of a call."""

    name: str
    what: str
    found: Callable[[], object]
    expected: object


def expect(name: str, what: str, found: Callable[[], object], expected: object) -> Expectation:
    return Expectation(name=name, what=what, found=found, expected=expected)
