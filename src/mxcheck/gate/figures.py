"""A record's figures against each other: what is shown must be what was measured.

The gate judges sequences. Their means, the perplexity and the agreement are what people read and quote, and
no other check would see that they are wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import fmean

from mxcheck.gate.record import Record
from mxcheck.gate.statistics import exponential

#: Of sums of some hundred doubles in another order; relative, and absolute near zero.
ROUNDING = 1e-12


def check_figures(record: Record) -> None:
    """Raises ValueError, in one line, where a record contradicts itself."""
    if found := next(_contradictions(record), None):
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
    # The same log-probabilities rank the same token first, and differ by nothing.
    if record.bit_equal and (record.top1_agreement, record.kl) != (1.0, 0.0):
        yield (
            f"bit-equal to the reference, yet top-1 agreement {record.top1_agreement!r} and KL {record.kl!r}"
        )


def _equal(shown: float, expected: float) -> bool:
    """Equal but for rounding; NaN and infinities, which the gate judges, count as equal to themselves."""
    if math.isnan(shown) or math.isnan(expected):
        return math.isnan(shown) and math.isnan(expected)
    return math.isclose(shown, expected, rel_tol=ROUNDING, abs_tol=ROUNDING)
