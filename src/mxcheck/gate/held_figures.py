"""Step 6: compare the figures of a case with the accepted ones."""

from __future__ import annotations

from collections.abc import Iterator

from mxcheck.gate.check import Check, check, count_check, drift_check, some
from mxcheck.gate.counter_changes import changes as counter_changes
from mxcheck.gate.drift import (
    EXACT_TOLERANCE,
    drift,
    drift_of,
    entropy_drift,
    noise_of,
    same_arithmetic,
    top1_held,
)
from mxcheck.gate.predictions import Predictions
from mxcheck.gate.record import Record
from mxcheck.gate.statistics import differences
from mxcheck.gate.sublayer_drift import check_sublayers, same_layers


def figures_held(record: Record, baseline: Record) -> Iterator[Check]:
    """Yield every check of step 6 for which both records have the figures."""
    if len(record.sequence_losses) != len(baseline.sequence_losses):
        yield count_check("losses", record.sequence_losses, baseline.sequence_losses)
        return
    exact = same_arithmetic(record, baseline)
    yield drift_check("losses", "losses", drift(record, baseline, "loss"))
    if record.sequence_kl is not None and baseline.sequence_kl is not None:
        yield drift_check("KL", "KL", drift(record, baseline, "kl"))
    yield from _predictions(record, baseline, exact=exact)
    if record.sublayers is not None and baseline.sublayers is not None:
        noise = None if baseline.noise is None else baseline.noise.sublayers
        for name, passed, message in check_sublayers(
            record.sublayers,
            baseline.sublayers,
            same_arithmetic=exact,
            noise=noise,
            in_16_bits=_in_16_bits(baseline),
        ):
            yield check(f"layers: {name}", passed, f"layers: {message}")
    if record.counters is not None and baseline.counters is not None:
        found = counter_changes(
            record.counters, baseline.counters, same_inputs=exact and _same_states(record, baseline)
        )
        wrong = [one.message for one in found if not one.within]
        yield check("counts", not wrong, some(wrong) if wrong else "counts of the casts as accepted")
    yield from _metrics(record, baseline, exact=exact)


def _same_states(record: Record, baseline: Record) -> bool:
    """Return whether the counted casts had the accepted inputs, because the layers computed equal bits."""
    if record.sublayers is None or baseline.sublayers is None:
        return record.sublayers is baseline.sublayers
    return same_layers(record.sublayers, baseline.sublayers)


def _in_16_bits(baseline: Record) -> bool:
    """Return whether the case, or its reference, multiplies in a 16-bit type. (An environment names the type
    in which a model was loaded unless it is float32.)"""
    return baseline.precision == "bf16" or baseline.environment.get("dtype") in ("bfloat16", "float16")


def _predictions(record: Record, baseline: Record, *, exact: bool) -> Iterator[Check]:
    if record.predictions is not None and baseline.predictions is not None and baseline.kl is not None:
        found = entropy_drift(
            record.predictions.sequence_entropies,
            baseline.predictions.sequence_entropies,
            same_arithmetic=exact,
            reference=baseline.reference_entropies,
            kl=baseline.kl,
            scored_tokens=baseline.scored_tokens,
            noise=noise_of(baseline, "loss"),
        )
        yield drift_check("entropy", "entropies of the quantized model", found)
    if exact and record.predictions is not None and baseline.predictions is not None:
        # Elsewhere it moves more than the KL does, and adds nothing to KL and losses.
        change = differences(record.predictions.sequence_k3, baseline.predictions.sequence_k3)
        yield drift_check("k3", "k3", drift_of(change))
        now, then = _shown(record.predictions), _shown(baseline.predictions)
        # NaN equals nothing
        other = [name for name in sorted(then) if not abs(now[name] - then[name]) <= EXACT_TOLERANCE]
        words = [f"{name} is {now[name]:.9g}, accepted {then[name]:.9g}" for name in other]
        yield check("predictions", not other, some(words) if words else "figures of tokens as accepted")
    if record.top1_agreement is not None and baseline.top1_agreement is not None:
        passed, message = top1_held(
            record.top1_agreement,
            baseline.top1_agreement,
            same_arithmetic=exact,
            scored_tokens=baseline.scored_tokens,
        )
        yield check("top-1", passed, message)


def _shown(found: Predictions) -> dict[str, float]:
    """Return by name the single-token figures that have no bound."""
    return {
        "mean of the probability changes": found.probability_change,
        "rms of the probability changes": found.probability_change_rms,
        **{f"top-1 agreement of sequence {index}": one for index, one in enumerate(found.sequence_top1)},
        **{f"KL of part {index}": one for index, one in enumerate(found.kl_by_position)},
        **{f"KL percentile {name}": one for name, one in found.kl_percentiles.items()},
        **{
            f"probability change percentile {name}": one
            for name, one in found.probability_change_percentiles.items()
        },
    }


def _metrics(record: Record, baseline: Record, *, exact: bool) -> Iterator[Check]:
    if lacking := sorted(record.metrics.keys() - baseline.metrics.keys()):
        yield check("metrics", False, f"metrics without accepted values: {', '.join(lacking)}")
    if exact:
        # The noise of the user's own metrics was not measured: elsewhere they are shown and not judged.
        for name in sorted(record.metrics.keys() & baseline.metrics.keys()):
            change = differences(record.metrics[name], baseline.metrics[name])
            yield drift_check("metrics", f"metric {name}", drift_of(change))
