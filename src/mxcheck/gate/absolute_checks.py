"""The checks of a first acceptance, made where a case has neither a baseline nor bounds.

Bounds of "twice what was measured" would accept any first measurement. Three things are known without an
earlier run: the oracle's cast of each operand; the approximate cost of its error, since rounding errors are
nearly independent and cost about as much with random signs (wrong products or text after right casts, and
casts that some calls skip, do not); and the order of the model's precisions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from statistics import median

from mxcheck.gate.bounds_tables import Bounds
from mxcheck.gate.check import Check, check, some
from mxcheck.gate.orderings import Standing
from mxcheck.gate.record import Record
from mxcheck.gate.verdict import rise

#: Allowed KL of a sound recipe, as a share of the KL of the same errors with random signs. docs/gate.md shows
#: the measurements behind this window.
WINDOW = (0.6, 2.5)
#: Share of the logits' standard deviation: 16-bit products of another length move logits by a hundredth.
SEES_LATER = 0.1
#: Share of a uniform distribution's entropy: a model with random weights exceeds it.
MOST_OF_UNIFORM = 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class Absolute:
    """Facts about a case that need no baseline.

    Attributes:
        signed: KL of the same errors with random signs, in nats per token, one for each seed; empty where
            mxcheck does not know the errors.
        compared: number of cast operand values compared with the oracle's.
        wrong: operand -> how it differs from the oracle's.
        unknown: why mxcheck knows no more (a library casts, …), or empty.
        of_uniform: the reference's entropy as a share of that of a uniform distribution over its vocabulary.
        uniform: entropy of that distribution, equal to its cross-entropy on any text, in nats per token.
        sees_later: how far a later token moves the reference's logits at earlier positions, in standard
            deviations of the logits.
        zeros: the reference's matrices that are all zeros.
    """

    signed: tuple[float, ...] = ()
    compared: int = 0
    wrong: Mapping[str, str] = field(default_factory=dict)
    unknown: str = ""
    of_uniform: float = 0.0
    uniform: float = math.inf
    sees_later: float = 0.0
    zeros: tuple[str, ...] = ()


def absolute_checks(record: Record, found: Absolute, stands: Standing) -> Iterator[Check]:
    """Yield the checks that a first acceptance adds to those that need no baseline. `stands` compares the
    record with the accepted precisions of its model."""
    yield check(
        "zeros",
        not found.zeros,
        f"{len(found.zeros)} matrices of the reference contain only zeros: {some(found.zeros)}; an "
        f"interrupted download can be the reason"
        if found.zeros
        else "no matrix contains only zeros",
    )
    yield check(
        "causal",
        found.sees_later <= SEES_LATER,
        f"later tokens move the reference's logits of earlier ones by {found.sees_later:.2g} of their "
        f"standard deviation (allowed {SEES_LATER:g}): it sees the tokens that it has to predict; give a "
        f"causal model",
    )
    if record.reference_cross_entropy >= found.uniform:
        words = (
            f"the reference's cross-entropy is {record.reference_cross_entropy:.2f} nats/token, a uniform "
            f"distribution's {found.uniform:.2f}: it predicts worse than chance; the tokenizer or the text "
            f"may be another model's"
        )
        yield check("uniform", False, words)
    yield check(
        "uniform",
        found.of_uniform < MOST_OF_UNIFORM,
        f"the reference's entropy is {100 * found.of_uniform:.1f} % of a uniform distribution's (allowed "
        f"below {100 * MOST_OF_UNIFORM:g} %): it predicts hardly better than chance, so quantization cannot "
        f"make it worse; give a trained model",
    )
    if record.kl is not None and not math.isfinite(record.kl):
        yield check("signs", False, f"KL is {record.kl} nats/token: not finite, so no bound applies")
        return
    yield check(
        "reversed",
        not stands.reversed,
        f"this precision or an accepted one is wrong: {some(stands.reversed)}"
        if stands.reversed
        else f"in order with {stands.compared} accepted precisions",
    )
    if found.unknown:
        yield check("oracle", True, f"casts not compared with the oracle: {found.unknown}")
        return
    wrong = [f"{operand}: {words}" for operand, words in found.wrong.items()]
    yield check(
        "oracle",
        not wrong,
        f"cast operands differ from the oracle's: {some(wrong)}"
        if wrong
        else f"{found.compared:,} values of cast operands equal the oracle's",
    )
    if record.kl is None or not found.signed:
        return
    share, (low, high) = share_of_signed(record.kl, found), WINDOW
    yield check(
        "signs",
        low <= share <= high,
        f"KL {record.kl:.6f} nats/token is {share:.2f} of what the same errors with random signs cost "
        f"(allowed {low:g} to {high:g}): a smaller share: something is not cast; a larger one: errors add "
        f"up, or the fault is not in a cast",
    )


def share_of_signed(kl: float, found: Absolute) -> float:
    """Return the KL as a share of the median KL with random signs. One seed in five may change the sign of an
    error that dominates the KL, so a mean or a single seed would be unreliable."""
    typical = median(found.signed)
    return kl / typical if typical else math.inf


def first_bounds(record: Record) -> Bounds:
    """Propose the bounds of a first acceptance: twice the measured figures, to two digits. The rise gets the
    KL's bound, its expected value on the model's own samples, unless it is larger on other text. Raises
    ValueError where the record has no KL."""
    kl = two_digits_up(2 * max(record.exact_kl[0], 0.0))
    upper = rise(record)[2]
    wider = math.isfinite(upper) and not record.self_sampled and 2 * upper > kl
    return Bounds(kl=kl, rise=two_digits_up(2 * upper) if wider else kl)


def two_digits_up(value: float) -> float:
    """Round up to two significant digits, for values from 0 upwards."""
    if value <= 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / unit) * unit:.1e}")


#: Header of a new file.
HEAD = """\
# Bounds of {model}: what a precision may cost on it, in nats per token. Read, edit and commit them.
# A case gets its line when it is first accepted: twice the KL that was measured then. No update changes it.
# kl bounds the KL to the reference; rise the rise of the cross-entropy, where it is not the same. A line with
# reason = "…" lets a case in that the checks of a first acceptance refuse. "1.09 of its errors with random
# signs": the KL is so many times what rounding errors of the same size cost (docs/gate.md, "Bounds").
"""


def bounds_lines(record: Record, bounds: Bounds, found: Absolute, *, today: date) -> str:
    """Return a case's line for its model's `bounds.toml`, under a comment with the measurements behind it."""
    name = record.case.name
    key = name if name.replace("-", "").replace("_", "").isalnum() else f'"{name}"'
    entry = f"kl = {bounds.kl:g}" + ("" if bounds.rise == bounds.kl else f", rise = {bounds.rise:g}")
    sequences = len(record.sequence_losses)
    length = record.scored_tokens // sequences + 1
    signed = (
        f"{share_of_signed(record.kl, found):.2f} of its errors with random signs"
        if found.signed and record.kl
        else f"casts not compared: {found.unknown or 'nothing is cast'}"
    )
    text = f"{record.corpus['used']}, {sequences} sequences of {length}"
    kl = "none" if record.kl is None else f"{record.kl:.6g}"
    return f"\n# {name}: KL {kl} on {text}; {signed}; {today.isoformat()}\n{key} = {{ {entry} }}\n"
