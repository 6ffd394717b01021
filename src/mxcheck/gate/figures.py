"""Consistency of a record's figures: summaries must match the measurements.

The gate judges sequences. People read and quote the means, the perplexity and the agreement, and no other
check verifies those.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from statistics import fmean

from mxcheck.gate.predictions import Predictions, part_bounds, percentiles_of
from mxcheck.gate.record import Record
from mxcheck.gate.statistics import exponential

#: Tolerance for sums of some hundred doubles in another order; relative, and absolute near zero.
ROUNDING = 1e-12


def check_figures(record: Record) -> None:
    """Raise ValueError, in one line, where a record contradicts itself."""
    _refuse(_contradictions(record))


def _refuse(contradictions: Iterator[str]) -> None:
    if found := next(contradictions, None):
        raise ValueError(f"the record contradicts itself: {found}; the evaluation is broken, not the model")


def _contradictions(record: Record) -> Iterator[str]:
    for what, shown, sequences in (
        ("cross-entropy", record.cross_entropy, record.sequence_losses),
        ("reference's cross-entropy", record.reference_cross_entropy, record.reference_losses),
        ("reference's entropy", record.reference_entropy, record.reference_entropies),
        *([] if record.kl is None else [("KL", *record.exact_kl)]),
    ):
        if not _equal(shown, mean := fmean(sequences)):
            yield f"{what} {shown!r}, mean of its sequences {mean!r}"
    if not _equal(record.perplexity, expected := exponential(record.cross_entropy)):
        yield f"perplexity {record.perplexity!r}, exp(cross-entropy) {expected!r}"
    # Equal log-probabilities rank the same token first, and have no KL.
    if record.predictions is not None:
        yield from _prediction_contradictions(record.predictions, record)
    if record.bit_equal and (record.top1_agreement, record.kl) != (1.0, 0.0):
        yield (
            f"bit-equal to the reference, yet top-1 agreement {record.top1_agreement!r} and KL {record.kl!r}"
        )


def _prediction_contradictions(found: Predictions, record: Record) -> Iterator[str]:
    sequences = len(record.sequence_losses)
    for name, values in (
        ("entropies", found.sequence_entropies),
        ("top-1 agreements", found.sequence_top1),
        ("k3", found.sequence_k3),
    ):
        if len(values) != sequences:
            yield f"{name} of {len(values)} sequences, losses of {sequences}"
            return
    for what, shown, expected in (
        ("entropy", record.entropy, fmean(found.sequence_entropies)),
        ("top-1 agreement", record.top1_agreement, fmean(found.sequence_top1)),
    ):
        if not _equal(shown, expected):
            yield f"{what} {shown!r}, mean of its sequences {expected!r}"
    bounds = part_bounds(record.scored_tokens // sequences)
    if len(found.kl_by_position) != len(bounds) - 1:
        yield f"KL of {len(found.kl_by_position)} parts of a sequence, expected {len(bounds) - 1}"
        return
    sizes = [stop - start for start, stop in pairwise(bounds)]
    mean = math.fsum(size * part for size, part in zip(sizes, found.kl_by_position, strict=True)) / sum(sizes)
    if not _equal(record.kl, mean):
        yield f"KL {record.kl!r}, mean of its parts by position {mean!r}"
    yield from _order_contradictions(found)
    if record.bit_equal and any(
        (*found.sequence_k3, *found.kl_percentiles.values(), *found.probability_change_percentiles.values())
    ):
        yield "bit-equal to the reference, yet k3, a percentile of the KL or of the probabilities is not 0"


def _order_contradictions(found: Predictions) -> Iterator[str]:
    """Yield each violation of an order between figures."""
    kl = percentiles_of(found, "kl_percentiles")
    change = percentiles_of(found, "probability_change_percentiles")
    largest_part = max(found.kl_by_position)
    size = max(-change[0], change[-1])
    for what, values in (
        ("percentiles of the KL", kl),
        ("percentiles of the probability change", [-1.0, *change, 1.0]),
        ("KL of a part of the sequence and of the token with the most", [largest_part, kl[-1]]),
        (
            "the mean probability change between its extremes",
            [change[0], found.probability_change, change[-1]],
        ),
        (
            "size of the mean, root mean square and largest size of the probability change",
            [abs(found.probability_change), found.probability_change_rms, size],
        ),
        ("0 and the least k3 of a sequence", [0.0, min(found.sequence_k3)]),
    ):
        # NaN has no order; the gate judges it where the losses are checked
        if any(above < below - ROUNDING * max(1.0, abs(below)) for below, above in pairwise(values)):
            yield f"{what} do not ascend: {', '.join(map(repr, values))}"


def _equal(shown: float | None, expected: float) -> bool:
    """Compare up to rounding; NaN and infinities, which the gate judges, equal themselves."""
    if shown is None:
        return False
    if math.isnan(shown) or math.isnan(expected):
        return math.isnan(shown) and math.isnan(expected)
    return math.isclose(shown, expected, rel_tol=ROUNDING, abs_tol=ROUNDING)
