"""The rule `reciprocal` against an older transcription of Transformer Engine's public formula."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import published_te
import pytest
import torch
from numpy.typing import NDArray

from mxcheck.formats import oracle
from mxcheck.formats.elements import ELEMENT_FORMATS, ElementFormat
from mxcheck.formats.field_rules import FIELD_RULES, quantize_blocks
from mxcheck.formats.oracle import quantize_array, scale_exponent, scale_exponents
from mxcheck.formats.spec import cast_spec, dialect
from mxcheck.kernels import rules
from mxcheck.kernels.eager import quantize_eager, scale_codes_of
from validation.second_oracle import search
from validation.second_oracle.bit_tables import scale_thresholds
from validation.second_oracle.search import fp32_value, search_scale

FP8 = ("fp8_e4m3", "fp8_e5m2")
each_element = pytest.mark.parametrize("element", ELEMENT_FORMATS.values(), ids=lambda element: element.name)
#: The one amax of each at which the exact rule gives another scale: just above max * 2^-127.
JUST_ABOVE = {"fp8_e4m3": 0x0460_0001, "fp8_e5m2": 0x07E0_0001}


def magnitudes() -> NDArray[np.int64]:
    """Every exponent of fp32, with the lowest, the highest, those around 1.5, 1.75 and 1.875, and random
    mantissas."""
    middle = [np.arange(-300, 300) + (1 << 23) * eighths // 8 for eighths in (4, 6, 7)]
    random = np.random.default_rng(2).integers(0, 1 << 23, 1500)
    mantissas = np.concatenate([np.arange(300), (1 << 23) - 1 - np.arange(300), *middle, random])
    return ((np.arange(255)[:, None] << 23) + mantissas).ravel()


def published(amax: NDArray[np.int64], element: ElementFormat) -> NDArray[np.uint8]:
    return published_te.scale_codes(amax.astype(np.uint32).view(np.float32), element.max_value)


def near_thresholds(element: ElementFormat) -> list[int]:
    """Where scales change by `reciprocal`, and beside it."""
    found = {int(bits) + step for bits in scale_thresholds(element, "reciprocal") for step in range(-2, 3)}
    return sorted(bits for bits in found if 0 < bits < search.FP32_INF)


@each_element
def test_scales_bit_for_bit(element: ElementFormat) -> None:
    """The oracle in whole numbers, the table search and the house kernel; defined for FP8, meant for any."""
    amax = magnitudes()
    expected = published(amax, element)
    assert np.array_equal(scale_exponents(amax, element, "reciprocal") + 127, expected)
    table = np.searchsorted(scale_thresholds(element, "reciprocal"), amax.astype(np.uint32), side="right")
    assert np.array_equal(table, expected)
    ours = scale_codes_of(torch.from_numpy(amax.astype(np.int32)), element, "reciprocal")
    assert np.array_equal(ours.numpy(), expected)


def disagreements(element: ElementFormat) -> dict[str, int]:
    """How often each of ours differs from the formula where scales change."""
    bits = near_thresholds(element)
    amax = np.array(bits)
    expected = published(amax, element).tolist()
    values = [fp32_value(one) for one in bits]
    found: dict[str, list[int]] = {
        "array": (scale_exponents(amax, element, "reciprocal") + 127).tolist(),
        "rational": [scale_exponent(one, element, "reciprocal") + 127 for one in values],
        "search": [search_scale(one, element, "reciprocal") for one in values],
        "kernel": scale_codes_of(torch.tensor(bits, dtype=torch.int32), element, "reciprocal").tolist(),
    }
    return {
        name: sum(one != other for one, other in zip(codes, expected, strict=True))
        for name, codes in found.items()
    }


@each_element
def test_each_of_ours_where_scales_change(element: ElementFormat) -> None:
    assert disagreements(element) == {"array": 0, "rational": 0, "search": 0, "kernel": 0}


#: module, what is replaced, by what, and which of ours then differ
MUTANTS: list[tuple[Any, str, Callable[..., Any], set[str]]] = [
    (oracle, "rounded_to_fp32", lambda value: value, {"array", "rational"}),
    (oracle, "_reciprocal", lambda element: Fraction(0.875 / element.max_value), {"array", "rational"}),
    (oracle, "_step", lambda right: np.int64(2) << right, {"array"}),
    (search, "_largest_rounded_to", lambda exponent: Fraction(2) ** exponent, {"search"}),
    (rules, "_above", lambda _: lambda product: product & 0x7F_FFFF > 0, {"kernel"}),
]


@pytest.mark.parametrize(
    ("module", "name", "wrong", "seen"), [pytest.param(*row, id=row[1]) for row in MUTANTS]
)
def test_a_mutant_of_each_is_seen(
    module: Any, name: str, wrong: Callable[..., Any], seen: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    element = ELEMENT_FORMATS["fp8_e4m3"]
    search.scale_bounds.cache_clear()
    scale_thresholds(element, "reciprocal")  # cached: where to look
    search.scale_bounds.cache_clear()
    monkeypatch.setattr(module, name, wrong)
    try:
        assert {one for one, count in disagreements(element).items() if count} == seen
    finally:
        search.scale_bounds.cache_clear()


@pytest.mark.parametrize("name", FP8)
def test_it_is_not_the_exact_rule(name: str) -> None:
    """But differs from it at one amax of all 2^31."""
    element = ELEMENT_FORMATS[name]
    ours, exact = (scale_thresholds(element, rule).astype(np.int64) for rule in ("reciprocal", "rceil"))
    assert np.flatnonzero(ours - exact).tolist() == [0]  # of the code 01
    assert (int(ours[0]), int(exact[0])) == (JUST_ABOVE[name] + 1, JUST_ABOVE[name])
    assert published(np.array([JUST_ABOVE[name]]), element).tolist() == [0]


def blocks(dtype: torch.dtype) -> NDArray[np.float32]:
    """Finite blocks of 32, led by amax of every exponent and at each threshold, the others below it."""
    leads = {name: near_thresholds(ELEMENT_FORMATS[name]) for name in FP8}
    random = np.random.default_rng(6)
    lead = np.concatenate([magnitudes()[::97], *leads.values(), [0] * 8])
    rest = lead[:, None] - np.minimum(random.integers(0, 1 << 27, (lead.size, 32)), lead[:, None])
    rest[np.arange(lead.size), random.integers(0, 32, lead.size)] = lead
    signed = rest | random.integers(0, 2, rest.shape) << 31
    found = torch.from_numpy(signed.astype(np.uint32).view(np.float32)).to(dtype)
    return found[found.isfinite().all(-1)].float().numpy()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", FP8)
def test_casts_of_the_dialect_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    """Of the releases since 2.13, which is `te`, and of those before it, which identify knows."""
    x = blocks(dtype)
    spec = cast_spec(name, **dialect("te"))
    codes, scales = published_te.cast(x, name, release=(2, 13))
    for got in (quantize_array(x, spec), quantize_eager(torch.from_numpy(x).to(dtype), spec)):
        assert np.array_equal(np.asarray(got[1])[:, 0], scales)
        assert np.array_equal(np.asarray(got[0]), codes)
    before, same = published_te.cast(x, name, release=(2, 12))
    assert np.array_equal(same, scales)
    of_rule = quantize_blocks(x, ELEMENT_FORMATS[name], FIELD_RULES["reciprocal_one"], "even", "element")
    assert np.array_equal(of_rule[1], scales)
    assert np.array_equal(of_rule[0], before)
    differ = (before != codes).any(-1)
    assert set(scales[differ].tolist()) == ({0} if dtype != torch.float16 else set())  # and nowhere else
    assert not (before[scales == 0] & 0x7F).any()
