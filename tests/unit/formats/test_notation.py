"""Inputs as words: what is written reads back bit by bit, and what cannot be read is refused in one line."""

from __future__ import annotations

import math
import shlex
import struct
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mxcheck.cli.entry import parse
from mxcheck.cli.explain_command import read_cast
from mxcheck.formats.blocks import BLOCK_FORMATS, E8M0
from mxcheck.formats.notation import (
    DTYPES,
    MAX_ELEMENTS,
    hex_words,
    parse_hex,
    parse_random,
    parse_shape,
    parse_values,
    reproduction,
    round_to,
)
from mxcheck.formats.spec import NONFINITE, ROUNDINGS, TAILS, CastSpec, cast_spec

BITS = st.one_of(st.sampled_from([0, 1 << 31, 0x3F800000, 0x7F800001, 0x7FC00000]), st.integers(0, 2**32 - 1))


def array(*bits: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array(bits, np.uint32).view(np.float32)


def bits_of(x: np.ndarray[Any, np.dtype[np.float32]]) -> list[int]:
    return [int(bits) for bits in x.ravel().view(np.uint32)]


# bit patterns


def test_parse_hex() -> None:
    x = parse_hex(["3f8ccccd", "0x40000000", "0*30", "0XFFC00001*2"])
    assert bits_of(x) == [0x3F8CCCCD, 0x40000000, *[0] * 30, 0xFFC00001, 0xFFC00001]
    assert x.dtype == np.float32


def test_hex_words_are_short() -> None:
    assert hex_words(array(0x3F800000, *[0] * 30, 1 << 31)) == ["3f800000", "0*30", "80000000"]
    assert hex_words(array(0, 0, 0, 5, 5).reshape(5, 1)) == ["0*3", "00000005*2"]


@given(st.lists(BITS, min_size=1, max_size=70))
def test_words_read_back(bits: list[int]) -> None:
    assert bits_of(parse_hex(hex_words(array(*bits)))) == bits


@pytest.mark.parametrize("word", ["", "g", "123456789", "1*0", "1*", "*3", "0*-1", "1.5", "-1", "3f 80"])
def test_what_is_no_pattern(word: str) -> None:
    with pytest.raises(ValueError, match="is no bit pattern; allowed: 1 to 8 hexadecimal digits") as caught:
        parse_hex(["0", word])
    assert repr(word) in str(caught.value)


def test_too_many_elements_are_refused_before_they_are_made() -> None:
    assert parse_hex([f"0*{MAX_ELEMENTS}"]).size == MAX_ELEMENTS
    with pytest.raises(ValueError, match="1000000000000 elements"):
        parse_hex(["0*1000000000000"])


@pytest.mark.parametrize(
    ("dtype", "inside", "outside", "hint"),
    [
        pytest.param("bfloat16", ["3dcd0000", "7f7f0000", "7f800001"], "3dcccccd", "3dcd0000", id="bfloat16"),
        pytest.param("float16", ["477fe000", "33800000", "7fc00001"], "47800000", "7f800000", id="float16"),
    ],
)
def test_patterns_of_a_16_bit_tensor(dtype: str, inside: list[str], outside: str, hint: str) -> None:
    assert hex_words(parse_hex(inside, dtype)) == inside
    with pytest.raises(ValueError, match=rf"{outside} .*is not a value of {dtype}; .* such as {hint}"):
        parse_hex([*inside, outside], dtype)


# decimal numbers


@pytest.mark.parametrize(
    ("word", "bits"),
    [
        ("0.1", 0x3DCCCCCD),
        ("3e5", 0x48927C00),
        ("-3E5", 0xC8927C00),
        ("-0", 1 << 31),
        ("-1e-60", 1 << 31),
        ("1e-999999999", 0),  # and at once
        ("1e-45", 1),
        ("nan", 0x7FC00000),
        ("inf", 0x7F800000),
        ("-Infinity", 0xFF800000),
        ("3.4028235e38", 0x7F7FFFFF),
        # float() gives the midpoint of 1 and its neighbour, whose tie goes to 1; the number is above it
        ("1.000000059604644775390625000000001", 0x3F800001),
    ],
)
def test_parse_values(word: str, bits: int) -> None:
    assert bits_of(parse_values([word])) == [bits]


@given(st.floats(width=32, allow_nan=False))
def test_a_float32_reads_as_itself(value: float) -> None:
    assert bits_of(parse_values([repr(value)])) == [struct.unpack("<I", struct.pack("<f", value))[0]]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@given(value=st.floats(-65000, 65000, width=32))
def test_values_are_rounded_as_torch_rounds(dtype: str, value: float) -> None:
    expected = torch.tensor([value]).to(getattr(torch, dtype)).float().numpy()
    assert bits_of(parse_values([repr(value)], dtype)) == bits_of(expected)


@pytest.mark.parametrize(
    ("word", "dtype", "message"),
    [
        ("x", "float32", "'x' is not a number; allowed: decimal numbers"),
        ("0x10", "float32", "'0x10' is not a number; .*--hex"),
        ("3.5e38", "float32", r"too large for float32, whose largest value is 3.4028235e\+38; write inf"),
        ("1e999999999", "float32", "too large"),
        ("-65520", "float16", "-65520 is too large for float16, whose largest value is 65504"),
        ("1", "float64", "unknown dtype 'float64'; allowed: float32, bfloat16, float16"),
    ],
)
def test_what_is_no_value(word: str, dtype: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_values([word], dtype)
    assert "\n" not in str(caught.value)


def test_the_largest_value_is_what_rounds_to_it() -> None:
    assert parse_values(["65519.99"], "float16") == [65504.0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_round_to_is_what_torch_does(dtype: str) -> None:
    random = np.random.default_rng(0).integers(0, 2**32, 20_000, np.uint32).view(np.float32)
    x = np.concatenate([random, array(0x7F7FFFFF, 0xFF7FFFFF, 0x7F800001, 0x33000000, 0x33000001, 1 << 31)])
    got, expected = round_to(x, dtype), torch.from_numpy(x).to(getattr(torch, dtype)).float().numpy()
    assert np.array_equal(np.isnan(got), np.isnan(x))
    assert bits_of(got[~np.isnan(x)]) == bits_of(expected[~np.isnan(x)])


def test_round_to_overflows_to_inf() -> None:
    assert round_to(np.array([2.0**128, -(2.0**130)]), "float32").tolist() == [math.inf, -math.inf]


# shape and random integers


def test_parse_shape() -> None:
    assert parse_shape("32x1", 32) == (32, 1)
    assert parse_shape("2,3", 6) == (2, 3)
    assert parse_shape("7", 7) == (7,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no shape"),
        ("x3", "is no shape"),
        ("-1", "is no shape"),
        ("2x2", "has 4 elements, got 6 values"),
    ],
)
def test_bad_shapes(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_shape(text, 6)


def test_parse_random() -> None:
    assert parse_random(["7", "0*2", "4294967295"], (2, 2)).tolist() == [[7, 0], [0, 4294967295]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["4294967296", "0"], "4294967296 is no random integer; allowed: integers from 0"),
        (["-1", "0"], "'-1' is no random integer"),
        (["1"], "got 1 for 2 elements; give as many after --random"),
    ],
)
def test_bad_random_integers(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_random(words, (2,))


# the command


def read(line: str) -> tuple[np.ndarray[Any, np.dtype[np.float32]], CastSpec, str, str | None]:
    words = shlex.split(line)
    assert words[0] == "mxcheck"
    options = parse(words[1:])
    return *read_cast(options), options.dtype, options.kernel


def test_only_what_is_not_the_default_is_written() -> None:
    x = parse_hex(["3f8ccccd", "0*31"])
    line = reproduction(x, cast_spec("fp8_e4m3"), kernel="auto")
    assert line == "mxcheck explain fp8_e4m3 --hex 3f8ccccd '0*31' --kernel auto"
    assert reproduction(x[:1], cast_spec("nvfp4")) == "mxcheck explain nvfp4 --hex 3f8ccccd"


def test_everything_is_written() -> None:
    spec = cast_spec(
        "fp8_e5m2",
        axis=0,
        block_size=16,
        scale_rule="rceil",
        rounding="stochastic",
        tail="error",
        nonfinite="element",
        random=torch.tensor([[3], [3]]),
    )
    line = reproduction(array(0, 0).reshape(2, 1), spec, dtype="bfloat16", kernel="my kernels:cast")
    assert line == (
        "mxcheck explain fp8_e5m2 --hex '0*2' --shape 2x1 --dtype bfloat16 --axis 0 --block-size 16 "
        "--scale-rule rceil --rounding stochastic --tail error --nonfinite element --random '3*2' "
        "--kernel 'my kernels:cast'"
    )


@st.composite
def casts(draw: st.DrawFn) -> tuple[np.ndarray[Any, np.dtype[np.float32]], CastSpec, str]:
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    dtype = draw(st.sampled_from(DTYPES))
    count = math.prod(shape)
    x = array(*draw(st.lists(BITS, min_size=count, max_size=count))).reshape(shape)
    if dtype != "float32":
        x = np.where(np.isnan(x), x, round_to(x, dtype))
    block = BLOCK_FORMATS[draw(st.sampled_from(list(BLOCK_FORMATS)))]
    axis, tail = draw(st.integers(-len(shape), len(shape) - 1)), draw(st.sampled_from(TAILS))
    given: dict[str, Any] = {"axis": axis, "tail": tail}
    if block.scale == E8M0:
        given["block_size"] = draw(st.integers(1, 64))
        given["scale_rule"] = draw(st.sampled_from(block.scale_rules))
        given["rounding"] = draw(st.sampled_from(ROUNDINGS))
        if block.name.startswith("fp8_"):
            given["nonfinite"] = draw(st.sampled_from(NONFINITE))
        if given["rounding"] == "stochastic":
            numbers = draw(st.lists(st.integers(0, 2**32 - 1), min_size=count, max_size=count))
            given["random"] = np.array(numbers, np.int64).reshape(shape)
    return x, cast_spec(block.name, **given), dtype


@settings(max_examples=200)
@given(cast=casts(), kernel=st.sampled_from([None, "auto", "my_kernels.casts:quantize"]))
def test_the_command_reads_back(
    cast: tuple[np.ndarray[Any, np.dtype[np.float32]], CastSpec, str], kernel: str | None
) -> None:
    x, spec, dtype = cast
    got, got_spec, got_dtype, got_kernel = read(reproduction(x, spec, dtype=dtype, kernel=kernel))
    assert (got.shape, bits_of(got)) == (x.shape, bits_of(x))
    assert (got_spec, got_dtype, got_kernel) == (spec, dtype, kernel)
    assert np.array_equal(got_spec.random, spec.random)


def test_what_cannot_be_reproduced() -> None:
    spec = cast_spec("fp8_e4m3")
    with pytest.raises(ValueError, match=r"got shape \(0,\)"):
        reproduction(array(), spec)
    with pytest.raises(ValueError, match=r"got shape \(\)"):
        reproduction(array(1).reshape(()), spec)
    with pytest.raises(ValueError, match="with its random integers, got none"):
        reproduction(array(1), cast_spec("fp8_e4m3", rounding="stochastic"))
