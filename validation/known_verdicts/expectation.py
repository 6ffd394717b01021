"""Examples of what surrounds the six steps: calls, and what they must give, written down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What a call must give."""

    name: str
    what: str
    found: Callable[[], object]
    expected: object


def expect(name: str, what: str, found: Callable[[], object], expected: object) -> Expectation:
    return Expectation(name=name, what=what, found=found, expected=expected)
