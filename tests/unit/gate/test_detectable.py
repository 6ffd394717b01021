"""The smallest changes that are seen: formulas by hand, the stated power by simulation, the gate's bounds."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from sample_record import build_record

from mxcheck.gate.bounds_tables import Bounds
from mxcheck.gate.detectable import detectable, minimal_detectable_effect
from mxcheck.gate.record import Record
from mxcheck.gate.statistics import mean_and_error, student_quantile
from mxcheck.gate.verdict import judge

BOUNDS = Bounds(kl=0.004, rise=0.004)
TRIALS = 4000
#: Four standard deviations of the share of successes in so many trials.
POWER_ERROR = 4 * math.sqrt(0.8 * 0.2 / TRIALS)
ALARM_ERROR = 4 * math.sqrt(0.05 * 0.95 / TRIALS)


# Student's t


@pytest.mark.parametrize(
    ("probability", "degrees", "quantile"),
    [  # printed tables, such as NIST/SEMATECH e-Handbook 1.3.6.7.2
        pytest.param(0.95, 1, 6.314, id="1"),
        pytest.param(0.95, 2, 2.920, id="2"),
        pytest.param(0.95, 3, 2.353, id="3"),
        pytest.param(0.95, 15, 1.753, id="15"),
        pytest.param(0.95, 63, 1.669, id="63"),
        pytest.param(0.975, 10, 2.228, id="two-sided"),
        pytest.param(0.995, 30, 2.750, id="far-out"),
        pytest.param(0.5, 5, 0.0, id="median"),
    ],
)
def test_student_quantile(probability: float, degrees: int, quantile: float) -> None:
    assert student_quantile(probability, degrees) == pytest.approx(quantile, abs=6e-4)


def test_student_quantile_where_it_has_a_closed_form() -> None:
    """One degree of freedom: tan(pi (p - 1/2)); two: (2p - 1) / sqrt(2p (1 - p))."""
    assert student_quantile(0.8, 1) == pytest.approx(math.tan(0.3 * math.pi), rel=1e-12)
    assert student_quantile(0.8, 2) == pytest.approx(0.6 / math.sqrt(0.32), rel=1e-12)


def test_student_quantile_of_many_degrees_is_nearly_normal() -> None:
    assert student_quantile(0.95, 1000) == pytest.approx(1.646379, abs=1e-6)  # normal: 1.644854


@pytest.mark.parametrize(
    ("probability", "degrees"),
    [pytest.param(0.49, 3, id="below"), pytest.param(1.0, 3, id="one"), pytest.param(0.9, 0, id="no-degree")],
)
def test_what_has_no_quantile_is_refused(probability: float, degrees: int) -> None:
    with pytest.raises(ValueError, match=r"no quantile for probability .* allowed: 0\.5 <= probability < 1"):
        student_quantile(probability, degrees)


# Minimal detectable effect


@pytest.mark.parametrize(
    ("sequences", "multiple"),
    [  # t_0.95 + t_0.8: 2.3534 + 0.9785, 1.7531 + 0.8662, 1.6694 + 0.8474; normal: 1.6449 + 0.8416 = 2.4865
        pytest.param(4, 3.3318, id="4"),
        pytest.param(16, 2.6193, id="16"),
        pytest.param(64, 2.5168, id="64"),
        pytest.param(1, math.inf, id="1"),
    ],
)
def test_minimal_detectable_effect(sequences: int, multiple: float) -> None:
    assert minimal_detectable_effect(1.0, sequences) == pytest.approx(multiple, abs=1e-4)
    assert minimal_detectable_effect(0.5, sequences) == pytest.approx(multiple / 2, abs=1e-4)


def share_found(sequences: int, effect: float) -> float:
    """How often the one-sided 5 % test finds `effect`, given in true standard errors of the mean."""
    draws = random.Random(20261121)
    critical = student_quantile(0.95, sequences - 1)
    found = 0
    for _ in range(TRIALS):
        shift = effect / math.sqrt(sequences)
        mean, error = mean_and_error([draws.gauss(shift, 1.0) for _ in range(sequences)])
        found += mean > critical * error
    return found / TRIALS


@pytest.mark.parametrize("sequences", [8, 16, 64])
def test_the_stated_power_is_reached(sequences: int) -> None:
    effect = minimal_detectable_effect(1.0, sequences)
    assert share_found(sequences, effect) == pytest.approx(0.8, abs=POWER_ERROR)


@pytest.mark.parametrize("sequences", [8, 16, 64])
def test_the_stated_false_alarm_rate_is_kept(sequences: int) -> None:
    assert share_found(sequences, 0.0) == pytest.approx(0.05, abs=ALARM_ERROR)


def test_the_normal_multiple_would_not_do_for_few_sequences() -> None:
    """The simulation can tell: 1.645 + 0.842 standard errors of 8 sequences are found too seldom."""
    assert share_found(8, 2.4865) < 0.8 - POWER_ERROR


def clustered_alarms(*, by_sequence: bool) -> float:
    """False alarms where the tokens of a sequence share half of their variance."""
    draws = random.Random(5)
    trials, alarms = 1000, 0
    for _ in range(trials):
        sequences = []
        for _ in range(16):
            common = draws.gauss(0.0, 1.0)
            sequences.append([common + draws.gauss(0.0, 1.0) for _ in range(8)])
        tokens = [value for row in sequences for value in row]
        values = [math.fsum(row) / 8 for row in sequences] if by_sequence else tokens
        mean, error = mean_and_error(values)
        alarms += mean > student_quantile(0.95, len(values) - 1) * error
    return alarms / trials


def test_clustering_by_sequence_is_what_keeps_it() -> None:
    assert clustered_alarms(by_sequence=True) == pytest.approx(0.05, abs=4 * math.sqrt(0.0475 / 1000))
    assert clustered_alarms(by_sequence=False) > 0.15


# What is seen of a case


def test_figures_of_a_case() -> None:
    seen = detectable(build_record(), BOUNDS)
    assert (seen.sequences, seen.scored_tokens) == (4, 1_000_000_000)
    # changes 1.0e-3, 2.0e-3, 1.5e-3, 1.2e-3: squares about their mean sum to 5.675e-7; sqrt(5.675e-7 / 3 / 4)
    assert seen.rise_error == pytest.approx(2.174665e-4, rel=1e-6)
    assert seen.rise == pytest.approx(3.331836 * 2.174665e-4, rel=1e-6)
    assert seen.rise_percent == pytest.approx(100 * (3.331836 * 2.174665e-4), rel=1e-3)
    # losses 2.001, 2.102, 1.9015, 2.0512: squares about 2.013925 sum to 0.02195307; sqrt(2 / 4 * that / 3)
    assert seen.unpaired_percent == pytest.approx(100 * math.expm1(3.331836 * 0.0604884), rel=1e-5)
    assert seen.kl_headroom == pytest.approx(0.003, rel=1e-12)


def test_a_single_sequence_detects_no_rise() -> None:
    single = {name: [2.0] for name in ("reference_losses", "reference_entropies", "sequence_losses")}
    seen = detectable(build_record(**single, sequence_kl=[0.001]), BOUNDS)
    assert (seen.rise, seen.rise_percent, seen.unpaired_percent) == (math.inf, math.inf, math.inf)


def test_a_case_that_is_its_reference_has_no_sampling_error() -> None:
    losses = [2.0, 2.1, 1.9, 2.05]
    seen = detectable(build_record(sequence_losses=losses, reference_losses=losses), BOUNDS)
    assert (seen.rise, seen.rise_percent) == (0.0, 0.0)
    assert seen.unpaired_percent > 0


def drifts(record: Record, *, here: bool, losses: float = 0.0, kl: float = 0.0) -> bool:
    """Whether step 6 sees all sequences moved alike."""
    moved = replace(
        record,
        arithmetic=record.arithmetic if here else "another",
        sequence_losses=[value + losses for value in record.sequence_losses],
        sequence_kl=[value + kl for value in record.sequence_kl],
    )
    return 6 in judge(moved, record, BOUNDS).failed_steps


@pytest.mark.parametrize("here", [True, False], ids=["here", "elsewhere"])
def test_the_gate_sees_a_change_of_all_sequences_from_there_on(here: bool) -> None:
    record = build_record()
    seen = detectable(record, BOUNDS)
    bound = seen.loss_here if here else seen.loss_median_elsewhere
    assert drifts(record, here=here, losses=1.01 * bound)
    assert not drifts(record, here=here, losses=0.99 * bound)


def test_the_gate_sees_a_change_of_the_kl_from_there_on() -> None:
    record = build_record()
    bound = detectable(record, BOUNDS).kl_median_elsewhere
    assert drifts(record, here=False, kl=1.01 * bound)
    assert not drifts(record, here=False, kl=0.99 * bound)


def test_bounds_by_hand() -> None:
    """Medians: 4 times the stored ones, 8e-5 and 1.6e-5, and 8/3 of that for four sequences.
    Maxima: twice the largest rise, 2e-3, and 0.4 of the largest KL, 1.1e-3. And the floor."""
    seen = detectable(build_record(), BOUNDS)
    assert seen.loss_here == 1e-9
    assert (seen.loss_median_elsewhere, seen.loss_max_elsewhere) == pytest.approx(
        (2e-6 + 3.2e-4 * 8 / 3, 4.002e-3), rel=1e-9
    )
    assert (seen.kl_median_elsewhere, seen.kl_max_elsewhere) == pytest.approx(
        (2e-6 + 6.4e-5 * 8 / 3, 4.42e-4), rel=1e-9
    )


def test_one_sequence_may_move_by_the_maximum() -> None:
    record = build_record()
    bound = detectable(record, BOUNDS).loss_max_elsewhere
    for share, seen in ((1.01, True), (0.99, False)):
        first, *others = record.sequence_losses
        moved = replace(record, arithmetic="another", sequence_losses=[first + share * bound, *others])
        assert (6 in judge(moved, record, BOUNDS).failed_steps) is seen


def test_the_bound_ends_where_the_headroom_does() -> None:
    record = build_record()
    headroom = detectable(record, BOUNDS).kl_headroom
    for share, seen in ((1.01, True), (0.99, False)):
        moved = replace(record, kl=record.kl + share * headroom)
        assert (5 in judge(moved, None, BOUNDS).failed_steps) is seen
