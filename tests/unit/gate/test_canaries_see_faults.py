"""Faults of the gate, one by one, and the canary that must see each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mxcheck.gate.canaries.check import broken_gate, missed
from mxcheck.sensitivity.fault import Fault, Rewrite, Setting, applied
from mxcheck.sensitivity.fault_place import (
    Step,
    argument,
    call,
    choice,
    comparison,
    condition,
    constant,
    entry,
    loop,
    mention,
    operation,
    returned,
    statement,
    value,
)

VERDICT, DRIFT, STATISTICS = "mxcheck.gate.verdict", "mxcheck.gate.drift", "mxcheck.gate.statistics"
BUDGET, CASE, BASELINE = "mxcheck.gate.budget", "mxcheck.gate.case", "mxcheck.gate.baseline"
DECISION, NOISE = "mxcheck.gate.decision", "mxcheck.gate.noise"


def broken(*changes: Rewrite | Setting) -> Fault:
    return Fault(name="canary", group="gate", what="a fault of the gate", source="this test", changes=changes)


def seen(*changes: Rewrite | Setting) -> set[str]:
    with applied(broken(*changes)):
        return {name for name, _ in missed()}


def times(factor: float) -> Callable[[Any], Any]:
    return lambda value: value * factor


def nth_times(index: int, factor: float) -> Callable[[Any], Any]:
    return lambda pair: tuple(value * factor if i == index else value for i, value in enumerate(pair))


SETTINGS = [
    (f"{DRIFT}:NOISE_MULTIPLE", times(10), "drift-up-elsewhere", "multiple-tenfold"),
    (f"{DRIFT}:NOISE_MULTIPLE", times(2.5), "kl-drift-elsewhere", "multiple-wider"),
    (f"{DRIFT}:NOISE_MULTIPLE", times(0.1), "drift-noise", "multiple-tenth"),
    (f"{DRIFT}:NOISE_FLOOR", times(10), "reference-floor", "floor-tenfold"),
    (f"{DRIFT}:NOISE_FLOOR", times(0.1), "reference-floor-noise", "floor-tenth"),
    (f"{DRIFT}:EXACT_TOLERANCE", times(10), "drift-down", "exact-tenfold"),
    (f"{DRIFT}:EXACT_TOLERANCE", times(0.1), "drift-none", "exact-tenth"),
    (f"{DRIFT}:EXACT_TOLERANCE", times(10), "metric", "exact-tenfold-metrics"),
    (f"{DRIFT}:LOSS_SHARES", nth_times(0, 10), "drift-share", "share-of-losses-median"),
    (f"{DRIFT}:LOSS_SHARES", nth_times(1, 10), "drift-share-one", "share-of-losses-max"),
    (f"{DRIFT}:LOSS_SHARES", nth_times(0, 0.1), "drift-share-noise", "share-of-losses-median-tenth"),
    (f"{DRIFT}:LOSS_SHARES", nth_times(1, 0.1), "drift-share-one-noise", "share-of-losses-max-tenth"),
    (f"{DRIFT}:KL_SHARES", nth_times(0, 10), "kl-drift-share", "share-of-kl-median"),
    (f"{DRIFT}:KL_SHARES", nth_times(0, 0.1), "kl-drift-share-noise", "share-of-kl-median-tenth"),
    (f"{DRIFT}:KL_SHARES", nth_times(1, 10), "kl-drift-share-one", "share-of-kl-max"),
    (f"{DRIFT}:KL_SHARES", nth_times(1, 0.1), "kl-drift-share-one-noise", "share-of-kl-max-tenth"),
    (f"{VERDICT}:SELF_SAMPLED_Z", times(10), "loss-above-entropy", "sampling-tenfold"),
    (f"{VERDICT}:SELF_SAMPLED_Z", times(0.1), "loss-near-entropy", "sampling-tenth"),
    (f"{VERDICT}:UPPER_95", times(0), "rise-uncertain", "no-upper-bound"),
    (f"{VERDICT}:UPPER_95", times(-1), "rise-uncertain", "lower-bound"),
    (f"{VERDICT}:_IDENTITY", lambda names: names[1:], "another-model", "identity-without-model"),
    (f"{VERDICT}:_IDENTITY", lambda names: names[:-1], "another-options", "identity-without-options"),
    (f"{VERDICT}:_INCIDENTAL", lambda names: (*names, "block_length"), "corpus", "corpus-incidental"),
    (f"{VERDICT}:_INCIDENTAL", lambda _: (), "corpus-revision", "nothing-incidental"),
]

#: By function: a place in it, what stands there instead, and the canary.
REWRITES: dict[str, list[tuple[tuple[Step, ...], str, str]]] = {
    f"{VERDICT}:judge": [
        ((call("_comparable"), argument(2)), "record", "recipe-field"),
        ((call("_fingerprints"), argument(2)), "record", "weights-changed"),
        ((call("_same_corpus"), argument(2)), "record", "corpus"),
        ((call("_reference"), argument(2)), "record", "reference-down"),
        ((call("_conversion"), argument(2)), "record", "module-lost"),
        ((call("_casts"), argument(2)), "record", "weight-digest"),
        ((call("_drift"), argument(2)), "record", "drift-down-elsewhere"),
        ((call("_budget"),), "()", "kl-over"),
    ],
    f"{VERDICT}:_fingerprints": [
        ((operation("|"),), "record.fingerprints.keys()", "tokens-missing"),
    ],
    f"{VERDICT}:_comparable": [
        ((entry("recipe"), argument(2)), "_leaves(record.recipe)", "recipe-field"),
    ],
    f"{VERDICT}:_casts": [
        (
            (value("changed"), comparison("digests")),
            "record.digests.get(name, {}).get(what) != record.digests.get(name, {}).get(what)",
            "operands-digest",
        ),
        ((constant("operands"),), "'weight'", "operands-digest"),
        ((operation("|"),), "record.digests.keys()", "digests-missing"),
        ((value("changed"), mention("names")), "it[:1]", "weight-digest"),
    ],
    f"{VERDICT}:_conversion": [
        ((value("lost"),), "[]", "module-lost"),
        ((value("added"),), "[]", "module-added"),
        ((value("moved"), condition("replaced")), "False", "role"),
        ((value("passed"),), "True", "nothing-quantized"),
        ((condition("changes_bits"),), "not record.changes_bits", "bits-changed"),
        ((value("passed"),), "not record.bit_equal", "no-bits-changed"),
    ],
    f"{VERDICT}:_changed": [
        ((value("then"),), "({}, {})", "reason"),
    ],
    f"{VERDICT}:_reference": [
        ((comparison("z"),), "z <= bound", "argmax"),
        ((comparison("z"),), "-z <= bound", "loss-above-entropy"),
        ((condition("self_sampled"),), "False", "argmax-alone"),
        ((condition("self_sampled"),), "True", "text-of-others"),
    ],
    f"{VERDICT}:_budget": [
        ((comparison("kl"),), "record.kl <= 10 * budget.kl", "kl-over"),
        ((comparison("kl"),), "record.kl <= 1.02 * budget.kl", "kl-over-alone"),
        ((comparison("kl"),), "not record.kl > budget.kl", "kl-not-a-number"),
        ((comparison("held"),), "held <= 10 * bound", "rise-over"),
        ((comparison("held"),), "abs(held) <= bound", "fall"),
        ((comparison("held"),), "True", "rise-of-one"),
        ((value("held"),), "mean", "rise-uncertain"),
        ((value("held"),), "upper", "rise-of-one-within"),
    ],
    f"{VERDICT}:sampling_allowance": [
        ((constant(4),), "40", "rise-over"),
        ((constant(4),), "0", "rise-under"),
    ],
    f"{VERDICT}:rise": [
        ((mention("reference_losses"),), "record.sequence_losses", "rise-over"),
    ],
    f"{DRIFT}:drift": [
        ((value("change"), argument(2)), "getattr(record, field)", "drift-up"),
        ((choice("same_arithmetic"),), "None", "drift-noise"),
        ((choice("same_arithmetic"),), "_noise_bounds(baseline, quantity)", "drift-up"),
        ((entry("kl"),), "'sequence_losses'", "kl-drift"),
    ],
    f"{DRIFT}:moved": [
        ((argument("median"),), "0.0", "drift-up-elsewhere"),
        ((argument("median"),), "sorted(change)[len(change) // 2]", "drift-down-elsewhere"),
        ((argument("median"),), "rms(change)", "drift-share-one-noise"),
        ((argument("rms"),), "0.0", "drift-rms-elsewhere"),
        ((argument("rms"),), "abs(sum(change) / len(change))", "drift-signs-elsewhere"),
        ((argument("max"),), "max(change)", "drift-one-down-elsewhere"),
        ((argument("max"),), "0.0", "drift-one-elsewhere"),
        ((argument("median_bound"),), "rms_bound", "kl-drift-share"),
        ((argument("rms_bound"),), "max_bound", "kl-drift-some-elsewhere"),
        ((argument("rms_bound"),), "median_bound", "drift-share-one-noise"),
        ((argument("max_bound"),), "rms_bound", "drift-one-elsewhere"),
    ],
    f"{DRIFT}:Drift.within": [
        ((comparison("median"),), "True", "kl-drift-elsewhere"),
        ((comparison("rms"),), "True", "drift-signs-elsewhere"),
        ((comparison("max"),), "True", "kl-drift-one-down-elsewhere"),
    ],
    f"{DRIFT}:same_arithmetic": [
        ((comparison("arithmetic"),), "True", "drift-noise"),
        ((comparison("reference_losses"),), "True", "drift-noise-reference"),
    ],
    f"{DRIFT}:_noise_bounds": [
        ((returned(), call("max", nth=2)), "median + least_median + 1.0", "drift-share"),
        ((returned(), call("max", nth=2)), "median", "drift-share-noise"),
        ((returned(), call("max", nth=2)), "least_median", "drift-noise"),
        ((value("most", nth=2), call("max")), "most", "drift-share-one-noise"),
        ((value("most", nth=2), call("max")), "least_max", "drift-noise-one"),
        ((returned(), call("max", nth=3)), "NOISE_FLOOR + root", "drift-share-one-noise"),
        ((returned(), call("max", nth=3)), "alone", "reference-floor-noise"),
        ((returned(), call("max", nth=3)), "NOISE_FLOOR + root + most", "drift-rms-elsewhere"),
        ((value("alone"),), "most", "drift-rms-elsewhere"),
        ((value("middle"),), "most", "drift-share"),
        ((constant("median"),), "'rms'", "drift-up-elsewhere"),
        ((constant("rms"),), "'max'", "drift-rms-elsewhere"),
        ((constant("max"),), "'rms'", "drift-one-elsewhere"),
    ],
    f"{DRIFT}:_least": [
        ((value("tokens"),), "baseline.scored_tokens", "drift-share-noise"),
        ((operation("/", nth=2),), "2 * max(0.0, baseline.kl)", "drift-share"),
        (
            (mention("rises"), statement(), call("largest")),
            "max(baseline.sequence_losses)",
            "drift-share-one",
        ),
        ((mention("sequence_kl"), statement(), call("largest")), "0.0", "kl-drift-share-one-noise"),
        ((constant("reference"),), "'none'", "reference-floor"),
    ],
    f"{VERDICT}:_drift": [
        ((constant("kl"),), "'loss'", "kl-drift"),
        ((operation("-"),), "()", "metric-not-accepted"),
    ],
    f"{STATISTICS}:largest": [
        ((call("abs"),), "value", "drift-one-down"),
    ],
    f"{STATISTICS}:rms": [
        ((returned(),), "fmean(map(abs, values))", "rms"),
        ((returned(),), "abs(fmean(values))", "drift-signs-elsewhere"),
    ],
    f"{STATISTICS}:typical": [
        ((condition("isnan"),), "False", "typical"),
        ((call("abs"),), "value", "drift-down-elsewhere"),
        ((mention("median"),), "fmean", "kl-drift-share-one-noise"),
    ],
    f"{STATISTICS}:differences": [
        ((operation("-"),), "max(it, 0.0)", "drift-down"),
        ((operation("-"),), "b - a", "fall"),
    ],
    f"{STATISTICS}:mean_and_error": [
        ((operation("/"),), "stdev(values)", "rise-within"),
        ((call("sqrt"),), "len(values)", "mean"),
    ],
    f"{BUDGET}:Budgets.of": [
        ((mention("_tables"),), "reversed(it)", "budget-theirs"),
        ((mention("max"),), "min", "budget-fewer"),
        ((call("range"),), "range(1)", "budget-own"),
    ],
    f"{BUDGET}:_line": [
        ((condition("section"), loop()), "it[::-1]", "budget-model"),
        ((constant("rise"),), "''", "budget-rise"),
    ],
    f"{BUDGET}:load_budgets": [
        ((returned(nth=2), argument(1)), "it[::-1]", "budget-file"),
    ],
    f"{CASE}:Case.baseline": [
        ((call("Path"),), "Path()", "path-model"),
    ],
    f"{CASE}:Case.stage": [
        ((call("join"), argument(1)), "[self.plain]", "path"),
    ],
    f"{CASE}:Case.plain": [
        ((choice("tier"),), "self.precision", "path-tier"),
    ],
    f"{CASE}:Case.budget_key": [
        ((call("join"), argument(1)), "[self.plain]", "budget-key"),
    ],
    f"{BASELINE}:decode": [
        ((condition("seal"),), "False", "file-seal"),
        ((condition("seal"),), "seal and seal != expected", "file-no-seal"),
        ((comparison("FORMAT_VERSION"),), "False", "file-version"),
    ],
    f"{BASELINE}:encode": [
        ((call("as_dict"),), "{**it, 'kl': 0.0}", "file"),
        (
            (call("as_dict"),),
            "json.loads(json.dumps(it), parse_float=lambda text: round(float(text), 6))",
            "file-last-digit",
        ),
    ],
    f"{DECISION}:decide": [
        ((condition("alone"), mention("passed")), "True", "update-budget"),
        ((value("alone"), argument(3)), "Budget(kl=9.0, rise=9.0)", "update-budget-new"),
        ((value("verdict"), argument(2)), "record", "held-moved"),
        ((value("updating"), mention("exists")), "False", "new-only-there"),
        ((condition("alone"), mention("recentre")), "False", "recentre-moved"),
        ((condition("alone"), mention("holds")), "False", "update-same"),
        ((constant("accepted", nth=2),), "'measured'", "recentre"),
    ],
    f"{DECISION}:weigh": [
        ((call("decide"), argument(2)), "record", "file-held"),
    ],
    f"{NOISE}:worst": [
        ((call("typical"), statement(), mention("max")), "min", "noise-second"),
        ((call("rms"), statement(), mention("max")), "min", "noise"),
        ((call("largest"), statement(), mention("max")), "min", "noise-second"),
        ((condition("digests"),), "False", "noise-digests"),
        ((condition("failure"),), "False", "noise-failure"),
        ((value("trials"),), "list(trials)", "noise-unavailable"),
        ((value("changes"), mention("trials")), "it[:1]", "noise"),
    ],
}


@pytest.mark.parametrize(
    ("target", "value", "name"),
    [pytest.param(target, value, name, id=label) for target, value, name, label in SETTINGS],
)
def test_another_constant(target: str, value: Callable[[Any], Any], name: str) -> None:
    assert name in seen(Setting(target=target, value=value))


@pytest.mark.parametrize(
    ("target", "path", "to", "name"),
    [
        pytest.param(target, path, to, name, id=f"{target.rpartition(':')[2]}-{index}-{name}")
        for target, rewrites in REWRITES.items()
        for index, (path, to, name) in enumerate(rewrites)
    ],
)
def test_another_code(target: str, path: tuple[Step, ...], to: str, name: str) -> None:
    assert name in seen(Rewrite(target=target, at=path, to=to))


def test_what_is_said_is_one_line() -> None:
    with applied(broken(Setting(target=f"{DRIFT}:EXACT_TOLERANCE", value=times(10)))):
        said = broken_gate()
    assert said.startswith(
        "the gate misjudges canary drift-up: all losses rose by 2e-9 on the accepting machine; "
        "expected step 6 to fail, nothing did (and "
    )
    assert said.endswith("or install mxcheck anew")
    assert "mxcheck itself is broken" in said
    assert "\n" not in said


def test_a_false_alarm_is_told_as_one() -> None:
    with applied(broken(Setting(target=f"{DRIFT}:NOISE_FLOOR", value=times(0.1)))):
        said = broken_gate()
    assert said.startswith(
        "the gate misjudges canary reference-floor-noise: nothing: they rose by 1e-6; "
        "expected nothing to fail, step 2 did; "
    )
