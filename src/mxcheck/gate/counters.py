"""Counters of a case's casts, as plain data: saturated and flushed elements, and scales, by operand.

A loss shows that something changed; counters show where and how: `12 % of activations of
layers.3.mlp.down_proj saturated (accepted 0 %)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

#: Operands of a module in the order of tables: of its linear products, then of both products of attention.
OPERANDS = ("weights", "activations", "queries", "keys", "probabilities", "values")


@dataclass(frozen=True, slots=True, kw_only=True)
class Absent:
    """The reason why an operand could not be counted."""

    reason: str

    def __post_init__(self) -> None:
        if not isinstance(self.reason, str) or not self.reason:
            raise ValueError(f"absent must give a reason, got {self.reason!r}; say why it was not counted")


@dataclass(frozen=True, slots=True, kw_only=True)
class OperandCounts:
    """Totals over the casts of one operand. All count elements, except the last two fields.

    Attributes:
        elements: elements cast.
        saturated: finite before the cast, and beyond the format's largest value at their scale.
        flushed: not zero before the cast, zero after it.
        top: with the code of the largest magnitude.
        nan: NaN before the cast.
        inf: infinite before the cast.
        zero_blocks: blocks (rows, tensors: what shares a scale) that are zero after the cast.
        scales: scale code -> number of blocks; absent where the scale is an fp32 number.

    Raises:
        ValueError: an invalid count, or counts that cannot be true together.
    """

    elements: int
    saturated: int
    flushed: int
    top: int
    nan: int
    inf: int
    zero_blocks: int
    scales: Mapping[int, int] | Absent

    def __post_init__(self) -> None:
        for name in _NUMBERS:
            _check_count(name, getattr(self, name), self.elements)
        if self.elements < 1:
            raise ValueError("elements must be at least 1, got 0; an operand that was never cast is absent")
        for pair in (("flushed", "top"), ("nan", "inf")):
            together = sum(getattr(self, name) for name in pair)
            if together > self.elements:
                raise ValueError(
                    f"{' and '.join(pair)} are {together} together, more than the {self.elements} elements; "
                    f"no element can be both"
                )
        if isinstance(self.scales, Absent):
            return
        for code, number in self.scales.items():
            if type(code) is not int or not 0 <= code <= 0xFF:
                raise ValueError(f"a scale code is {code!r}; allowed: 0 to 255")
            _check_count(f"scales[{code}]", number, self.elements)
        if not self.zero_blocks <= sum(self.scales.values()) <= self.elements:
            raise ValueError(
                f"scales count {sum(self.scales.values())} blocks; allowed: from the {self.zero_blocks} zero "
                f"blocks to the {self.elements} elements"
            )

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        if isinstance(self.scales, Absent):
            return {**numbers, "scales": {"absent": self.scales.reason}}
        return {**numbers, "scales": {str(code): number for code, number in sorted(self.scales.items())}}


_NUMBERS = tuple(field.name for field in fields(OperandCounts) if field.name != "scales")

#: module -> operand (of `OPERANDS`) -> its counts, or why they are absent.
Operands: TypeAlias = Mapping[str, Mapping[str, OperandCounts | Absent]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """The counters of a case.

    Attributes:
        operands: by module and operand. Weights are counted once, activations in one small pass.
        expert_rows: experts module -> rows of activations in each expert's first product.
    """

    operands: Operands
    expert_rows: Mapping[str, tuple[int, ...]]

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "operands": {
                module: {operand: _plain(counts) for operand, counts in found.items()}
                for module, found in self.operands.items()
            },
            "expert_rows": {module: list(rows) for module, rows in self.expert_rows.items()},
        }


def _plain(counts: OperandCounts | Absent) -> dict[str, Any]:
    return {"absent": counts.reason} if isinstance(counts, Absent) else counts.as_dict()


def counters_from_dict(data: object) -> Counters:
    """Decode the output of `Counters.as_dict`.

    Raises:
        ValueError: in one line, with the place: missing or unknown names, an invalid count, or counts that
            cannot be true together.
    """
    table = _table("counters", data, ("operands", "expert_rows"))
    operands = {
        module: {
            operand: _counts(f"counters of {module}, {operand}", counts)
            for operand, counts in _table(f"counters of {module}", found, OPERANDS, some=True).items()
        }
        for module, found in _table("operands", table["operands"]).items()
    }
    rows = {}
    for module, numbers in _table("expert_rows", table["expert_rows"]).items():
        if not isinstance(numbers, list) or not numbers:
            raise ValueError(f"expert_rows of {module} must be a list of counts, got {numbers!r:.40}")
        for number in numbers:
            _check_count(f"expert_rows of {module}", number)
        rows[module] = tuple(numbers)
    return Counters(operands=operands, expert_rows=rows)


def _counts(what: str, data: object) -> OperandCounts | Absent:
    if isinstance(data, dict) and data.keys() == {"absent"}:
        return Absent(reason=data["absent"])
    table = _table(what, data, (*_NUMBERS, "scales"))
    scales = _table(f"{what}, scales", table["scales"])
    try:
        if scales.keys() == {"absent"}:
            return OperandCounts(**{**table, "scales": Absent(reason=scales["absent"])})
        return OperandCounts(**{**table, "scales": {_code(key): number for key, number in scales.items()}})
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error


def _code(key: str) -> int:
    if not key.isascii() or not key.isdecimal() or str(int(key)) != key:
        raise ValueError(f"a scale code is {key!r:.40}; allowed: 0 to 255, in decimal digits")
    return int(key)


def _table(
    what: str, data: object, names: tuple[str, ...] | None = None, *, some: bool = False
) -> dict[str, Any]:
    """Return `data` as a dict whose keys are strings: all of `names` (`some`: at least one), and no
    others."""
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise ValueError(f"{what} must be a table by name, got {data!r:.40}")
    if names is not None:
        missing, unknown = sorted(set(names) - data.keys()), sorted(data.keys() - set(names))
        if unknown or (missing and not (some and data)):
            raise ValueError(
                f"{what}: missing {', '.join(missing) or 'none'}, unknown {', '.join(unknown) or 'none'}; "
                f"allowed: {', '.join(names)}"
            )
    return data


def _check_count(name: str, number: object, most: int | None = None) -> None:
    if type(number) is not int or number < 0 or (most is not None and number > most):
        allowed = "at least 0" if most is None else f"0 to {most}, the elements"
        raise ValueError(f"{name} must be a whole number, got {number!r:.40}; allowed: {allowed}")
