"""Write inputs of a cast as command-line words, and read them: for `mxcheck explain` and for failures.

An input is written as float32 bit patterns, because decimal numbers do not easily give the same bits twice;
bf16 and fp16 inputs as the patterns of the same values in float32. A run of equal words is one word with `*`
and its length.
"""

from __future__ import annotations

import itertools
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from fractions import Fraction
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from mxcheck.formats.choices import choose
from mxcheck.formats.codes import decode, encode
from mxcheck.formats.elements import ElementFormat
from mxcheck.formats.spec import RANDOM_BITS, CastSpec, cast_spec

Float32 = NDArray[np.float32]

#: Limit of elements: a larger number in `*n` would be a typing error, and would exhaust the memory.
MAX_ELEMENTS = 1 << 22

_INPUTS: Mapping[str, ElementFormat] = MappingProxyType(
    {
        name: ElementFormat(
            name=name,
            exponent_bits=exponent_bits,
            mantissa_bits=mantissa_bits,
            bias=(1 << (exponent_bits - 1)) - 1,
            inf_magnitudes=frozenset({((1 << exponent_bits) - 1) << mantissa_bits}),
        )
        for name, exponent_bits, mantissa_bits in (("float32", 8, 23), ("bfloat16", 8, 7), ("float16", 5, 10))
    }
)
#: dtypes of an input
DTYPES: tuple[str, ...] = tuple(_INPUTS)

_HEX = re.compile(r"(?:0x)?([0-9a-f]{1,8})(?:\*([0-9]+))?", re.IGNORECASE)
_DECIMAL = re.compile(r"([0-9]+)(?:\*([0-9]+))?")


def parse_hex(words: Sequence[str], dtype: str = "float32") -> Float32:
    """Return the values of these bit patterns, one-dimensional.

    Args:
        words: patterns of float32, 1 to 8 hexadecimal digits, with or without 0x; `P*n` is n times P.
        dtype: a name of `DTYPES`, which must hold the values exactly.

    Raises:
        ValueError: a word that is not a pattern; a value that `dtype` does not hold; more than
            `MAX_ELEMENTS`.
    """
    choose("dtype", dtype, DTYPES)
    allowed = "1 to 8 hexadecimal digits of a float32 pattern, and *n for n times it, as in 3f800000 or 0*30"
    bits = _repeated(words, _HEX, 16, "bit pattern", allowed)
    x = np.array(bits, np.uint32).view(np.float32)
    same = (round_to(x, dtype).view(np.uint32) == x.view(np.uint32)) | np.isnan(x)
    if not same.all():
        wrong = x[~same][:1]
        raise ValueError(
            f"{_pattern(wrong.view(np.uint32)[0])} ({wrong[0]}) is not a value of {dtype}; give the float32 "
            f"pattern of one, such as {_pattern(round_to(wrong, dtype).view(np.uint32)[0])}, or use "
            f"--dtype float32"
        )
    return x


def hex_words(x: Float32) -> list[str]:
    """Return the words that `parse_hex` reads as x, flattened."""
    words = map(_pattern, x.ravel().view(np.uint32).tolist())
    return _run_lengths(list(words))


def parse_values(words: Sequence[str], dtype: str = "float32") -> Float32:
    """Return the values of decimal numbers, each rounded once to `dtype`, to nearest, ties to even.

    Args:
        words: numbers as Python writes them, and nan, inf, -inf.
        dtype: a name of `DTYPES`.

    Raises:
        ValueError: a word that is not a number, or exceeds the largest value of `dtype`.
    """
    target = _INPUTS[choose("dtype", dtype, DTYPES)]
    return np.array([_value(word, target) for word in words], np.float32)


def _value(word: str, target: ElementFormat) -> float:
    word = word.strip()
    try:
        near = float(word)
    except ValueError:
        raise ValueError(
            f"{word!r} is not a number; allowed: decimal numbers such as 0.1 or -3e5, nan, inf, -inf "
            f"(bit patterns go after --hex)"
        ) from None
    if math.isnan(near) or not near:
        return near
    infinite = word.lower().lstrip("+-").startswith("inf")
    # From half a step above the largest value on, nearest-even gives Inf.
    beyond = Fraction(target.max_value) + Fraction(2) ** (target.emax - target.mantissa_bits - 1)
    if not infinite and (math.isinf(near) or abs(Fraction(word)) >= beyond):
        raise ValueError(
            f"{word} is too large for {target.name}, whose largest value is {target.max_value:.8g}; "
            f"write inf for infinity"
        )
    if infinite:
        return near
    # float() has rounded already; round the number itself once.
    code = encode(target, Fraction(word), negative=False)
    return math.copysign(float(decode(target, code)), near)


