"""Step 2's and step 6's comparison with what was accepted: three statistics, and what bounds each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mxcheck.gate.bounds_tables import Bounds
from mxcheck.gate.drift import Drift, drift, drift_of, same_arithmetic
from mxcheck.gate.record import Noise, Record
from mxcheck.gate.verdict import judge

MakeRecord = Callable[..., Record]

WIDE = Bounds(kl=1.0, rise=1.0)
REFERENCE = [2.0, 2.1, 1.9, 2.05]
#: By quantity: the field, its values in the sample record, and the step that judges it.
FIELDS: dict[str, tuple[str, list[float], int]] = {
    "reference": ("reference_losses", REFERENCE, 2),
    "loss": ("sequence_losses", [2.001, 2.102, 1.9015, 2.0512], 6),
    "kl": ("sequence_kl", [0.001, 0.0011, 0.0009, 0.001], 6),
}
SIGNS = pytest.mark.parametrize("sign", [1, -1], ids=["up", "down"])
QUANTITIES = pytest.mark.parametrize("quantity", ["loss", "kl"])
ALL_QUANTITIES = pytest.mark.parametrize("quantity", list(FIELDS))

#: What makes a baseline's machine another one than the record's.
OTHER_REFERENCE: dict[str, Any] = {"reference_losses": [math.nextafter(REFERENCE[0], 0), *REFERENCE[1:]]}
OTHER_PRODUCTS: dict[str, Any] = {"arithmetic": "0" * 64}
ELSEWHERE = pytest.mark.parametrize(
    "elsewhere", [OTHER_REFERENCE, OTHER_PRODUCTS], ids=["reference", "products"]
)


def noise(median: float, rms: float, most: float) -> Noise:
    """The same for all three quantities."""
    figures = {"median": median, "rms": rms, "max": most}
    named = {f"{quantity}_{name}": value for quantity in FIELDS for name, value in figures.items()}
    return Noise(environments=["x"], **named)


#: More than the shares of the sample record. Bounds, 4 times and 2e-6: 4.002e-3 (median; the 4 is
#: 32/3 for four sequences), 6.402e-3 (rms) and 1.2002e-2 (maximum). One sequence of four makes an rms of
#: half the maximum, 6.001e-3: less than its bound.
NOISE = noise(3.75e-4, 1.6e-3, 3e-3)
NO_NOISE = noise(0.0, 0.0, 0.0)
HERE_OR_ELSEWHERE = pytest.mark.parametrize(
    "elsewhere", [{}, {**OTHER_PRODUCTS, "noise": NOISE}], ids=["here", "elsewhere"]
)


def changed(make_record: MakeRecord, quantity: str, *changes: float, **others: Any) -> Record:
    field, values, _ = FIELDS[quantity]
    after = [value + change for value, change in zip(values, changes, strict=True)]
    return make_record(**{field: after, **others})


def bounds(found: Drift) -> tuple[float, float, float]:
    return found.median_bound, found.rms_bound, found.max_bound


def beyond(found: Drift) -> set[str]:
    """The statistics that are over their bounds, or no numbers."""
    figures = {
        "median": (found.median, found.median_bound),
        "rms": (found.rms, found.rms_bound),
        "max": (found.max, found.max_bound),
    }
    return {name for name, (figure, bound) in figures.items() if not figure <= bound}


def failed(over: object, step: int) -> tuple[int, ...]:
    return (step,) if over else ()


# The baseline's arithmetic


@SIGNS
@QUANTITIES
@pytest.mark.parametrize(("change", "passes"), [(9e-10, True), (1.1e-9, False)], ids=["within", "beyond"])
def test_on_the_same_arithmetic_the_bound_is_1e_9(
    make_record: MakeRecord, quantity: str, sign: int, change: float, passes: bool
) -> None:
    record, baseline = changed(make_record, quantity, 0, sign * change, 0, 0), make_record()
    assert same_arithmetic(record, baseline)
    found = drift(record, baseline, quantity)
    assert bounds(found) == (1e-9, 1e-9, 1e-9)
    assert found.max == pytest.approx(change, rel=1e-3)
    assert found.rms == pytest.approx(change / 2, rel=1e-3)
    assert found.median == 0
    assert judge(record, baseline, WIDE).failed_steps == failed(not passes, 6)


# Other arithmetic, where the measured noise is what counts


@ELSEWHERE
@SIGNS
@ALL_QUANTITIES
@pytest.mark.parametrize(
    ("changes", "over"),
    [  # in thousandths; the middle two of four make the median
        pytest.param((4.001, 4.001, 4.001, 4.001), set(), id="median-within"),
        pytest.param((4.003, 4.003, 4.003, 4.003), {"median"}, id="median-beyond"),
        pytest.param((0, 0, 8.005, 8.005), {"median"}, id="median-of-the-middle-two"),
        # sqrt((10.7^2 + 3 * 4^2) / 4) = 6.373, with 10.8 it is 6.416
        pytest.param((10.7, 4.0, 4.0, 4.0), set(), id="rms-within"),
        pytest.param((10.8, 4.0, 4.0, 4.0), {"rms"}, id="rms-beyond"),
        pytest.param((12.0, 0, 0, 0), set(), id="max-within"),
        pytest.param((12.1, 0, 0, 0), {"max"}, id="max-beyond"),
    ],
)
def test_on_other_arithmetic_the_bound_is_the_noise_s(
    make_record: MakeRecord,
    elsewhere: dict[str, Any],
    quantity: str,
    sign: int,
    changes: tuple[float, ...],
    over: set[str],
) -> None:
    record = changed(make_record, quantity, *(sign * 1e-3 * change for change in changes))
    baseline = make_record(noise=NOISE, **elsewhere)
    assert not same_arithmetic(record, baseline)
    found = drift(record, baseline, quantity)
    assert bounds(found) == pytest.approx((4.002e-3, 6.402e-3, 1.2002e-2), rel=1e-12)
    assert beyond(found) == over
    assert judge(record, baseline, WIDE).failed_steps == failed(over, FIELDS[quantity][2])


def test_each_statistic_has_its_own_noise(make_record: MakeRecord) -> None:
    """Nine different figures, none where another belongs."""
    nine = Noise(
        environments=["x"],
        reference_median=0.11,
        reference_rms=0.12,
        reference_max=0.13,
        loss_median=0.21,
        loss_rms=0.22,
        loss_max=0.23,
        kl_median=0.31,
        kl_rms=0.32,
        kl_max=0.33,
    )
    baseline = make_record(noise=nine, **OTHER_PRODUCTS)
    expected = {"reference": (0.44, 0.48, 0.52), "loss": (0.84, 0.88, 0.92), "kl": (1.24, 1.28, 1.32)}
    for quantity, (median, *others) in expected.items():
        found = bounds(drift(make_record(), baseline, quantity))
        assert found == pytest.approx([2e-6 + bound for bound in (median * 8 / 3, *others)], rel=1e-12)


def test_the_tolerance_is_the_baseline_s_noise_not_the_record_s(make_record: MakeRecord) -> None:
    loud = replace(NOISE, loss_median=1.0, loss_rms=1.0, loss_max=1.0)
    record = changed(make_record, "loss", 0.1, 0.1, 0.1, 0.1, noise=loud)
    assert judge(record, make_record(noise=NOISE, **OTHER_REFERENCE), WIDE).failed_steps == (6,)
    assert judge(record, make_record(noise=loud, **OTHER_REFERENCE), WIDE).passed


@QUANTITIES
@HERE_OR_ELSEWHERE
def test_errors_of_opposite_sign_do_not_cancel(
    make_record: MakeRecord, quantity: str, elsewhere: dict[str, Any]
) -> None:
    record = changed(make_record, quantity, 5e-3, -5e-3, 5e-3, -5e-3)
    baseline = make_record(**elsewhere)
    field, values, _ = FIELDS[quantity]
    changes = [a - b for a, b in zip(getattr(record, field), values, strict=True)]
    assert math.fsum(changes) == pytest.approx(0, abs=1e-12)
    assert judge(record, baseline, WIDE).failed_steps == (6,)


# What one sequence may do


@pytest.mark.parametrize(("change", "passes"), [(1.2e-2, True), (1.21e-2, False)], ids=["within", "beyond"])
def test_the_rms_is_never_below_what_one_sequence_may_do(
    make_record: MakeRecord, change: float, passes: bool
) -> None:
    """By its noise the rms might be 2e-6; one sequence of four at the maximum makes it half of that."""
    baseline = make_record(noise=replace(NOISE, loss_rms=0.0), **OTHER_PRODUCTS)
    record = changed(make_record, "loss", 0, change, 0, 0)
    assert bounds(drift(record, baseline, "loss")) == pytest.approx(
        (4.002e-3, 6.001e-3, 1.2002e-2), rel=1e-12
    )
    assert judge(record, baseline, WIDE).failed_steps == failed(not passes, 6)


@pytest.mark.parametrize(
    ("noise_median", "sequences", "median"),
    [
        pytest.param(0.0, 1, 1.2002e-2, id="one"),
        pytest.param(0.0, 2, 6.001e-3, id="two"),
        pytest.param(0.0, 3, 2e-6 + 3.5 * 0.05 * 2.4495e-6, id="three"),
        pytest.param(1e-3, 1, 2.4002e-2, id="one-noisy"),
        pytest.param(1e-3, 2, 2.4002e-2, id="two-noisy"),
        pytest.param(1e-3, 3, 1.4002e-2, id="three-noisy"),
        pytest.param(1e-3, 6, 8.002e-3, id="six-noisy"),
        pytest.param(1e-3, 16, 2e-6 + 4e-3 * 4 / 3, id="sixteen-noisy"),
        pytest.param(1e-3, 501, 4.042e-3, id="many-noisy"),
    ],
)
def test_the_median_of_few_sequences(
    make_record: MakeRecord, noise_median: float, sequences: int, median: float
) -> None:
    """Of one the median is the maximum, of two half of it; and it may be, as the rms may. Of few it is
    uncertain itself: its bound is 1 + 5 / (n - 1) times as wide."""
    names = ("reference_losses", "reference_entropies", "sequence_losses")
    few = {**{name: [2.0] * sequences for name in names}, "sequence_kl": [0.001] * sequences}
    few["scored_tokens"] = 10**9
    measured = replace(NOISE, loss_median=noise_median)
    baseline = make_record(**few, noise=measured, **OTHER_PRODUCTS)
    found = drift(make_record(**few), baseline, "loss")
    rms = max(6.402e-3, 1.2002e-2 / sequences**0.5)
    assert bounds(found) == pytest.approx((median, rms, 1.2002e-2), rel=1e-6)


# Other arithmetic, where the noise is small: shares of what quantization does

#: By hand. KL 0.001 and 1e9 / 4 tokens a sequence, whose rise has the deviation sqrt(0.002 / 2.5e8), which is
#: 2.8284e-6; the median of four has 8/3 of the share; the largest rise is 0.002, of the second sequence, and
#: the largest KL 0.0011. The rms has half the maximum, and of the reference the floor.
SHARES = {
    "loss": (2e-6 + 0.05 * 2.8284e-6 * 8 / 3, 2.001e-3, 2e-6 + 2 * 0.002),
    "kl": (2e-6 + 0.01 * 0.001 * 8 / 3, 2.21e-4, 2e-6 + 0.4 * 0.0011),
    "reference": (2e-6, 2e-6, 2e-6),
}


@ELSEWHERE
@ALL_QUANTITIES
@pytest.mark.parametrize("measured", [None, NO_NOISE], ids=["none", "zero"])
def test_without_measured_noise_the_case_s_own_scale_is_left(
    make_record: MakeRecord, elsewhere: dict[str, Any], quantity: str, measured: Noise | None
) -> None:
    found = drift(make_record(), make_record(noise=measured, **elsewhere), quantity)
    assert bounds(found) == pytest.approx(SHARES[quantity], rel=1e-4)


@ELSEWHERE
@QUANTITIES
@pytest.mark.parametrize(("share", "over"), [(0.99, False), (1.01, True)], ids=["within", "beyond"])
def test_the_case_s_own_scale_judges(
    make_record: MakeRecord, elsewhere: dict[str, Any], quantity: str, share: float, over: bool
) -> None:
    baseline = make_record(noise=None, **elsewhere)
    median, _, most = SHARES[quantity]
    for changes, which in (([share * median] * 4, {"median"}), ([share * most, 0, 0, 0], {"rms", "max"})):
        record = changed(make_record, quantity, *changes)
        assert beyond(drift(record, baseline, quantity)) == (which if over else set())
        assert judge(record, baseline, WIDE).failed_steps == failed(over, 6)


def test_the_largest_fall_of_a_sequence_counts_as_the_largest_rise_does(make_record: MakeRecord) -> None:
    losses = [value - 0.003 * (place == 2) for place, value in enumerate(REFERENCE)]
    baseline = make_record(sequence_losses=losses, noise=None, **OTHER_PRODUCTS)
    assert drift(baseline, baseline, "loss").max_bound == 1e-9
    found = drift(make_record(sequence_losses=losses), baseline, "loss")
    assert found.max_bound == pytest.approx(2e-6 + 2 * 0.003, rel=1e-9)


@pytest.mark.parametrize("measured", [None, NO_NOISE], ids=["none", "zero"])
@QUANTITIES
@pytest.mark.parametrize(("change", "over"), [(1.9e-6, False), (2.1e-6, True)], ids=["within", "beyond"])
def test_a_case_that_is_its_reference_has_the_floor_alone(
    make_record: MakeRecord, measured: Noise | None, quantity: str, change: float, over: bool
) -> None:
    """As of fp32: no KL, no rise, no share of them."""
    same = {"kl": 0.0, "sequence_kl": [0.0] * 4, "sequence_losses": REFERENCE}
    same |= {"bit_equal": True, "changes_bits": False}
    field, _, _ = FIELDS[quantity]
    baseline = make_record(**same, noise=measured, **OTHER_PRODUCTS)
    record = make_record(**{**same, field: [value + change for value in getattr(baseline, field)]})
    found = drift(record, baseline, quantity)
    assert bounds(found) == (2e-6, 2e-6, 2e-6)
    assert judge(record, baseline, WIDE).failed_steps == failed(over, 6)


# What is no number


@HERE_OR_ELSEWHERE
@ALL_QUANTITIES
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=["nan", "inf", "minus-inf"])
@pytest.mark.parametrize("place", [0, 1, 3])
def test_one_sequence_that_is_no_number_fails(
    make_record: MakeRecord, elsewhere: dict[str, Any], quantity: str, value: float, place: int
) -> None:
    """Wherever it stands: an order has no place for NaN, and a maximum forgets it."""
    field, values, step = FIELDS[quantity]
    record = make_record(**{field: [*values[:place], value, *values[place + 1 :]]})
    baseline = make_record(**elsewhere)
    found = drift(record, baseline, quantity)
    assert not found.within
    assert not found.share <= 1
    assert step in judge(record, baseline, WIDE).failed_steps


# The figures themselves


def test_moved_by_hand() -> None:
    found = drift_of([3.0, -4.0, 0.0, 0.0], (6.0, 5.0, 8.0))
    assert (found.median, found.rms, found.max) == (1.5, 2.5, 4.0)
    assert bounds(found) == (6.0, 5.0, 8.0)
    assert found.within


@pytest.mark.parametrize(
    ("bound", "share"),
    [((1.5, 25.0, 40.0), 1.0), ((15.0, 2.5, 40.0), 1.0), ((15.0, 25.0, 2.0), 2.0), ((3.0, 25.0, 40.0), 0.5)],
    ids=["median", "rms", "max-beyond", "half"],
)
def test_the_share_is_that_of_the_nearest_bound(bound: tuple[float, float, float], share: float) -> None:
    found = drift_of([3.0, -4.0, 0.0, 0.0], bound)
    assert found.share == share
    assert found.within is (share <= 1)
