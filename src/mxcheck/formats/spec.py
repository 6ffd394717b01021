"""What a cast to an MX format has to do: everything that decides its bits, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from mxcheck.formats.choices import choose
from mxcheck.formats.elements import ElementFormat, element_format

SCALE_RULES: tuple[str, ...] = ("floor",)
ROUNDINGS: tuple[str, ...] = ("even",)
TAILS: tuple[str, ...] = ("pad", "error")


@dataclass(frozen=True, slots=True, kw_only=True)
class CastSpec:
    """One cast. A kernel under test gets it as its second argument.

    Attributes:
        format: name of an element format (`mxcheck.formats.elements.ELEMENT_FORMATS`).
        axis: the axis that blocks run along; negative counts from the last one.
        block_size: elements that share one E8M0 scale (OCP MX v1.0, section 5.2: 32).
        scale_rule: how a block's largest magnitude gives the scale; `floor` is OCP MX v1.0, section 6.3.
        rounding: how an element between two codes is rounded; `even` is to nearest, ties to even.
        tail: what happens where `block_size` does not divide the axis: `pad` treats the last block as if
            filled up with zeros and cuts the result back, `error` refuses.

    Raises:
        ValueError: a value that is not allowed, in one line with the allowed ones and the nearest match.
    """

    format: str
    axis: int = -1
    block_size: int = 32
    scale_rule: str = "floor"
    rounding: str = "even"
    tail: str = "pad"

    def __post_init__(self) -> None:
        element_format(self.format)
        choose("scale rule", self.scale_rule, SCALE_RULES)
        choose("rounding", self.rounding, ROUNDINGS)
        choose("tail", self.tail, TAILS)
        # bool is an int, and axis=True is a slip of the keyboard
        for what, number in (("axis", self.axis), ("block size", self.block_size)):
            if not isinstance(number, int) or isinstance(number, bool):
                raise ValueError(f"{what} must be an integer, got {number!r}")
        if self.block_size < 1:
            raise ValueError(f"block size must be at least 1, got {self.block_size}")

    @property
    def element(self) -> ElementFormat:
        """The data of `format`."""
        return element_format(self.format)


def block_count(length: int, spec: CastSpec) -> int:
    """Number of blocks, and so of scales, along an axis of `length` elements.

    Raises:
        ValueError: `tail` is `error` and the block size does not divide `length`.
    """
    if spec.tail == "error" and length % spec.block_size:
        raise ValueError(
            f"axis {spec.axis} has {length} elements, which blocks of {spec.block_size} do not divide, "
            f"and tail='error' refuses that; tail='pad' would fill the last block up with zeros"
        )
    return -(-length // spec.block_size)


def resolve_axis(dimensions: int, axis: int) -> int:
    """`axis` counted from the first of `dimensions` axes.

    Raises:
        ValueError: there is no such axis.
    """
    if not -dimensions <= axis < dimensions:
        raise ValueError(
            f"axis {axis} is out of range for an array of {dimensions} dimensions; "
            + (f"allowed: {-dimensions} to {dimensions - 1}" if dimensions else "it has none to block along")
        )
    return axis % dimensions