def parse_random(words: Sequence[str], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Parse random integers for stochastic rounding: decimal, `r*n` for n times r.

    Raises:
        ValueError: a word that is not such an integer; another count than the input's elements.
    """
    allowed = f"integers from 0 to 2^{RANDOM_BITS} - 1, and *n for n times one, as in 7 or 0*30"
    numbers = _repeated(words, _DECIMAL, 10, "random integer", allowed)
    if max(numbers, default=0) >= 1 << RANDOM_BITS:
        raise ValueError(f"{max(numbers)} is no random integer; allowed: {allowed}")
    if len(numbers) != math.prod(shape):
        raise ValueError(
            f"stochastic rounding takes a random integer for each element: got {len(numbers)} for "
            f"{math.prod(shape)} elements; give as many after --random (r*n is n times r)"
        )
    return np.array(numbers, np.int64).reshape(shape)


def parse_shape(text: str, size: int) -> tuple[int, ...]:
    """Parse a shape such as `32x1`, for `size` elements.

    Raises:
        ValueError: not a shape, or one of another size.
    """
    if not re.fullmatch(r"[0-9]+([x,][0-9]+)*", text.strip()):
        raise ValueError(f"{text!r} is no shape; allowed: lengths with x between, as in 32x1 or 64")
    shape = tuple(map(int, re.split("[x,]", text.strip())))
    if math.prod(shape) != size:
        raise ValueError(
            f"shape {text} has {math.prod(shape)} elements, got {size} values; give as many, or another shape"
        )
    return shape


def round_to(x: NDArray[np.float32] | NDArray[np.float64], dtype: str) -> Float32:
    """Round x to float32, then to `dtype`, to nearest, ties to even; overflow becomes Inf."""
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        single = x.astype(np.float32)
        if dtype == "float16":
            return single.astype(np.float16).astype(np.float32)
    if dtype == "float32":
        return single
    bits = single.view(np.uint32)
    upper = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(single), np.float32(np.nan), upper.view(np.float32))


def reproduction(x: Float32, spec: CastSpec, *, dtype: str = "float32", kernel: str | None = None) -> str:
    """Return the shell command that shows the cast of x by `kernel`: `mxcheck explain …`, without defaults.

    Args:
        x: float32, at least one axis, not empty; the values of a bf16 or fp16 input, upcast.
        spec: the cast; with its random integers if the rounding is stochastic.
        dtype: the input's own dtype: a name of `DTYPES`.
        kernel: a name for `mxcheck.kernels.api.resolve_kernel`; None for the expected bits alone.

    Raises:
        ValueError: x has no axis or no element; stochastic rounding without random integers.
    """
    if not x.shape or not x.size:
        raise ValueError(f"a cast needs an axis and an element to be reproduced, got shape {x.shape}")
    words = ["mxcheck", "explain", spec.format, "--hex", *hex_words(x)]
    if x.ndim != 1:
        words += ["--shape", "x".join(map(str, x.shape))]
    if dtype != "float32":
        words += ["--dtype", choose("dtype", dtype, DTYPES)]
    usual = cast_spec(spec.format)
    for name in ("axis", "block_size", "scale_rule", "rounding", "tail", "nonfinite"):
        value = getattr(spec, name)
        if value != getattr(usual, name):
            words += [f"--{name.replace('_', '-')}", str(value)]
    if spec.rounding == "stochastic":
        if spec.random is None:
            raise ValueError("stochastic rounding is reproduced with its random integers, got none")
        words += ["--random", *_run_lengths([str(value) for value in np.asarray(spec.random).ravel()])]
    if kernel is not None:
        words += ["--kernel", kernel]
    return shlex.join(words)


def _pattern(bits: int) -> str:
    return f"{bits:08x}" if bits else "0"


def _run_lengths(words: list[str]) -> list[str]:
    runs = [(word, len(list(run))) for word, run in itertools.groupby(words)]
    return [word if count == 1 else f"{word}*{count}" for word, count in runs]


def _repeated(words: Sequence[str], form: re.Pattern[str], base: int, what: str, allowed: str) -> list[int]:
    runs: list[tuple[int, int]] = []
    for word in words:
        match = form.fullmatch(word.strip())
        if match is None or (match[2] and not int(match[2])):
            raise ValueError(f"{word!r} is no {what}; allowed: {allowed}")
        runs.append((int(match[1], base), int(match[2] or 1)))
    total = sum(count for _, count in runs)
    if total > MAX_ELEMENTS:
        raise ValueError(f"{total} elements are more than the {MAX_ELEMENTS} that are shown; give fewer")
    return [number for number, count in runs for _ in range(count)]
