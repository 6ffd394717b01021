"""Faults of the gate, one by one, and the known record that must see each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from validation.faults.fault import Fault, Rewrite, Setting, applied
from validation.faults.fault_place import (
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
from validation.known_verdicts.misjudged import missed

VERDICT, DRIFT, STATISTICS = "mxcheck.gate.verdict", "mxcheck.gate.drift", "mxcheck.gate.statistics"
BOUNDS, CASE, BASELINE = "mxcheck.gate.bounds_tables", "mxcheck.gate.case", "mxcheck.gate.baseline"
DECISION, NOISE = "mxcheck.gate.decision", "mxcheck.gate.noise"
INPUTS, HELD_CASTS, HELD = (
    "mxcheck.gate.accepted_inputs",
    "mxcheck.gate.held_casts",
    "mxcheck.gate.held_figures",
)
PREDICTIONS, SUBLAYERS = "mxcheck.gate.predictions", "mxcheck.gate.sublayer_drift"
COUNTS, ROWS = "mxcheck.gate.counter_changes", "mxcheck.gate.row_groups"


def broken(*changes: Rewrite | Setting) -> Fault:
    return Fault(
        name="made_up", group="gate", what="a fault of the gate", source="this test", changes=changes
    )


def seen(*changes: Rewrite | Setting) -> set[str]:
    with applied(broken(*changes)):
        return {name for name, _ in missed()}


def times(factor: float) -> Callable[[Any], Any]:
    return lambda value: value * factor


def nth_times(index: int, factor: float) -> Callable[[Any], Any]:
    return lambda pair: tuple(value * factor if i == index else value for i, value in enumerate(pair))


def without(name: str) -> Callable[[Any], Any]:
    """A tuple or a table that lacks this name."""
    return lambda names: (
        {key: value for key, value in names.items() if key != name}
        if isinstance(names, dict)
        else tuple(one for one in names if one != name)
    )


def figure_times(name: str, **factors: float) -> Callable[[Any], Any]:
    """One figure of the layers with other bounds."""

    def widened(figures: Any) -> Any:
        figure = figures[name]
        bounds = {bound: factor * getattr(figure, bound) for bound, factor in factors.items()}
        return {**figures, name: replace(figure, **bounds)}

    return widened


LAYER_FIGURES = ("gain", "gain_99", "norm", "norm_99", "size", "sketch")

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
    (f"{VERDICT}:UPPER_95", times(0.78), "rise-upper", "90-percent"),
    *(
        (f"{INPUTS}:_IDENTITY", without(name), f"another-{name}", f"identity-without-{name}")
        for name in ("kind", "subject", "model", "precision", "tier", "options")
    ),
    (f"{INPUTS}:_INCIDENTAL", lambda names: (*names, "block_length"), "corpus", "corpus-incidental"),
    (f"{INPUTS}:_INCIDENTAL", lambda _: (), "corpus-revision", "nothing-incidental"),
    *(
        (
            f"{HELD_CASTS}:_KINDS",
            lambda kinds, n=n: kinds[:n] + kinds[n + 1 :],
            f"{kind}-digest",
            f"no-{kind}",
        )
        for n, kind in enumerate(("codes", "scales", "operands"))
    ),
    (f"{DRIFT}:ENTROPY_SHARES", nth_times(0, 10), "entropy-share", "share-of-entropies-median"),
    (f"{DRIFT}:ENTROPY_SHARES", nth_times(0, 0.1), "entropy-share-noise", "share-of-entropies-median-tenth"),
    (f"{DRIFT}:ENTROPY_SHARES", nth_times(1, 10), "entropy-share-one", "share-of-entropies-max"),
    (f"{DRIFT}:ENTROPY_SHARES", nth_times(1, 0.1), "entropy-share-one-noise", "share-of-entropies-max-tenth"),
    (f"{DRIFT}:NOISE_MULTIPLE", times(10), "entropy-up-elsewhere", "multiple-tenfold-entropies"),
    (f"{DRIFT}:EXACT_TOLERANCE", times(10), "entropy-down", "exact-tenfold-entropies"),
    (f"{DRIFT}:EXACT_TOLERANCE", times(10), "top1-down", "exact-tenfold-top1"),
    (f"{DRIFT}:EXACT_TOLERANCE", times(0.1), "top1-none", "exact-tenth-top1"),
    (f"{DRIFT}:TOP1_SHARE", times(10), "top1-down-elsewhere", "share-of-top1-tenfold"),
    (f"{DRIFT}:TOP1_SHARE", times(2.2), "top1-up-elsewhere", "share-of-top1-wider"),
    (f"{DRIFT}:TOP1_SHARE", times(0.1), "top1-noise-down", "share-of-top1-tenth"),
    (f"{PREDICTIONS}:ESTIMATES_Z", times(10), "k3-above", "estimates-tenfold"),
    (f"{PREDICTIONS}:ESTIMATES_Z", times(0.1), "k3-near", "estimates-tenth"),
    (f"{PREDICTIONS}:K3_UP_TO", times(10), "k3-coarse", "k3-of-coarse-cases"),
    (f"{PREDICTIONS}:K3_UP_TO", times(0.1), "k3-fine", "k3-of-the-finest-only"),
    *(
        (f"{SUBLAYERS}:FIGURES", figure_times(name, **{bound: factor}), f"layers-{name}{suffix}", label)
        for name in LAYER_FIGURES
        for bound, factor, suffix in (
            ("typical", 10, ""),
            ("typical", 0.1, "-noise"),
            ("largest", 10, "-one"),
            ("largest", 0.1, "-one-noise"),
        )
        for label in [f"{bound}-of-{name}-{factor}"]
    ),
    *((f"{SUBLAYERS}:FIGURES", without(name), f"layers-{name}", f"no-{name}") for name in LAYER_FIGURES),
    *(
        (f"{SUBLAYERS}:EXACT_TOLERANCE", times(factor), f"layers-{name}{suffix}", f"{name}-exact-{factor}")
        for name in LAYER_FIGURES[:-1]
        if name != "size"  # which no machine of other arithmetic gives exactly
        for factor, suffix in ((10, "-here"), (0.1, "-none"))
    ),
    (f"{SUBLAYERS}:NOISE_MULTIPLE", times(10), "layers-measured", "multiple-of-layers-tenfold"),
    (f"{SUBLAYERS}:NOISE_MULTIPLE", times(10), "layers-measured-one", "multiple-of-one-layer-tenfold"),
    (f"{SUBLAYERS}:NOISE_MULTIPLE", times(0.1), "layers-measured-noise", "multiple-of-layers-tenth"),
    (f"{SUBLAYERS}:NOISE_MULTIPLE", times(0.1), "layers-measured-one-noise", "multiple-of-one-layer-tenth"),
    *(
        (f"{COUNTS}:SHARE", times(factor), suffix, f"share-of-counts-{factor}-{suffix}")
        for factor, ending in ((10, ""), (0.1, "-noise"))
        for suffix in (
            *(f"counts-{name}{ending}" for name in ("saturated", "flushed", "top", "zero_blocks")),
            f"rows{ending}",
        )
    ),
    *(
        (f"{COUNTS}:_VERBS", without(name), f"counts-{name}", f"counts-without-{name}")
        for name in ("saturated", "flushed", "top", "nan", "inf")
    ),
]

#: By function: a place in it, what stands there instead, and the known record.
REWRITES: dict[str, list[tuple[tuple[Step, ...], str, str]]] = {
    f"{VERDICT}:judge": [
        ((call("comparable"), argument(2)), "record", "recipe-field"),
        ((call("fingerprints"), argument(2)), "record", "weights-changed"),
        ((call("same_corpus"), argument(2)), "record", "corpus"),
        ((call("_reference"), argument(2)), "record", "reference-down"),
        ((call("_conversion"), argument(2)), "record", "module-lost"),
        ((call("casts_held"), argument(2)), "record", "codes-digest"),
        ((call("figures_held"), argument(2)), "record", "drift-down-elsewhere"),
        ((call("_own_samples"),), "()", "other-tokens"),
        ((call("_bits"),), "()", "nothing-quantized"),
        ((call("_bounds"),), "()", "kl-over"),
    ],
    f"{INPUTS}:fingerprints": [
        ((operation("|"),), "record.fingerprints.keys()", "tokens-missing"),
    ],
    f"{INPUTS}:comparable": [
        ((entry("recipe"), argument(2)), "_leaves(record.recipe)", "recipe-field"),
    ],
    f"{HELD_CASTS}:casts_held": [
        ((operation("|"),), "record.digests.keys()", "digests-missing"),
        ((value("changed"), mention("names")), "it[:1]", "codes-digest"),
        ((call("check", nth=2), argument(2)), "True", "scales-digest"),
    ],
    f"{HELD_CASTS}:_changed": [
        ((condition("now"),), "True", "file-held"),
        ((choice("now"),), "''", "operands-digest-missing"),
        ((mention("baseline"),), "record", "rows-digest"),
        ((mention("kind"),), "'codes'", "scales-digest"),
    ],
    f"{ROWS}:changed_rows": [
        ((comparison("now", nth=1),), "now.rows == then.rows", "rows-digest"),
        ((comparison("now", nth=1),), "now.groups == then.groups", "rows-fewer"),
        ((comparison("now", nth=1),), "sorted(now.groups) == sorted(then.groups)", "rows-digest-swapped"),
    ],
    f"{VERDICT}:_modules": [
        ((value("lost"),), "[]", "module-lost"),
        ((value("added"),), "[]", "module-added"),
        ((value("moved"), condition("replaced")), "False", "role"),
    ],
    f"{VERDICT}:_bits": [
        ((value("passed"),), "True", "nothing-quantized"),
        ((condition("changes_bits"),), "not record.changes_bits", "bits-changed"),
        ((value("passed"),), "not record.bit_equal", "no-bits-changed"),
    ],
    f"{VERDICT}:_conversion": [
        ((value("sizes"),), "('weight_bytes',)", "bytes-loaded"),
        ((value("sizes"),), "('original_bytes',)", "bytes-more"),
        ((value("lost"),), "set(), unknown.keys() - gone.keys()", "figure-lost"),
        ((value("lost"),), "gone.keys() - unknown.keys(), set()", "figure-new"),
        ((value("parts", nth=1),), "[]", "figure-part-lost"),
    ],
    f"{VERDICT}:_missing": [
        ((value("none"),), "[]", "figure-lost-silently"),
        ((mention("absent"),), "{}", "figure-part-new"),
    ],
    f"{VERDICT}:_changed": [
        ((returned(),), "sorted(record.unconverted.keys() ^ baseline.unconverted.keys())", "reason"),
    ],
    f"{VERDICT}:_own_samples": [
        ((comparison("z"),), "z <= bound", "argmax"),
        ((comparison("z"),), "-z <= bound", "loss-above-entropy"),
        ((condition("self_sampled"),), "True", "argmax-alone"),
        ((condition("self_sampled"),), "True", "other-tokens-alone"),
        ((condition("self_sampled"),), "False", "text-of-others"),
        ((condition("self_sampled"),), "False", "k3-text-of-others"),
        ((condition("found"),), "False", "k3-alone"),
    ],
    f"{VERDICT}:_bounds": [
        ((comparison("kl", nth=2),), "record.kl <= 10 * bounds.kl", "kl-over"),
        ((comparison("kl", nth=2),), "record.kl <= 1.02 * bounds.kl", "kl-over-alone"),
        ((comparison("kl", nth=2),), "not record.kl > bounds.kl", "kl-not-a-number"),
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
    f"{DRIFT}:drift_of": [
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
        ((call("noise_of"),), "(0.0, 0.0, 0.0)", "drift-noise"),
        ((call("bounds_elsewhere"), argument(2)), "(0.0, 0.0)", "drift-share-noise"),
    ],
    f"{DRIFT}:bounds_elsewhere": [
        ((returned(), call("max", nth=2)), "median + least[0] + 1.0", "drift-share"),
        ((returned(), call("max", nth=2)), "median", "drift-share-noise"),
        ((returned(), call("max", nth=2)), "least[0]", "drift-noise"),
        ((value("most", nth=2), call("max")), "most", "drift-share-one-noise"),
        ((value("most", nth=2), call("max")), "least[1]", "drift-noise-one"),
        ((returned(), call("max", nth=3)), "NOISE_FLOOR + root", "drift-share-one-noise"),
        ((returned(), call("max", nth=3)), "alone", "reference-floor-noise"),
        ((returned(), call("max", nth=3)), "NOISE_FLOOR + root + most", "drift-rms-elsewhere"),
        ((returned(), call("max", nth=3)), "NOISE_FLOOR + root + most", "entropy-some-elsewhere"),
        ((value("alone"),), "most", "drift-rms-elsewhere"),
        ((value("middle"),), "most", "drift-share"),
        ((value("few"),), "1.0", "drift-noise-few"),
        ((value("few"),), "6.0", "drift-up-elsewhere"),
    ],
    f"{DRIFT}:noise_of": [
        ((constant("median"),), "'rms'", "drift-up-elsewhere"),
        ((constant("rms"),), "'max'", "drift-rms-elsewhere"),
        ((constant("max"),), "'rms'", "drift-one-elsewhere"),
    ],
    f"{DRIFT}:_distance": [
        ((condition("kl"),), "False", "drift-share-noise"),
        ((choice("predictions"),), "0.0", "drift-share-k3-noise"),
        ((choice("predictions"),), "9.0", "drift-share-k3"),
    ],
    f"{DRIFT}:entropy_drift": [
        ((value("change"), argument(2)), "now", "entropy-up"),
        ((condition("same_arithmetic"),), "False", "entropy-down"),
        ((condition("same_arithmetic"),), "True", "entropy-noise"),
        ((operation("/", nth=2),), "2 * max(0.0, kl)", "entropy-share"),
        ((value("largest_effect"),), "largest(then)", "entropy-share-one"),
        ((value("largest_effect"),), "0.0", "entropy-share-one-noise"),
        ((call("bounds_elsewhere"), argument(1)), "(9.0, 9.0, 9.0)", "entropy-one-elsewhere"),
        ((call("bounds_elsewhere"), argument(1)), "(0.0, 0.0, 0.0)", "entropy-noise"),
    ],
    f"{DRIFT}:top1_held": [
        ((comparison("bound"),), "now >= then - bound", "top1-up"),
        ((comparison("bound"),), "now <= then + bound", "top1-down-elsewhere"),
        ((comparison("bound"),), "not abs(now - then) > bound", "top1-not-a-number"),
        ((choice("same_arithmetic"),), "0.0", "top1-noise"),
        ((choice("same_arithmetic"),), "scatter", "top1-down"),
        ((constant(1, nth=1),), "0", "top1-of-equal-noise"),
        ((call("sqrt"),), "math.sqrt(scored_tokens)", "top1-of-equal"),
    ],
    f"{DRIFT}:_least": [
        ((value("tokens"),), "baseline.scored_tokens", "drift-share-noise"),
        ((operation("/", nth=2),), "2 * _distance(baseline)", "drift-share"),
        (
            (mention("rises"), statement(), call("largest")),
            "max(baseline.sequence_losses)",
            "drift-share-one",
        ),
        ((mention("sequence_kl"), statement(), call("largest")), "0.0", "kl-drift-share-one-noise"),
        ((constant("reference"),), "'none'", "reference-floor"),
    ],
    f"{HELD}:figures_held": [
        ((constant("kl"),), "'loss'", "kl-drift"),
        ((call("_predictions"),), "()", "entropy-up"),
        ((condition("sublayers"),), "False", "layers-norm"),
        ((condition("sublayers"),), "False", "place-lost"),
        ((choice("noise"),), "None", "layers-measured-noise"),
        ((call("check_sublayers"), argument("same_arithmetic")), "True", "layers-norm-noise"),
        ((call("check_sublayers"), argument("same_arithmetic")), "False", "layers-norm-here"),
        ((call("check_sublayers"), argument(2)), "record.sublayers", "layers-gain"),
        ((condition("counters"),), "False", "counts-nan"),
        ((call("counter_changes"), argument("same_inputs")), "True", "rows-noise"),
        ((call("counter_changes"), argument("same_inputs")), "False", "rows-here"),
        ((call("counter_changes"), argument(2)), "record.counters", "counts-all-lost"),
        ((value("wrong"),), "[]", "counts-saturated"),
        ((value("exact"),), "False", "metric"),
        ((call("count_check"),), "check('losses', True, '')", "sequence-lost"),
    ],
    f"{HELD}:_predictions": [
        ((condition("predictions", nth=1),), "False", "entropy-share"),
        ((condition("top1_agreement"),), "False", "top1-up-elsewhere"),
        ((call("entropy_drift"), argument("same_arithmetic")), "True", "entropy-noise"),
        ((call("entropy_drift"), argument(2)), "record.predictions.sequence_entropies", "entropy-one"),
        ((call("entropy_drift"), argument("noise")), "(0.0, 0.0, 0.0)", "entropy-noise"),
        ((condition("exact"),), "False", "k3-up"),
        (
            (condition("exact"),),
            "record.predictions is not None and baseline.predictions is not None",
            "k3-elsewhere",
        ),
        ((value("change"), argument(2)), "record.predictions.sequence_k3", "k3-down"),
        ((call("top1_held"), argument("same_arithmetic")), "False", "top1-up"),
        ((call("top1_held"), argument(2)), "record.top1_agreement", "top1-down"),
    ],
    f"{HELD}:_metrics": [
        ((operation("-"),), "()", "metric-not-accepted"),
        ((condition("exact"),), "True", "metric-elsewhere"),
        ((condition("exact"),), "False", "metric"),
    ],
    f"{PREDICTIONS}:check_estimates": [
        ((value("coarse"),), "False", "k3-coarse"),
        ((value("coarse"),), "True", "k3-against-the-rise"),
        ((condition("sequence_kl", nth=1),), "False", "other-tokens-coarse"),
        ((returned(nth=2), comparison("scores")), "scores[worst] <= bound", "k3-below"),
        ((returned(nth=2), comparison("scores")), "scores[worst] >= -bound", "k3-above"),
        ((returned(nth=2), comparison("scores")), "not abs(scores[worst]) > bound", "k3-not-a-number"),
        ((value("worst"), mention("max")), "min", "k3-above"),
        ((value("bound"),), "100 * ESTIMATES_Z", "k3-alone"),
    ],
    f"{SUBLAYERS}:check_sublayers": [
        ((value("checks"),), "[('places', True, '')]", "place-lost"),
        ((value("checks"),), "[('places', True, '')]", "places-never"),
        ((value("exact"),), "False", "layers-norm-here"),
        ((value("exact"),), "True", "layers-norm-noise"),
    ],
    f"{SUBLAYERS}:_check": [
        ((value("passed"), comparison("middle")), "True", "layers-gain"),
        ((value("passed"), comparison("most")), "True", "layers-size-one"),
        ((value("middle"),), "min(change.values()), max(change.values())", "layers-three"),
        ((value("middle"),), "max(change.values()), max(change.values())", "layers-norm-one-noise"),
    ],
    f"{SUBLAYERS}:moves": [
        ((returned(), mention("now")), "then", "layers-norm-here"),
        (
            (returned(), mention("now")),
            "dict(zip(then, [now[place] for place in reversed(now)]))",
            "places-swapped",
        ),
    ],
    f"{SUBLAYERS}:_relative": [
        ((call("abs", nth=1),), "max(now - then, 0.0)", "layers-norm"),
        ((call("abs", nth=1),), "max(then - now, 0.0)", "layers-norm-one"),
        ((choice("isnan"),), "0.0 if math.isnan(change) else change", "layers-norm-not-a-number"),
        ((choice("isnan"),), "change", "layers-gain-not-a-number"),
        ((choice("unit"),), "abs(now - then)", "layers-gain"),
    ],
    f"{SUBLAYERS}:_turned": [
        ((returned(nth=1),), "0.0", "layers-no-error"),
        ((value("change"),), "abs(math.hypot(*now) - math.hypot(*then))", "layers-sketch"),
    ],
    f"{COUNTS}:changes": [
        ((call("_operands"),), "()", "counts-scales-here"),
        ((call("_rows"),), "()", "rows"),
    ],
    f"{COUNTS}:_operands": [
        ((operation("|", nth=1),), "now.operands.keys()", "counts-all-lost"),
        ((value("exact"),), "same_inputs", "counts-top-weights"),
        ((value("exact"),), "True", "counts-top-noise"),
        ((value("exact"),), "False", "counts-saturated-here"),
        ((comparison("b"),), "False", "counts-operand-lost"),
    ],
    f"{COUNTS}:_figures": [
        ((comparison("elements", nth=1),), "False", "counts-elements"),
        ((value("within"), comparison("figure")), "True", "counts-nan"),
        ((value("within"), comparison("share")), "True", "counts-flushed"),
        ((comparison("zero_blocks"),), "False", "counts-zero_blocks-here"),
        ((comparison("scales"),), "False", "counts-scales-weights"),
    ],
    f"{COUNTS}:_scales": [
        ((comparison("b"),), "False", "counts-blocks"),
        ((returned(nth=3), argument(5)), "True", "counts-scales-here"),
        ((returned(nth=3), argument(5)), "False", "counts-scales-noise"),
    ],
    f"{COUNTS}:_rows": [
        ((operation("or"),), "False", "rows-lost"),
        ((comparison("ours"),), "False", "rows-here"),
        ((value("within"),), "True", "rows"),
    ],
    f"{STATISTICS}:largest": [
        ((call("abs"),), "value", "drift-one-down"),
    ],
    f"{STATISTICS}:rms": [
        ((returned(),), "fmean(map(abs, values))", "rms"),
        ((returned(),), "abs(fmean(values))", "drift-signs-elsewhere"),
    ],
    f"{STATISTICS}:median_abs": [
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
    "mxcheck.gate.decision:is_first": [
        ((call("covers"),), "True", "first-held"),
        ((call("covers"),), "update.changed", "first-new"),
        ((call("covers"),), "update.changed or update.missing", "first-missing"),
        ((mention("recentre"),), "False", "first-recentre"),
        ((value("unsaid"),), "True", "first-said"),
        ((value("unsaid"),), "bounds is None", "first-own"),
        ((value("unsaid"),), "bounds is None or bounds.own", "first-reason"),
        ((call("_knows"),), "False", "first-again"),
        ((call("_knows"),), "accepted.exists", "first-corrupt"),
    ],
    "mxcheck.gate.decision:_knows": [
        ((comparison("fingerprints"),), "True", "first-weights"),
        ((comparison("digests"),), "True", "first-casts"),
        ((comparison("id"),), "True", "first-case"),
    ],
    "mxcheck.gate.absolute_checks:absolute_checks": [
        ((comparison("low"),), "share <= high", "signs-low"),
        ((comparison("low"),), "low <= share", "signs-high"),
        ((comparison("low"),), "0.9 < share < 1.1", "signs-least"),
        ((comparison("low"),), "share < 1.1", "signs-most"),
        ((comparison("of_uniform"),), "True", "uniform"),
        ((call("check", nth=8), argument(2)), "True", "oracle"),
        ((call("check", nth=6), argument(2)), "True", "reversed"),
        ((call("check", nth=1), argument(2)), "True", "zeros"),
        ((call("check", nth=2), argument(2)), "True", "causal"),
        ((condition("uniform"),), "False", "worse-than-uniform"),
        ((condition("isfinite"),), "False", "infinite"),
        ((condition("unknown"),), "False", "unknown"),
    ],
    "mxcheck.gate.orderings:standing": [
        ((value("below"),), "False", "order-kept"),
        ((call("append"),), "None", "order-reversed"),
        ((call("_tried"),), "True", "order-even"),
        ((call("_same_inputs"),), "False", "order-kept"),
        ((mention("SHOWN_BY_ALL"),), "ORDERINGS", "order-higher"),
    ],
    "mxcheck.gate.orderings:_tried": [
        ((value("of_the_text"),), "()", "order-rceil"),
    ],
    "mxcheck.gate.absolute_checks:share_of_signed": [
        ((call("median"),), "max(found.signed)", "signs-median"),
    ],
    f"{BOUNDS}:BoundsTables.find": [
        ((value("theirs"),), "it[::-1]", "bounds-theirs"),
    ],
    f"{BOUNDS}:_of": [
        ((mention("max"),), "min", "bounds-fewer"),
        ((call("range"),), "range(1)", "bounds-own"),
    ],
    f"{BOUNDS}:_line": [
        ((condition("section"), loop()), "it[::-1]", "bounds-model"),
        ((constant("rise"),), "''", "bounds-rise"),
    ],
    f"{BOUNDS}:load_bounds": [
        ((returned(nth=2), argument(1)), "it[::-1]", "bounds-file"),
    ],
    f"{CASE}:Case.baseline": [
        ((call("Path"),), "Path()", "path-model"),
    ],
    f"{CASE}:Case.name": [
        ((call("join"), argument(1)), "[self.plain]", "path"),
    ],
    f"{CASE}:Case.plain": [
        ((choice("tier"),), "self.precision", "path-tier"),
    ],
    f"{CASE}:Case.bounds_key": [
        ((call("join"), argument(1)), "[self.plain]", "bounds-key"),
    ],
    f"{BASELINE}:unseal": [
        ((condition("seal"),), "False", "file-seal"),
        ((condition("seal"),), "seal and seal != expected", "file-no-seal"),
    ],
    f"{BASELINE}:decode": [
        ((comparison("FORMAT_VERSION"),), "False", "file-version"),
    ],
    f"{BASELINE}:encode": [
        ((call("as_dict"),), "{**it, 'weight_bytes': 0}", "file"),
        (
            (call("as_dict"),),
            "{**it, 'entropy': round(it['entropy'], 6)}",
            "file-last-digit",
        ),
    ],
    f"{DECISION}:decide": [
        ((mention("acceptable"),), "True", "update-bounds"),
        ((value("verdict"), argument(3)), "Bounds(kl=9.0, rise=9.0)", "update-bounds-new"),
        ((value("verdict"), argument(2)), "record", "held-moved"),
        ((value("updating"), mention("exists")), "False", "new-only-there"),
        ((condition("acceptable"), mention("recentre")), "False", "recentre-moved"),
        ((condition("acceptable"), mention("holds")), "False", "update-same"),
        ((constant("accepted"),), "'measured'", "recentre"),
    ],
    f"{NOISE}:worst": [
        ((value("figures"), mention("max")), "min", "noise-second"),
        ((condition("digests"),), "False", "noise-digests"),
        ((condition("failure"),), "False", "noise-failure"),
        ((value("trials"),), "list(trials)", "noise-unavailable"),
        ((value("changes"), mention("trials")), "it[:1]", "noise"),
    ],
    f"{NOISE}:_changes": [
        ((call("median_abs"),), "0.0", "noise"),
        ((call("rms"),), "0.0", "noise"),
        ((call("largest"),), "0.0", "noise"),
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
        name, what = next(missed())
    assert name == "drift-up"
    said = "all losses rose by 2e-9 on a machine with the baseline's arithmetic"
    assert what == f"{said}; expected step 6 to fail, nothing did"


def test_a_false_alarm_is_told_as_one() -> None:
    with applied(broken(Setting(target=f"{DRIFT}:NOISE_FLOOR", value=times(0.1)))):
        name, what = next(missed())
    assert name == "reference-floor-noise"
    assert what.endswith("expected nothing to fail, step 2 did")
