"""Faults of the gate, one by one, and the canary that must see each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mxcheck.gate.canaries.check import broken_gate, missed
from mxcheck.sensitivity.fault import Edit, Fault, Setting, applied

VERDICT, DRIFT, STATISTICS = "mxcheck.gate.verdict", "mxcheck.gate.drift", "mxcheck.gate.statistics"
BUDGET, CASE, BASELINE = "mxcheck.gate.budget", "mxcheck.gate.case", "mxcheck.gate.baseline"
DECISION, NOISE = "mxcheck.gate.decision", "mxcheck.gate.noise"


def broken(*changes: Edit | Setting) -> Fault:
    return Fault(name="canary", group="gate", what="a fault of the gate", source="this test", changes=changes)


def seen(*changes: Edit | Setting) -> set[str]:
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

#: By function: a piece of its source, what stands there instead, and the canary.
EDITS = {
    f"{VERDICT}:judge": [
        ("_comparable(record, baseline)", "_comparable(record, record)", "recipe-field"),
        ("*_fingerprints(record, baseline)", "*_fingerprints(record, record)", "weights-changed"),
        ("_same_corpus(record, baseline)", "_same_corpus(record, record)", "corpus"),
        ("_reference(record, baseline)", "_reference(record, record)", "reference-down"),
        ("_modules(record, baseline)", "_modules(record, record)", "module-lost"),
        ("_casts(record, baseline)", "_casts(record, record)", "weight-digest"),
        ("_drift(record, baseline)", "_drift(record, record)", "drift-down-elsewhere"),
        ("tuple(_budget(record, budget))", "()", "kl-over"),
        ("(*own_samples, bits, *bounds)", "(bits, *bounds)", "argmax-alone"),
        ("(*own_samples, bits, *bounds)", "(*own_samples, *bounds)", "update-idle"),
        (
            "Verdict(checks=(comparable,), alone=alone)",
            "Verdict(checks=(comparable,), alone=())",
            "update-budget-recipe",
        ),
    ],
    f"{VERDICT}:_fingerprints": [
        ("| baseline.fingerprints.keys()", "", "tokens-missing"),
    ],
    f"{VERDICT}:_comparable": [
        ("_leaves(baseline.recipe)", "_leaves(record.recipe)", "recipe-field"),
    ],
    f"{VERDICT}:_casts": [
        (
            "baseline.digests.get(name, {}).get(what)",
            "record.digests.get(name, {}).get(what)",
            "operands-digest",
        ),
        ('"operands", "operands of', '"weight", "operands of', "operands-digest"),
        ("| baseline.digests.keys()", "", "digests-missing"),
        (
            "for name in names\n            if record",
            "for name in names[:1]\n            if record",
            "weight-digest",
        ),
    ],
    f"{VERDICT}:_modules": [
        ("sorted(baseline.replaced.keys() - record.replaced.keys())", "[]", "module-lost"),
        ("sorted(record.replaced.keys() - baseline.replaced.keys())", "[]", "module-added"),
        ("if record.replaced[name] != baseline.replaced[name]", "if False", "role"),
    ],
    f"{VERDICT}:_bits": [
        ("record.bit_equal is not record.changes_bits", "True", "nothing-quantized"),
        ("if record.changes_bits is None:", "if not record.changes_bits:", "bits-changed"),
        ("record.bit_equal is not record.changes_bits", "not record.bit_equal", "no-bits-changed"),
    ],
    f"{VERDICT}:_changed": [
        ("then = record.unconverted, baseline.unconverted", "then = {}, {}", "reason"),
    ],
    f"{VERDICT}:_own_samples": [
        ("abs(z) <= bound", "z <= bound", "argmax"),
        ("abs(z) <= bound", "-z <= bound", "loss-above-entropy"),
        ("if record.self_sampled:", "if False:", "argmax-alone"),
        ("if record.self_sampled:", "if True:", "text-of-others"),
    ],
    f"{VERDICT}:_budget": [
        ("record.kl <= budget.kl", "record.kl <= 10 * budget.kl", "kl-over"),
        ("record.kl <= budget.kl", "record.kl <= 1.02 * budget.kl", "kl-over-alone"),
        ("record.kl <= budget.kl", "not record.kl > budget.kl", "kl-not-a-number"),
        ("held <= bound", "held <= 10 * bound", "rise-over"),
        ("held <= bound", "abs(held) <= bound", "fall"),
        ("held <= bound", "True", "rise-of-one"),
        ("mean if math.isinf(error) else upper", "mean", "rise-uncertain"),
        ("mean if math.isinf(error) else upper", "upper", "rise-of-one-within"),
    ],
    f"{VERDICT}:sampling_allowance": [
        ("return 4 *", "return 40 *", "rise-over"),
        ("return 4 *", "return 0 *", "rise-under"),
    ],
    f"{VERDICT}:rise": [
        ("record.reference_losses", "record.sequence_losses", "rise-over"),
    ],
    f"{DRIFT}:drift": [
        ("getattr(baseline, field)", "getattr(record, field)", "drift-up"),
        ("if same_arithmetic(record, baseline)", "if True", "drift-noise"),
        ("if same_arithmetic(record, baseline)", "if False", "drift-up"),
        ('"kl": "sequence_kl"', '"kl": "sequence_losses"', "kl-drift"),
    ],
    f"{DRIFT}:moved": [
        ("median=typical(change)", "median=0.0", "drift-up-elsewhere"),
        ("median=typical(change)", "median=sorted(change)[len(change) // 2]", "drift-down-elsewhere"),
        ("median=typical(change)", "median=rms(change)", "drift-share-one-noise"),
        ("rms=rms(change)", "rms=0.0", "drift-rms-elsewhere"),
        ("rms=rms(change)", "rms=abs(sum(change) / len(change))", "drift-signs-elsewhere"),
        ("max=largest(change)", "max=max(change)", "drift-one-down-elsewhere"),
        ("max=largest(change)", "max=0.0", "drift-one-elsewhere"),
        ("median_bound=median_bound", "median_bound=rms_bound", "kl-drift-share"),
        ("rms_bound=rms_bound", "rms_bound=max_bound", "kl-drift-some-elsewhere"),
        ("rms_bound=rms_bound", "rms_bound=median_bound", "drift-share-one-noise"),
        ("max_bound=max_bound", "max_bound=rms_bound", "drift-one-elsewhere"),
    ],
    f"{DRIFT}:Drift.within": [
        ("self.median <= self.median_bound and", "", "kl-drift-elsewhere"),
        ("and self.rms <= self.rms_bound", "", "drift-signs-elsewhere"),
        ("and self.max <= self.max_bound", "", "kl-drift-one-down-elsewhere"),
    ],
    f"{DRIFT}:same_arithmetic": [
        ("record.arithmetic == baseline.arithmetic and", "", "drift-noise"),
        ("and record.reference_losses == baseline.reference_losses", "", "drift-noise-reference"),
    ],
    f"{DRIFT}:_noise_bounds": [
        ("max(median, least_median)", "median + least_median + 1.0", "drift-share"),
        ("max(median, least_median)", "median", "drift-share-noise"),
        ("max(median, least_median)", "least_median", "drift-noise"),
        ("max(most, least_max)", "most", "drift-share-one-noise"),
        ("max(most, least_max)", "least_max", "drift-noise-one"),
        ("max(NOISE_FLOOR + root, alone)", "NOISE_FLOOR + root", "drift-share-one-noise"),
        ("max(NOISE_FLOOR + root, alone)", "alone", "reference-floor-noise"),
        ("max(NOISE_FLOOR + root, alone)", "NOISE_FLOOR + root + most", "drift-rms-elsewhere"),
        ("most / math.sqrt(sequences)", "most", "drift-rms-elsewhere"),
        ("most / sequences if sequences < 3 else 0.0", "most", "drift-share"),
        ('("median", "rms", "max")', '("rms", "rms", "max")', "drift-up-elsewhere"),
        ('("median", "rms", "max")', '("median", "max", "max")', "drift-rms-elsewhere"),
        ('("median", "rms", "max")', '("median", "rms", "rms")', "drift-one-elsewhere"),
    ],
    f"{DRIFT}:_least": [
        ("/ len(baseline.sequence_losses)", "", "drift-share-noise"),
        ("max(0.0, baseline.kl) / tokens", "max(0.0, baseline.kl)", "drift-share"),
        (
            "LOSS_SHARES[1] * largest(rises)",
            "LOSS_SHARES[1] * max(baseline.sequence_losses)",
            "drift-share-one",
        ),
        ("largest(baseline.sequence_kl)", "0.0", "kl-drift-share-one-noise"),
        ('quantity == "reference"', 'quantity == "none"', "reference-floor"),
    ],
    f"{VERDICT}:_drift": [
        ('drift(record, baseline, "kl")', 'drift(record, baseline, "loss")', "kl-drift"),
        ("record.metrics.keys() - baseline.metrics.keys()", "()", "metric-not-accepted"),
    ],
    f"{STATISTICS}:largest": [
        ("abs(value)", "value", "drift-one-down"),
    ],
    f"{STATISTICS}:rms": [
        (
            "math.sqrt(fmean(value * value for value in values))",
            "fmean(map(abs, values))",
            "rms",
        ),
        (
            "math.sqrt(fmean(value * value for value in values))",
            "abs(fmean(values))",
            "drift-signs-elsewhere",
        ),
    ],
    f"{STATISTICS}:typical": [
        ("if any(map(math.isnan, values)):", "if False:", "typical"),
        ("median(abs(value)", "median(value", "drift-down-elsewhere"),
        ("return median(", "return fmean(", "kl-drift-share-one-noise"),
    ],
    f"{STATISTICS}:differences": [
        ("a - b for", "max(a - b, 0.0) for", "drift-down"),
        ("a - b for", "b - a for", "fall"),
    ],
    f"{STATISTICS}:mean_and_error": [
        ("/ math.sqrt(len(values))", "", "rise-within"),
        ("/ math.sqrt(len(values))", "/ len(values)", "mean"),
    ],
    f"{BUDGET}:Budgets.of": [
        ("in self._tables:", "in reversed(self._tables):", "budget-theirs"),
        ("return max(", "return min(", "budget-fewer"),
        ("range(len(options), -1, -1)", "range(1)", "budget-own"),
    ],
    f"{BUDGET}:_line": [
        (
            'table.get("models", {}).get(model, {}), table.get("default", {})',
            'table.get("default", {}), table.get("models", {}).get(model, {})',
            "budget-model",
        ),
        ('"rise", entry["kl"]', '"", entry["kl"]', "budget-rise"),
    ],
    f"{BUDGET}:load_budgets": [
        ("own]), ours]", "own]), ours][::-1]", "budget-file"),
    ],
    f"{CASE}:Case.baseline": [
        ("Path(self.model) /", "Path() /", "path-model"),
    ],
    f"{CASE}:Case.stage": [
        ("[self.plain, *self.options]", "[self.plain]", "path"),
    ],
    f"{CASE}:Case.plain": [
        ("if self.tier is None", "if True", "path-tier"),
    ],
    f"{CASE}:Case.budget_key": [
        ("[self.plain, *costly]", "[self.plain]", "budget-key"),
    ],
    f"{BASELINE}:decode": [
        ("if seal != expected:", "if False:", "file-seal"),
        ("if seal != expected:", "if seal and seal != expected:", "file-no-seal"),
        ('or data.get("format_version") != FORMAT_VERSION', "", "file-version"),
    ],
    f"{BASELINE}:encode": [
        ("**record.as_dict()}", "**record.as_dict(), 'kl': 0.0}", "file"),
        (
            "**record.as_dict()}",
            "**json.loads(json.dumps(record.as_dict()), parse_float=lambda text: round(float(text), 6))}",
            "file-last-digit",
        ),
    ],
    f"{DECISION}:decide": [
        ("verdict.acceptable and not holds", "not holds", "update-budget"),
        (
            "judge(record, accepted.record, budget)",
            "judge(record, accepted.record, Budget(kl=9.0, rise=9.0))",
            "update-budget-new",
        ),
        ("judge(record, accepted.record, budget)", "judge(record, record, budget)", "held-moved"),
        ("and not accepted.exists", "", "new-only-there"),
        ("and not update.recentre", "", "recentre-moved"),
        ("and not holds", "", "update-same"),
        (
            'outcome, write = Outcome.RECENTRED, "accepted"',
            'outcome, write = Outcome.RECENTRED, "measured"',
            "recentre",
        ),
    ],
    f"{DECISION}:read_accepted": [
        ("Accepted(record=read(path))", "Accepted(record=None)", "file-held"),
    ],
    f"{VERDICT}:Verdict.acceptable": [
        ("self.alone", "self.checks", "update"),
    ],
    f"{NOISE}:worst": [
        ('figures[f"{short}_median"] = max(', 'figures[f"{short}_median"] = min(', "noise-second"),
        ('figures[f"{short}_rms"] = max(', 'figures[f"{short}_rms"] = min(', "noise"),
        ('figures[f"{short}_max"] = max(', 'figures[f"{short}_max"] = min(', "noise-second"),
        ("if trial.digests != record.digests:", "if False:", "noise-digests"),
        ("if trial.failure:", "if False:", "noise-failure"),
        ("[trial for trial in trials if not trial.unavailable]", "list(trials)", "noise-unavailable"),
        ("in trials]\n", "in trials[:1]]\n", "noise"),
    ],
}


@pytest.mark.parametrize(
    ("target", "value", "name"),
    [pytest.param(target, value, name, id=label) for target, value, name, label in SETTINGS],
)
def test_another_constant(target: str, value: Callable[[Any], Any], name: str) -> None:
    assert name in seen(Setting(target=target, value=value))


@pytest.mark.parametrize(
    ("target", "old", "new", "name"),
    [
        pytest.param(target, old, new, name, id=f"{target.rpartition(':')[2]}-{index}-{name}")
        for target, edits in EDITS.items()
        for index, (old, new, name) in enumerate(edits)
    ],
)
def test_another_code(target: str, old: str, new: str, name: str) -> None:
    assert name in seen(Edit(target=target, old=old, new=new))


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
