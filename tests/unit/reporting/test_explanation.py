"""`mxcheck explain`: every step with its numbers, the figures of each element, and where a kernel differs."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from mxcheck.formats.blocks import BLOCK_FORMATS, E8M0
from mxcheck.formats.notation import parse_hex, parse_values
from mxcheck.formats.oracle import quantize_array
from mxcheck.formats.spec import CastSpec, cast_spec
from mxcheck.reporting.derivation import block_steps, cast, element_notes, in_block_order
from mxcheck.reporting.differences import Got, differences
from mxcheck.reporting.explanation import ComparedCast, print_explanation
from mxcheck.reporting.numbers import decimal, multiple, scientific

Floats = np.ndarray[Any, np.dtype[np.float32]]


PLAIN = "rounding even; NaN/Inf policy block; float32 input [3]"
RECIPROCAL = "reciprocal s = least with fp32(amax · fp32(1 / max)) ≤ 2^s = "
EVEN = "(significand {} 2 - 2^-(m+1) = 1.9375)"


def printed(
    x: Floats, spec: CastSpec, got: Got | None = None, *, dtype: str = "float32", width: int = 160
) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    done = cast(x, spec)
    comparison = None
    if got is not None:
        found = differences(done, got, dtype)
        comparison = ComparedCast(kernel="mine:cast", dtype=dtype, got=got, differences=found)
    print_explanation(console, done, dtype=dtype, comparison=comparison)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def explained(words: str, name: str = "fp8_e4m3", **given: Any) -> list[str]:
    """The lines of decimal numbers, each with its spaces made one."""
    text = printed(parse_values(words.split()), cast_spec(name, **given))
    return [" ".join(line.split()) for line in text.splitlines() if line.strip(" ─")]


def exact(x: Floats, spec: CastSpec) -> Got:
    """What a right kernel returns."""
    codes, scales, *tensor_scale = quantize_array(x, spec)
    return Got(
        spec=spec,
        codes=codes.copy(),
        scales=in_block_order(scales, spec).copy(),
        tensor_scale=tensor_scale[0] if tensor_scale else None,
    )


# the steps


def test_a_nan_poisons_its_block() -> None:
    assert explained("0.1 3e5 nan") == [
        "fp8_e4m3; blocks of 32 with E8M0 scales; scale rule floor; " + PLAIN,
        "block 0 of 1: elements [0] to [2], filled up with 29 zeros",
        "scale code FF = NaN: a NaN or an Inf makes its whole block NaN (policy 'block')",
        "x fp32 x / scale code s|eeee|mmm element value error error % notes",
        "0 0.1 3dcccccd - any - NaN - - NaN by its scale",
        "1 300000 48927c00 - any - NaN - - NaN by its scale",
        "2 NaN 7fc00000 - any - NaN - - a NaN",
    ]


def test_a_block() -> None:
    assert explained("0.1 3e5 -7 0 -0 0 0 5")[2:] == [
        "amax 300000 (48927c00) = 1.1444091796875 · 2^18",
        "floor s = floor(log2 amax) - emax = 18 - 8 = 10",
        "scale 2^10 = 1024, code 10 + 127 = 137 = 89",
        "x fp32 x / scale code s|eeee|mmm element value error error % notes",
        "0 0.1 3dcccccd 9.765625e-05 00 0|0000|000 0 0 -0.1 100 underflow to zero",
        "1 300000 48927c00 292.96875 79 0|1111|001 288 294912 -5.09e+03 1.7",
        "2 -7 c0e00000 -0.0068359375 84 1|0000|100 -0.0078125 -8 -1 14.3 tie, to even; subnormal",
        "3 0 00000000 0 00 0|0000|000 0 0 0 0",
        "4 -0 80000000 -0 80 1|0000|000 -0 -0 0 0",
        "5 … 6 0 00000000 0 00 0|0000|000 0 0 0 0",
        "7 5 40a00000 0.0048828125 02 0|0000|010 0.00390625 4 -1 20 tie, to even; subnormal",
    ]


@pytest.mark.parametrize(
    ("amax", "rule", "steps"),
    [
        (
            "500",
            "floor",
            ["floor s = floor(log2 amax) - emax = 8 - 8 = 0", "scale 1, code 0 + 127 = 127 = 7F"],
        ),
        (
            "500",
            "ceil",
            [
                "ceil s = ceil(log2 amax) - emax = 9 - 8 = 1 (significand 1.953125 > 1)",
                "scale 2, code 1 + 127 = 128 = 80",
            ],
        ),
        (
            "256",
            "ceil",
            [
                "ceil s = ceil(log2 amax) - emax = 8 - 8 = 0 (significand 1 = 1)",
                "scale 1, code 0 + 127 = 127 = 7F",
            ],
        ),
        (
            "496",
            "even",
            [
                "even s = floor(log2 amax) - emax + 1 = 8 - 8 + 1 = 1 " + EVEN.format("1.9375 ≥"),
                "scale 2, code 1 + 127 = 128 = 80",
            ],
        ),
        (
            "480",
            "even",
            [
                "even s = floor(log2 amax) - emax + 0 = 8 - 8 + 0 = 0 " + EVEN.format("1.875 <"),
                "scale 1, code 0 + 127 = 127 = 7F",
            ],
        ),
        (
            "449",
            "rceil",
            [
                "rceil s = least with amax ≤ max · 2^s = 1 (448 · 1 < 449 ≤ 448 · 2)",
                "scale 2, code 1 + 127 = 128 = 80",
            ],
        ),
        (
            "448",
            "rceil",
            [
                "rceil s = least with amax ≤ max · 2^s = 0 (448 · 2^-1 < 448 ≤ 448 · 1)",
                "scale 1, code 0 + 127 = 127 = 7F",
            ],
        ),
        (
            "448.0001",
            "reciprocal",
            [
                RECIPROCAL + "1 (1 < fp32(448.0001 · 0.002232143) = 1.0000002 ≤ 2)",
                "scale 2, code 1 + 127 = 128 = 80",
            ],
        ),
        (
            "1e-45",
            "reciprocal",
            [
                RECIPROCAL + "-127 (fp32(1e-45 · 0.002232143) = 0)",
                "scale 2^-127, code -127 + 127 = 0 = 00",
            ],
        ),
        (
            "1e-40",
            "floor",
            [
                "floor s = floor(log2 amax) - emax = -133 - 8 = -141",
                "scale -141 is clamped to [-127, 127]: 2^-127, code -127 + 127 = 0 = 00",
            ],
        ),
        ("-0", "rceil", ["amax 0", "scale no amax, no exponent: the least scale, 2^-127, code 00"]),
    ],
)
def test_rules(amax: str, rule: str, steps: list[str]) -> None:
    lines = explained(amax, scale_rule=rule)
    header = next(number for number, line in enumerate(lines) if line.startswith("x fp32"))
    assert lines[header - 2 : header] == steps


def test_the_upper_clamp() -> None:
    lines = explained("3e38", "mxint8", scale_rule="ceil")
    assert lines[4] == "scale 128 is clamped to [-127, 127]: 2^127, code 127 + 127 = 254 = FE"
    assert lines[-1].endswith("saturated") == (3e38 / 2.0**127 > 127.5 / 64)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(BLOCK_FORMATS))
def test_every_format_and_rule_can_be_told(name: str) -> None:
    """What is told is compared with the oracle by assertions: here on bits of any kind."""
    bits = np.random.default_rng(0).integers(0, 2**32, (6, 32), np.uint32)
    bits[1] &= 0x81FFFFFF  # small ones, too
    bits[2, ::3] = 0
    bits[3] &= 0x3FFFFFFF
    random = np.random.default_rng(1).integers(0, 2**32, (1, 32))
    block = BLOCK_FORMATS[name]
    for rule in block.scale_rules:
        for rounding in ("even", "away", "zero", "stochastic") if block.scale == E8M0 else ("even",):
            spec = cast_spec(name, scale_rule=rule, rounding=rounding, random=random)
            for row in bits:
                done = cast(row[None].view(np.float32), spec)
                for number, places in enumerate(done.blocks):
                    assert block_steps(done, number)
                    for place in places:
                        element_notes(done, number, int(place), int(random.ravel()[place]))
            x = bits[3:4].view(np.float32)
            assert "every bit is right" in printed(x, spec, exact(x, spec))


# NaN and Inf that stay in their element


def test_the_policy_element() -> None:
    lines = explained("nan 300 1", scale_rule="rceil", nonfinite="element")
    assert lines[2] == "amax 300 (43960000) = 1.171875 · 2^8, of the finite elements (policy 'element')"
    assert lines[-3] == "0 NaN 7fc00000 NaN 7F 0|1111|111 NaN NaN - - NaN stays"
    lines = explained("-inf 300", scale_rule="rceil", nonfinite="element")
    assert lines[3] == "scale an Inf gives the largest scale (policy 'element'): 2^127, code FE"
    assert "FE 1|1111|110 -448" in lines[-2]
    assert lines[-2].endswith("Inf, saturated")
    assert explained("inf", nonfinite="element")[2] == "amax no finite element"


# scales that are no powers of two


def test_nvfp4() -> None:
    lines = explained("3e5 -7 0.1", "nvfp4")
    assert lines[:6] == [
        "nvfp4; blocks of 16 with E4M3 scales; scale rule amax; " + PLAIN,
        "tensor amax 300000 (48927c00) = 1.1444091796875 · 2^18",
        "tensor scale g = fp32(amax / (448 · 6)) = fp32(300000 / 2688) = 111.60714 (42df36db)",
        "block 0 of 1: elements [0] to [2], filled up with 13 zeros",
        "amax 300000 (48927c00) = 1.1444091796875 · 2^18",
        "block scale E4M3(amax / (6 · g)) = E4M3(448.000013) = 448, code 7E = 0|1111|110",
    ]
    assert lines[6].startswith("scale block scale · g = 448 · 111.60714 = 49999.998")


def test_nvfp4_with_a_block_that_underflows() -> None:
    words = " ".join(["3e5", *["0"] * 15, "1e-9", "-1e-9"])
    lines = explained(words, "nvfp4")
    assert any(
        line.startswith("block scale E4M3") and line.endswith("code 00 = 0|0000|000, underflow to zero")
        for line in lines
    )
    assert lines[-1].endswith("- 08 1|00|0 -0 -0 1e-09 100 block scale 0")


def test_a_scale_a_row_and_a_tensor() -> None:
    x = parse_values(["448", "1", "896", "2"]).reshape(2, 2)
    rows = printed(x, cast_spec("e4m3_row"))
    assert "row 0 of 2: elements [0,0] to [0,1]\n" in rows
    assert "fp32(amax / max) = fp32(896 / 448) = 2 (40000000)" in rows
    tensor = printed(x, cast_spec("e4m3_tensor"))
    assert "tensor 0 of 1: elements [0,0] to [1,1]\n" in tensor
    columns = printed(x, cast_spec("e4m3_row", axis=0))
    assert "row 1 of 2: elements [0,1] to [1,1]\n" in columns
    assert "float32 input [2x2], axis 0\n" in columns


def test_real_scales_of_nothing_and_of_nan() -> None:
    assert any(line.endswith("= 0, which counts as 1") for line in explained("0 -0", "e5m2_row"))
    assert any("makes all of it NaN" in line for line in explained("nan 1", "e5m2_row"))
    lines = explained("nan 1", "nvfp4")
    assert "scale means nothing: the tensor scale is NaN" in lines
    assert lines[-1] == "1 1 3f800000 - any - NaN - - NaN by its scale"


# notes


@pytest.mark.parametrize(
    ("value", "rounding", "note"),
    [
        ("511", "even", "saturated"),
        ("464", "even", "tie, to even"),  # half a step above 448, whose mantissa is even
        ("464.1", "even", "saturated"),
        ("464", "away", "saturated"),
        ("448", "even", ""),
        ("272", "even", "tie, to even"),
        ("272", "away", "tie, away from zero"),
        ("272", "zero", ""),
    ],
)
def test_notes(value: str, rounding: str, note: str) -> None:
    last = explained(value, rounding=rounding)[-1]
    assert re.sub(r"^.*\d ?", "", last) == note


def test_stochastic_rounding_shows_its_random_integer() -> None:
    x = parse_values(["256", "272", "272"])
    spec = cast_spec("fp8_e4m3", rounding="stochastic", random=np.array([0, (1 << 31) - 1, 1 << 31]))
    text = printed(x, spec)
    assert re.search(r"1 +272 .* 78 .* down: 0\.5 \+ 0\.5 < 1", text)
    assert re.search(r"2 +272 .* 79 .* up: 0\.5 \+ 0\.5 ≥ 1", text)


def test_fp4_e3m0_has_no_even_neighbour() -> None:
    assert explained("16 3", "fp4_e3m0")[-1].endswith("tie, to the larger")


# a kernel's result beside it


def test_a_right_kernel() -> None:
    x = parse_values(["1", "2", "nan"])
    text = printed(x, cast_spec("fp8_e4m3"), exact(x, cast_spec("fp8_e4m3")))
    assert text.endswith("kernel mine:cast: every bit is right (3 codes and 1 scales)\n")


def test_a_wrong_code_and_a_wrong_scale_are_marked() -> None:
    x, spec = parse_values(["1", "-448", "3"]), cast_spec("fp8_e4m3", block_size=2)
    got = exact(x, spec)
    assert got.codes is not None
    got.codes[1] = 0xFD
    assert got.scales is not None
    got.scales[1] = 0xFF  # type: ignore[call-overload]
    text = printed(x, spec, got)
    assert re.search(r"\n +1 +-448 .* ≠ FD +1\|1111\|101 +-416 ", text)
    assert re.search(r"\n +0 +1 .* 38 +0\|0111\|000 +1 ", text)
    assert re.search(r"code -7 \+ 127 = 120 = 78   ≠ got FF = NaN\n", text)
    assert text.count("≠") == 2
    assert text.endswith("kernel mine:cast: 1 of 3 codes and 1 of 2 scales differ\n")


def test_what_is_equal_and_what_is_not() -> None:
    """NaN codes are equal, codes under a scale of NaN mean nothing; 0 and -0 differ."""
    te = {"scale_rule": "rceil", "nonfinite": "element"}
    for name, words, codes, differ in (
        ("fp8_e5m2", ["nan", "1"], {0: 0x7D}, [False, False]),
        ("fp8_e5m2", ["nan", "1"], {0: 0xFE}, [False, False]),
        ("fp8_e5m2", ["nan", "1"], {0: 0x7C}, [True, False]),
        ("fp8_e4m3", ["0", "1"], {0: 0x80}, [True, False]),
    ):
        x, spec = parse_values(words), cast_spec(name, **te)
        got = exact(x, spec)
        assert got.codes is not None
        for place, code in codes.items():
            got.codes[place] = code
        found = differences(cast(x, spec), got, "float32")
        assert found.elements.tolist() == differ
        assert found.any == any(differ)
    x, spec = parse_values(["nan", "1"]), cast_spec("fp8_e5m2")
    got = exact(x, spec)
    assert got.codes is not None
    got.codes[:] = 5
    assert not differences(cast(x, spec), got, "float32").any


def test_values_are_compared_by_their_bits() -> None:
    x, spec = (
        parse_values(["1.06", "0", "nan"]),
        cast_spec("fp8_e4m3", scale_rule="rceil", nonfinite="element"),
    )
    right = np.array([1.0, 0.0, np.nan], np.float32)
    assert "every bit is right (3 values)\n" in printed(x, spec, Got(spec=spec, values=right))
    wrong = np.array([np.nextafter(np.float32(1), np.float32(2)), -0.0, 1.0], np.float32)
    text = printed(x, spec, Got(spec=spec, values=wrong))
    assert re.search(r"0 +1\.06 .* 3f800000 +≠ 1\.0000001 +3f800001 ", text)
    assert re.search(r"1 +0 .* 00000000 +≠ -0 +80000000 ", text)
    assert text.endswith("kernel mine:cast: 3 of 3 values differ\n")


def test_values_of_a_16_bit_tensor_are_rounded_to_it() -> None:
    """Under a scale with a significand values do not fit in bf16."""
    x, spec = parse_values(["3", "0.3"], "bfloat16"), cast_spec("e4m3_row")
    values = cast(x, spec).values
    as_float32, as_bfloat16 = values.astype(np.float32), parse_values(map(repr, values.tolist()), "bfloat16")  # type: ignore[arg-type]
    assert not differences(cast(x, spec), Got(spec=spec, values=as_bfloat16), "bfloat16").any
    assert differences(cast(x, spec), Got(spec=spec, values=as_float32), "bfloat16").any


def test_scales_of_other_kinds_are_marked() -> None:
    x, spec = parse_values(["3", "1"]), cast_spec("nvfp4")
    got = exact(x, spec)
    tensor_scale = np.array(1.0, np.float32)
    assert got.scales is not None
    got.scales[0] = 0x70  # type: ignore[call-overload]
    wrong = Got(spec=spec, codes=got.codes, scales=got.scales, tensor_scale=tensor_scale)
    text = printed(x, spec, wrong)
    assert "≠ got 1 (3f800000)\n" in text
    assert "≠ got block scale 70 = 128\n" in text
    assert text.endswith("0 of 2 codes, 1 of 1 scales and the tensor scale differ\n")
    x, spec = parse_values(["3", "1"]), cast_spec("e4m3_row")
    got = exact(x, spec)
    assert got.scales is not None
    got.scales[0] = 2  # type: ignore[call-overload]
    assert "≠ got 2 (40000000)\n" in printed(x, spec, got)


def test_a_byte_that_is_no_code() -> None:
    x, spec = parse_values(["1"]), cast_spec("fp4_e2m1")
    got = exact(x, spec)
    assert got.codes is not None
    got.codes[0] = 0x16
    assert re.search(r"≠ 16 +no code ", printed(x, spec, got))


# what is shown of a large tensor


def test_equal_neighbours_are_one_line() -> None:
    text = printed(parse_hex(["3f800000", "0*30", "40000000"]), cast_spec("fp8_e4m3"))
    assert re.search(r"\n +1 … 30 +0 +00000000 ", text)
    assert "shown" not in text


def test_the_first_blocks_of_a_large_tensor() -> None:
    text = printed(parse_hex(["0*1000"]), cast_spec("fp8_e4m3"))
    assert text.count("\nblock ") == 8
    assert text.endswith("shown: 8 of 32 blocks, 256 of 1000 elements\n")
    text = printed(np.arange(100, dtype=np.float32), cast_spec("e4m3_row"))
    assert text.endswith("shown: 1 of 1 blocks, 64 of 100 elements\n")


def test_the_blocks_that_differ_come_first() -> None:
    x, spec = np.arange(1000, dtype=np.float32), cast_spec("fp8_e4m3")
    got = exact(x, spec)
    assert got.codes is not None
    got.codes[777] ^= 1
    text = printed(x, spec, got)
    assert text.count("\nblock ") == 1
    assert "\nblock 24 of 32: elements [768] to [799]\n" in text
    assert "shown: 1 of 32 blocks, 32 of 1000 elements, those that differ first\n" in text
    row = cast_spec("e4m3_row")
    got = exact(x, row)
    assert got.codes is not None
    got.codes[900] ^= 1
    text = printed(x, row, got)
    assert text.count("≠") == 1
    assert "shown: 1 of 1 blocks, 1 of 1000 elements, those that differ first\n" in text


# its look


@pytest.mark.parametrize("width", [100, 120, 160])
@pytest.mark.parametrize("kernel", [False, True])
def test_it_fits(width: int, kernel: bool) -> None:
    x = parse_values(["0.1", "3e5", "-7", "0", "-0", "0", "0", "5"])
    spec = cast_spec("fp8_e4m3")
    text = printed(x, spec, exact(x, spec) if kernel else None, width=width)
    table = text[text.index("2^10 = 1024") :]
    assert max(map(cell_len, table.splitlines())) <= width
    assert "0.0048828125" in table
    assert not re.search(r"\w…", text)


def test_a_narrow_console_cuts_no_figure() -> None:
    x, spec = parse_values(["0.1", "3e5", "-7", "5"]), cast_spec("fp8_e4m3")
    text = printed(x, spec, exact(x, spec), width=40)
    assert re.search(r"-7 +c0e00000 +-0\.0068359375 +84 +-8 +14\.3 +84 +-8 ", text)
    assert "…" not in text


# numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (float(np.float32(0.1)), "0.1"),
        (300000.0, "300000"),
        (1e-5, "1e-05"),
        (float(np.float32(3.4028235e38)), "3.4028235e+38"),
        (-0.0, "-0"),
        (0.1, "0.1"),
        (1 / 3, "0.333333333"),
        (2.0**130, "1.36112947e+39"),
        (float("-inf"), "-Inf"),
        (float("nan"), "NaN"),
    ],
)
def test_decimal(value: float, text: str) -> None:
    assert decimal(value) == text


def test_multiples_and_significands() -> None:
    assert [multiple(value) for value in (2**-9, 7 * 2**-9, 0.0625, 127 / 64, 57344.0, 2.0**127)] == [
        *("2^-9", "7·2^-9", "0.0625", "1.984375", "57344", "2^127")
    ]
    assert scientific(6.0) == "1.5 · 2^2"
    assert scientific(1.0) == "1 · 2^0"


def test_a_story_that_is_not_the_oracles_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    done = cast(parse_values(["1"]), cast_spec("fp8_e4m3"))
    monkeypatch.setattr("mxcheck.reporting.derivation.floor_log2", lambda _: 3)
    with pytest.raises(AssertionError, match="not the oracle's"):
        block_steps(done, 0)
