"""The sweeps of an exhaustive run: over every bit pattern of fp32. Torch- and numpy-free."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from mxcheck.formats.blocks import block_format
from mxcheck.formats.choices import choose
from mxcheck.formats.elements import ELEMENT_FORMATS, element_format
from validation.second_oracle.bit_tables import TABLE_ROUNDINGS

#: Our kernels that can be held against the oracle on every one of them; `cpp` on a CPU alone.
KERNELS = ("eager", "cpp")
#: Every bit pattern of fp32.
ALL_INPUTS = range(1 << 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """One cast of ours, on every fp32 number.

    Attributes:
        format: a name of `ELEMENT_FORMATS`.
        rounding: one of `TABLE_ROUNDINGS`.
        scale_rule: None for the element cast alone, at scale 1. Else each input is a block of its own and so
            also the amax: every amax goes through the scale rule and the division by the scale.
        kernel: one of `KERNELS`.
    """

    format: str
    rounding: str = "even"
    scale_rule: str | None = None
    kernel: str = "eager"

    @property
    def name(self) -> str:
        """`fp8_e4m3-element-away`; `fp8_e4m3-block-rceil`; `fp8_e4m3-block-rceil-cpp`."""
        what = f"element-{self.rounding}" if self.scale_rule is None else f"block-{self.scale_rule}"
        return f"{self.format}-{what}" + ("" if self.kernel == "eager" else f"-{self.kernel}")


def sweeps(formats: Iterable[str] = (), kernel: str = "eager") -> tuple[Sweep, ...]:
    """Return all sweeps of these formats (none named: of all) by one of `KERNELS`, the commonest casts first.

    Raises:
        ValueError: no such format or kernel; names the allowed ones and the nearest match.
    """
    choose("kernel", kernel, KERNELS)
    names = [element_format(name).name for name in formats] or list(ELEMENT_FORMATS)
    names = list(dict.fromkeys(names))
    first = [[Sweep(format=name), Sweep(format=name, scale_rule="floor")] for name in names]
    rules = [
        [Sweep(format=name, scale_rule=rule) for rule in block_format(name).scale_rules if rule != "floor"]
        for name in names
    ]
    others = [[Sweep(format=name, rounding=rounding) for rounding in TABLE_ROUNDINGS[1:]] for name in names]
    return tuple(replace(sweep, kernel=kernel) for group in (*first, *rules, *others) for sweep in group)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Difference:
    """An input on which a cast and the oracle differ. Codes: (element), or (scale, element) of a block."""

    bits: int
    got: tuple[int, ...]
    expected: tuple[int, ...]

    def __str__(self) -> str:
        return f"input {self.bits:08x}: got {_codes(self.got)}, expected {_codes(self.expected)}"


def _codes(codes: tuple[int, ...]) -> str:
    names = ("scale ", "code ") if len(codes) == 2 else ("code ",)
    return ", ".join(f"{name}{code:02x}" for name, code in zip(names, codes, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResult:
    """Result of a sweep, or of part of it.

    Attributes:
        compared: number of inputs.
        excluded: number of NaN inputs left out, as the format has no code for them.
        mismatches: number of inputs that differ.
        first: the first of them by their bits, at most `MOST_SHOWN`.
        seconds: sum over the processes that compared.
    """

    sweep: Sweep
    compared: int = 0
    excluded: int = 0
    mismatches: int = 0
    first: tuple[Difference, ...] = ()
    seconds: float = 0.0

    def __add__(self, other: SweepResult) -> SweepResult:
        """Add two parts of one sweep."""
        assert self.sweep == other.sweep
        return SweepResult(
            sweep=self.sweep,
            compared=self.compared + other.compared,
            excluded=self.excluded + other.excluded,
            mismatches=self.mismatches + other.mismatches,
            first=tuple(sorted(self.first + other.first)[:MOST_SHOWN]),
            seconds=self.seconds + other.seconds,
        )


MOST_SHOWN = 8
