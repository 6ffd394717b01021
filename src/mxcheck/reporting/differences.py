"""A kernel's result for a cast, and its differences from the oracle."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mxcheck.formats.blocks import E4M3, E8M0
from mxcheck.formats.codes import E8M0_BIAS, E8M0_NAN, code_values
from mxcheck.formats.notation import round_to
from mxcheck.formats.real_scales import NVFP4_BLOCK_SCALE
from mxcheck.formats.spec import CastSpec
from mxcheck.reporting.derivation import Cast, scale_value
from mxcheck.reporting.numbers import binary, decimal, power

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Got:
    """A kernel's result: codes and scales, or values.

    Attributes:
        codes: uint8, x's shape; None where the kernel returned values.
        scales: one for each block, in the order of `Cast.blocks`.
        tensor_scale: float32, for NVFP4.
        values: float32 (of a 16-bit result upcast), x's shape; None where the kernel returned codes.
    """

    spec: CastSpec
    codes: NDArray[np.uint8] | None = None
    scales: NDArray[np.generic] | None = None
    tensor_scale: NDArray[np.float32] | None = None
    values: NDArray[np.float32] | None = None

    def bits(self, place: int) -> int:
        """Return the bits of an element of the flattened x."""
        if self.codes is not None:
            return int(self.codes.ravel()[place])
        assert self.values is not None
        return int(self.values.ravel().view(np.uint32)[place])

    def columns(self, layout: str) -> list[str]:
        """Return the headers of `cells`."""
        return ["got", layout, "its value"] if self.codes is not None else ["got", "fp32"]

    def cells(self, place: int, block: int, *, wrong: bool) -> list[str]:
        """Return the cells of an element of the flattened x, marked where it is wrong."""
        mark = "≠ " if wrong else "  "
        bits = self.bits(place)
        if self.codes is None:
            assert self.values is not None
            return [mark + decimal(float(self.values.ravel()[place])), f"{bits:08x}"]
        if bits >= 2 * self.spec.element.sign_bit:
            return [f"{mark}{bits:02X}", "no code", ""]
        assert self.scales is not None
        value = code_values(self.spec.element)[bits] * scale_value(
            self.scales[block], self.tensor_scale, self.spec
        )
        return [f"{mark}{bits:02X}", binary(self.spec.element, bits), decimal(value)]

    def scale_text(self, block: int) -> str:
        """Format a block's scale: its code or bits, and its value."""
        assert self.scales is not None
        number = self.scales[block]
        if self.spec.block.scale == E8M0:
            return f"{int(number):02X} = " + ("NaN" if number == E8M0_NAN else power(int(number) - E8M0_BIAS))
        if self.spec.block.scale == E4M3:
            return f"block scale {int(number):02X} = {decimal(code_values(NVFP4_BLOCK_SCALE)[int(number)])}"
        return f"{decimal(float(number))} ({int(np.asarray(number).view(np.uint32)):08x})"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Differences:
    """Marks of the differences between a result and the oracle.

    Attributes:
        elements: x's shape, for codes or values.
        scales: one for each block, in the order of `Cast.blocks`.
        tensor_scale: for NVFP4.
        values: whether values were compared instead of codes and scales.
    """

    elements: Bools
    scales: Bools
    tensor_scale: bool
    values: bool

    @property
    def any(self) -> bool:
        return bool(self.tensor_scale or self.scales.any() or self.elements.any())

    def summary(self, spec: CastSpec) -> str:
        """Summarize in one line."""
        what = "values" if self.values else "codes"
        if not self.any:
            scales = "" if self.values else f" and {self.scales.size} scales"
            return f"every bit is right ({self.elements.size} {what}{scales})"
        parts = [f"{int(self.elements.sum())} of {self.elements.size} {what}"]
        if not self.values:
            parts.append(f"{int(self.scales.sum())} of {self.scales.size} scales")
        if spec.block.scale == E4M3 and self.tensor_scale:
            parts.append("the tensor scale")
        return f"{', '.join(parts[:-1])} and {parts[-1]} differ" if len(parts) > 1 else f"{parts[0]} differ"


def differences(done: Cast, got: Got, dtype: str) -> Differences:
    """Compare by bits: 0 and -0 differ, NaNs equal each other, and codes under a scale that must be NaN are
    ignored. Values are compared in `dtype`: rounded to float32, then to it."""
    none = np.zeros(len(done.blocks), np.bool_)
    if got.values is not None:
        expected = round_to(done.values, dtype)
        return Differences(
            elements=_floats_differ(got.values, expected), scales=none, tensor_scale=False, values=True
        )
    assert got.codes is not None
    assert got.scales is not None
    tensor_scale = bool(
        done.tensor_scale is not None
        and got.tensor_scale is not None
        and _floats_differ(got.tensor_scale, done.tensor_scale).any()
    )
    scales = (
        _floats_differ(got.scales, done.scales) if got.scales.dtype == np.float32 else _scale_codes(done, got)
    )
    meaningless = np.zeros(done.x.size, np.bool_)
    for block, places in enumerate(done.blocks):
        meaningless[places] = math.isnan(done.scale(block))
    values = np.array(code_values(done.spec.element) + (0.0,) * 256)
    both_nan = np.isnan(values[got.codes]) & np.isnan(values[done.codes])
    return Differences(
        elements=(got.codes != done.codes) & ~both_nan & ~meaningless.reshape(done.x.shape),
        scales=scales,
        tensor_scale=tensor_scale,
        values=False,
    )


def _scale_codes(done: Cast, got: Got) -> Bools:
    assert got.scales is not None
    if done.tensor_scale is not None and np.isnan(done.tensor_scale):
        return np.zeros(len(done.blocks), np.bool_)
    return np.asarray(got.scales != done.scales)


def _floats_differ(got: NDArray[Any], expected: NDArray[Any]) -> Bools:
    bits = np.ascontiguousarray(got).view(np.uint32) != np.ascontiguousarray(expected).view(np.uint32)
    return np.asarray(bits.reshape(np.shape(got)) & ~(np.isnan(got) & np.isnan(expected)))
