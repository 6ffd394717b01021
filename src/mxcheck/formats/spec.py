"""Specification of a cast: everything that decides its bits, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from mxcheck.formats.blocks import BLOCK_FORMATS, E8M0, BlockFormat, block_format
from mxcheck.formats.choices import choose
from mxcheck.formats.elements import ElementFormat
from mxcheck.formats.scale_rules import RULES

#: Rules by which amax gives an E8M0 scale.
E8M0_RULES: tuple[str, ...] = tuple(RULES)
#: Includes the one rule of the formats whose scale is no power of two.
SCALE_RULES: tuple[str, ...] = (*E8M0_RULES, "amax")
ROUNDINGS: tuple[str, ...] = ("even", "away", "zero", "stochastic")
TAILS: tuple[str, ...] = ("pad", "error")
NONFINITE: tuple[str, ...] = ("block", "element")

#: Random integers of stochastic rounding lie in [0, 2^RANDOM_BITS).
RANDOM_BITS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class CastSpec:
    """A cast. A kernel under test gets it as its second argument.

    Attributes:
        format: a name of `mxcheck.formats.blocks.BLOCK_FORMATS`; a name of the field (`mxfp8`) is translated
            to ours.
        axis: the axis that blocks run along; negative counts from the last one. (Ignored with one scale per
            tensor.)
        block_size: elements that share one scale (OCP MX v1.0, section 5.2: 32; NVFP4: 16). None for the
            formats with a scale per row or tensor, and only for them.
        scale_rule: how a block's largest magnitude, amax, gives the exponent s of an E8M0 scale, clamped to
            [-127, 127]. With emax and max the exponent and the value of the largest element:
            `floor`: floor(log2 amax) - emax (OCP MX v1.0, section 6.3); `ceil`: ceil(log2 amax) - emax;
            `even`: `floor` of amax rounded to the element's precision, ties up; `rceil`: the least s with
            amax <= max * 2^s; `reciprocal` (FP8 elements; Transformer Engine): the least s with
            fp32(amax * fp32(1 / max)) <= 2^s, which is one less than `rceil` at the one amax just above
            max * 2^-127. `amax`: amax / max, for the formats whose scale is no power of two.
        rounding: of an element between two codes: `even` to nearest, ties to even; `away` to nearest, ties
            away from zero; `zero` towards zero; `stochastic` up in magnitude with the probability of the
            remainder: where remainder / step + r / 2^32 >= 1, r being the element's random integer.
        tail: what happens where `block_size` does not divide the axis: `pad` treats the last block as padded
            with zeros and cuts the result back, `error` refuses.
        nonfinite: what a NaN or an Inf does. `block`: everything that shares its scale becomes NaN (E8M0:
            scale code FF). `element` (FP8 elements with E8M0 scales): a NaN stays in its element and the
            others are scaled by the amax of the rest; an Inf gives scale code FE and saturates.
        random: for `stochastic`, an integer in [0, 2^32) for each element, in an array or tensor (int64) of
            the input's shape; not part of the cast's identity.

    Raises:
        ValueError: a value that is not allowed; one line with the allowed ones and the nearest match.
    """

    format: str
    axis: int = -1
    block_size: int | None = 32
    scale_rule: str = "floor"
    rounding: str = "even"
    tail: str = "pad"
    nonfinite: str = "block"
    random: Any = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        block = block_format(self.format)
        object.__setattr__(self, "format", block.name)
        choose(f"scale rule of {self.format}", self.scale_rule, block.scale_rules)
        choose("rounding", self.rounding, ROUNDINGS)
        choose("tail", self.tail, TAILS)
        choose("NaN/Inf policy", self.nonfinite, NONFINITE)
        if not isinstance(self.axis, int) or isinstance(self.axis, bool):
            raise ValueError(f"axis must be an integer, got {self.axis!r}")
        self._check_block_size(block)
        if block.scale != E8M0 and self.rounding != "even":
            raise ValueError(f"{self.format} is defined with rounding 'even' only, got {self.rounding!r}")
        fp8 = block.element.name.startswith("fp8_")
        if self.nonfinite == "element" and not (fp8 and block.scale == E8M0):
            raise ValueError(
                f"the NaN/Inf policy 'element' (dialect te) is defined for fp8_e4m3 and fp8_e5m2 only, "
                f"got {self.format}; use 'block'"
            )

    def _check_block_size(self, block: BlockFormat) -> None:
        if block.scale == E8M0:
            # bool is an int, but block_size=True is a mistake
            if not isinstance(self.block_size, int) or isinstance(self.block_size, bool):
                raise ValueError(f"block size must be an integer, got {self.block_size!r}")
            if self.block_size < 1:
                raise ValueError(f"block size must be at least 1, got {self.block_size}")
        elif (type(self.block_size), self.block_size) != (type(block.block_size), block.block_size):
            raise ValueError(
                f"{self.format} has the block size {block.block_size}, got {self.block_size!r}; leave "
                f"block_size out (of a CastSpec itself: give {block.block_size})"
            )

    @property
    def block(self) -> BlockFormat:
        """The data of `format`."""
        return BLOCK_FORMATS[self.format]

    @property
    def element(self) -> ElementFormat:
        """The element format of `format`."""
        return BLOCK_FORMATS[self.format].element


def cast_spec(format: str, **given: Any) -> CastSpec:
    """Build a CastSpec, with the defaults of `format` for what is not given.

    Args:
        format: a name of `BLOCK_FORMATS`.
        given: other fields of `CastSpec`; None for `block_size` and `scale_rule` means not given.

    Raises:
        ValueError: as `CastSpec`.
    """
    block = block_format(format)
    own = {"block_size": block.block_size, "scale_rule": block.scale_rules[0]}
    given = {name: value for name, value in given.items() if value is not None or name not in own}
    return CastSpec(format=format, **{**own, **given})


#: name -> options that it bundles. OCP MX v1.0 leaves zero blocks, the clamps of the scale, NaN and Inf open:
#: for these the dialect is the reference, not the specification. `te` is Transformer Engine since 2.13.
DIALECTS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        name: MappingProxyType(
            {
                "scale_rule": rule.name,
                "rounding": choose(f"rounding of the dialect {name}", rounding, ROUNDINGS),
                "nonfinite": choose(f"NaN/Inf policy of the dialect {name}", nonfinite, NONFINITE),
            }
        )
        for rule in RULES.values()
        for name, (rounding, nonfinite) in rule.dialects.items()
    }
)


def dialect(name: str) -> dict[str, Any]:
    """Return scale rule, rounding and NaN/Inf policy of a named dialect, as keyword arguments of a cast:
    `mxcheck.quantize(x, "fp8_e4m3", **mxcheck.dialect("te"))`.

    Raises:
        ValueError: no such dialect; names the allowed ones and the nearest match.
    """
    return dict(DIALECTS[choose("dialect", name, DIALECTS)])


def block_count(length: int, spec: CastSpec) -> int:
    """Return the number of blocks, and so of scales, along an axis of `length` elements.

    Raises:
        ValueError: `tail` is `error` and the block size does not divide `length`.
    """
    if spec.block_size is None:
        return 1
    if spec.tail == "error" and length % spec.block_size:
        raise ValueError(
            f"axis {spec.axis} has {length} elements, which blocks of {spec.block_size} do not divide, "
            f"and tail='error' refuses that; tail='pad' would fill the last block up with zeros"
        )
    return -(-length // spec.block_size)


def resolve_axis(dimensions: int, axis: int) -> int:
    """Return `axis` counted from the first of `dimensions` axes.

    Raises:
        ValueError: there is no such axis.
    """
    if not -dimensions <= axis < dimensions:
        raise ValueError(
            f"axis {axis} is out of range for an array of {dimensions} dimensions; "
            + (f"allowed: {-dimensions} to {dimensions - 1}" if dimensions else "it has none to block along")
        )
    return axis % dimensions


def scales_shape(shape: tuple[int, ...], spec: CastSpec) -> tuple[int, ...]:
    """Return the shape of the scales of an input of `shape`: all 1 where the whole tensor shares one scale,
    else the input's with the block axis of length `block_count`.

    Raises:
        ValueError: no such axis; a ragged tail that the spec refuses.
    """
    axis = resolve_axis(len(shape), spec.axis)
    if spec.block.whole_tensor:
        return (1,) * len(shape)
    return (*shape[:axis], block_count(shape[axis], spec), *shape[axis + 1 :])
