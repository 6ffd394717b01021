"""Functions of every kind that a fault may change."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, cached_property, wraps

BOUND = 4.0


def plain(value: float) -> float:
    return value + 1


def limited(value: float) -> bool:
    return value < BOUND


def _twice(function: Callable[[float], float]) -> Callable[[float], float]:
    @wraps(function)
    def both(value: float) -> float:
        return 2 * function(value)

    return both


@_twice
def decorated(value: float) -> float:
    return value + 1


@cache
def cached(value: float) -> float:
    return value + 1


def _scaled_by(factor: float) -> Callable[[float], float]:
    def scaled(value: float) -> float:
        return value * factor

    return scaled


closure = _scaled_by(3)


class Thing:
    unit = 10.0

    def method(self, value: float) -> float:
        return value + 1

    @property
    def figure(self) -> float:
        return self.unit + 1

    @cached_property
    def kept(self) -> float:
        return self.unit + 1

    @staticmethod
    def static(value: float) -> float:
        return value + 1

    @classmethod
    def of_class(cls, value: float) -> float:
        return cls.unit + value + 1
