"""The user's own metrics in step 6."""

from __future__ import annotations

from collections.abc import Callable

from mxcheck.gate.bounds_tables import Bounds
from mxcheck.gate.record import Record
from mxcheck.gate.verdict import judge

WIDE = Bounds(kl=1.0, rise=1.0)
ACCEPTED = {"surprise": [1.0, 2.0, 3.0, 4.0]}
MOVED = {"surprise": [1.0, 2.0, 3.0, 4.0 + 1e-6]}


def test_equal_values_pass(make_record: Callable[..., Record]) -> None:
    verdict = judge(make_record(metrics=ACCEPTED), make_record(metrics=ACCEPTED), WIDE)
    assert verdict.passed
    assert any("metric surprise moved" in check.message for check in verdict.checks)


def test_a_moved_value_is_red_on_a_machine_of_the_same_arithmetic(make_record: Callable[..., Record]) -> None:
    (check,) = judge(make_record(metrics=MOVED), make_record(metrics=ACCEPTED), WIDE).failures
    assert check.step == 6
    assert check.message == (
        "metric surprise moved by sequence: median 0.00e+00 (bound 1.00e-09), "
        "rms 5.00e-07 (bound 1.00e-09), max 1.00e-06 (bound 1.00e-09)"
    )


def test_it_is_not_judged_on_a_machine_of_other_arithmetic(make_record: Callable[..., Record]) -> None:
    record = make_record(metrics=MOVED, arithmetic="another machine's")
    assert judge(record, make_record(metrics=ACCEPTED), WIDE).passed


def test_a_metric_that_was_never_accepted_is_red_and_named(make_record: Callable[..., Record]) -> None:
    """So that an update takes it in: what passes is not rewritten."""
    (check,) = judge(make_record(metrics=ACCEPTED), make_record(), WIDE).failures
    assert (check.step, check.message) == (6, "metrics without accepted values: surprise")


def test_a_run_without_an_accepted_metric_passes(make_record: Callable[..., Record]) -> None:
    assert judge(make_record(), make_record(metrics=ACCEPTED), WIDE).passed
