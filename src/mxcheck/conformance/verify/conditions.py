"""Conditions under which a mismatch shows, and which of them OCP MX v1.0 leaves open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntFlag, auto
from types import MappingProxyType

from mxcheck.formats.blocks import E8M0
from mxcheck.formats.spec import CastSpec

#: Values of an fp32-scaled format that differ in the last place: reported, but not wrong.
LAST_BIT = "last bit"
#: Kinds of mismatch, in the order of reports.
KINDS = ("error", "scale", "code", "value", "nan", "zero sign", LAST_BIT)


Index = tuple[int, ...]


class Condition(IntFlag):
    """Conditions under which a mismatch may show."""

    # Of the call
    BFLOAT16 = auto()
    FLOAT16 = auto()
    BLOCK_SIZE = auto()
    AXIS = auto()
    STRIDES = auto()
    RANK = auto()
    ONE_ROW = auto()
    MANY_ROWS = auto()
    SEVERAL_BLOCKS = auto()
    MANY_BLOCKS = auto()
    WHOLE_TILES = auto()
    # Of what shares a scale
    BEHIND = auto()
    TAIL = auto()
    NAN_IN_BLOCK = auto()
    INF_IN_BLOCK = auto()
    ZERO_BLOCK = auto()
    CLAMPED_BELOW = auto()
    CLAMPED_ABOVE = auto()
    LOWEST_SCALE = auto()
    THRESHOLD = auto()
    SCALE_UNDERFLOW = auto()
    SCALE_TIE = auto()
    # Of the element
    NAN = auto()
    INF = auto()
    ZERO = auto()
    NEGATIVE = auto()
    TIE = auto()
    NEAR_TIE = auto()
    CARRY = auto()
    SATURATED = auto()
    SUBNORMAL = auto()
    TO_ZERO = auto()
    SUBNORMAL_INPUT = auto()


C = Condition
#: The words for messages.
WORDS: Mapping[Condition, str] = MappingProxyType(
    {
        C.NAN: "NaN",
        C.INF: "Inf",
        C.NAN_IN_BLOCK: "NaN in the block",
        C.INF_IN_BLOCK: "Inf in the block",
        C.ZERO_BLOCK: "zero block",
        C.CLAMPED_BELOW: "scale clamped below",
        C.CLAMPED_ABOVE: "scale clamped above",
        C.LOWEST_SCALE: "lowest scale",
        C.SCALE_UNDERFLOW: "scale underflows",
        C.THRESHOLD: "threshold of the scale",
        C.SCALE_TIE: "tie of the block scale",
        C.TIE: "tie",
        C.NEAR_TIE: "close to a tie",
        C.CARRY: "carry to the next binade",
        C.SATURATED: "saturation",
        C.SUBNORMAL: "subnormal element",
        C.TO_ZERO: "rounds to zero",
        C.SUBNORMAL_INPUT: "subnormal input",
        C.ZERO: "zero",
        C.NEGATIVE: "negative",
        C.BFLOAT16: "bfloat16 input",
        C.FLOAT16: "float16 input",
        C.BLOCK_SIZE: "other block size",
        C.AXIS: "not the last axis",
        C.TAIL: "ragged tail",
        C.STRIDES: "strides",
        C.RANK: "3 axes or more",
        C.ONE_ROW: "a single row",
        C.MANY_ROWS: "more than 16 rows",
        C.SEVERAL_BLOCKS: "several blocks",
        C.MANY_BLOCKS: "more than 8 blocks in a row",
        C.BEHIND: "behind the first block",
        C.WHOLE_TILES: "whole tiles of 128",
    }
)
NOT_FINITE = C.NAN | C.INF | C.NAN_IN_BLOCK | C.INF_IN_BLOCK
#: Conditions of the call, not of its numbers.
OF_CALL = Condition(2 * int(C.TAIL) - 1)
#: Conditions that follow from the shape alone.
OF_SHAPE = C.ONE_ROW | C.MANY_ROWS | C.SEVERAL_BLOCKS | C.MANY_BLOCKS | C.WHOLE_TILES
_CLAMPED = C.CLAMPED_BELOW | C.CLAMPED_ABOVE
#: Conditions under which OCP MX v1.0 leaves the result open.
OPEN = NOT_FINITE | C.ZERO_BLOCK | C.CLAMPED_BELOW | C.CLAMPED_ABOVE | C.SCALE_UNDERFLOW


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """Mismatches of one comparison that look alike.

    Attributes:
        kind: one of `KINDS`.
        effect: one of `EFFECTS`; for an error its message without numbers.
        conditions: all conditions under which they show.
        codes: bit c is set where code c was expected (of an element without its sign, or of a scale); 0 where
            that is no code.
        count: number of mismatches.
        place: index of the mismatch whose block has the exponent nearest to 0; for a scale, of its first
            element.
    """

    kind: str
    effect: str
    conditions: Condition
    codes: int
    count: int
    place: Index


def is_open(sighting: Sighting, spec: CastSpec) -> bool:
    """Return whether OCP MX v1.0 leaves the right result open: for zero blocks, the scale's clamps, NaN and
    Inf, and -128 in mxint8. An error is never open; nor is a scale that is not next to the clamp, such as 2^0
    for numbers of 2^-126, which become zeros. Where scales have a significand, their last bit is open too,
    and so is an element whose quotient is so close to a tie that fp32 cannot tell the two apart."""
    if sighting.kind in ("error", LAST_BIT):
        return False
    inexact = sighting.effect == "last place" or C.NEAR_TIE in sighting.conditions
    conditions = sighting.conditions
    # The code above 2^127 is NaN.
    neighbour = sighting.effect in ("one up", "one down") or (
        sighting.effect == "NaN" and C.CLAMPED_ABOVE in conditions
    )
    if sighting.kind == "scale" and not neighbour:
        conditions &= ~_CLAMPED
    silent = bool(conditions & OPEN) or sighting.effect == "-128"
    return silent or (spec.block.scale != E8M0 and inexact)


def in_words(conditions: Condition) -> str:
    """`tie, negative`; "" for none. A condition that another one implies is left out."""
    told = conditions
    for one, implied in _IMPLIED.items():
        if one in conditions:
            told &= ~implied
    return ", ".join(words for one, words in WORDS.items() if one in told)


_IMPLIED: Mapping[Condition, Condition] = MappingProxyType(
    {
        C.NAN: C.NAN_IN_BLOCK,
        C.INF: C.INF_IN_BLOCK,
        C.ZERO_BLOCK: C.ZERO,
        C.CLAMPED_BELOW: C.LOWEST_SCALE,
        C.BEHIND: C.SEVERAL_BLOCKS,
        C.MANY_BLOCKS: C.SEVERAL_BLOCKS,
        C.WHOLE_TILES: C.MANY_ROWS | C.SEVERAL_BLOCKS,
    }
)
