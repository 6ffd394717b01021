"""The first acceptance of a case: what is held where no baseline and no bounds say what is right.

"Twice what was measured" would bless whatever is measured first. Two things are known without any earlier
run: what the oracle makes of an operand, and about what its error costs: rounding errors hardly know of each
other, so that the same errors with random signs cost about as much. Products or a text that are wrong after
right casts, and casts that some calls skip, do not meet that. A third is the order among the model's steps.
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

#: What the KL of a sound recipe may be, as a share of that of the same errors with random signs.
#: docs/gate.md shows what the window was chosen from.
WINDOW = (0.6, 2.5)
#: Of the logits' standard deviation: 16-bit products of another length move them by a hundredth.
SEES_LATER = 0.1
#: Of a uniform distribution's entropy: a model with random weights comes to more than this.
MOST_OF_UNIFORM = 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class Absolute:
    """What is known of a case without its baseline.

    Attributes:
        signed: KL of the same errors with random signs, in nats per token, one a seed; empty where mxcheck
            does not know the errors.
        compared: how many values of cast operands were compared with the oracle's.
        wrong: operand -> what is other than the oracle has it.
        unknown: why mxcheck knows no more (a library casts, …); empty where it does.
        of_uniform: the reference's entropy as a share of that of a uniform distribution over its vocabulary.
        uniform: that distribution's entropy, which is its cross-entropy on any text, in nats per token.
        sees_later: how far a token that follows moves the reference's logits of those before it, in standard
            deviations of the logits.
        zeros: matrices of the reference of which every element is zero.
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
    """What a first acceptance asserts besides the steps that need no baseline. `stands`: where the record
    stands among the steps that were accepted before it."""
    yield check(
        1,
        "zeros",
        not found.zeros,
        f"{len(found.zeros)} matrices of the reference are zero throughout: {some(found.zeros)}; a download "
        f"that broke off looks so"
        if found.zeros
        else "no matrix is zero throughout",
    )
    yield check(
        2,
        "causal",
        found.sees_later <= SEES_LATER,
        f"later tokens move the reference's logits of earlier ones by {found.sees_later:.2g} of their "
        f"standard deviation (allowed {SEES_LATER:g}): it sees what it is to predict; give a causal model",
    )
    if record.reference_cross_entropy >= found.uniform:
        words = (
            f"the reference's cross-entropy is {record.reference_cross_entropy:.2f} nats/token, a uniform "
            f"distribution's {found.uniform:.2f}: it predicts worse than nothing; the tokenizer may be "
            f"another model's, or the text"
        )
        yield check(2, "uniform", False, words)
    yield check(
        2,
        "uniform",
        found.of_uniform < MOST_OF_UNIFORM,
        f"the reference's entropy is {100 * found.of_uniform:.1f} % of a uniform distribution's (allowed "
        f"below {100 * MOST_OF_UNIFORM:g} %): it predicts nothing that quantization could spoil, and a gate "
        f"on it tests nothing; give a trained model",
    )
    if record.kl is not None and not math.isfinite(record.kl):
        yield check(5, "signs", False, f"KL {record.kl} nats/token is no cost that anything could be held to")
        return
    yield check(
        5,
        "reversed",
        not stands.reversed,
        f"this step, or one that was accepted before it, is wrong: {some(stands.reversed)}"
        if stands.reversed
        else f"in order with {stands.compared} accepted steps",
    )
    if found.unknown:
        yield check(4, "oracle", True, f"casts not compared with the oracle: {found.unknown}")
        return
    wrong = [f"{operand}: {words}" for operand, words in found.wrong.items()]
    yield check(
        4,
        "oracle",
        not wrong,
        f"operands are not what the oracle makes of them: {some(wrong)}"
        if wrong
        else f"{found.compared:,} values of cast operands equal the oracle's",
    )
    if record.kl is None or not found.signed:
        return
    share, (low, high) = share_of_signed(record.kl, found), WINDOW
    yield check(
        5,
        "signs",
        low <= share <= high,
        f"KL {record.kl:.6f} nats/token is {share:.2f} of what the same errors with random signs cost "
        f"(allowed {low:g} to {high:g}): below, something is not cast; above, errors add up, or more than "
        f"casts is wrong",
    )


def share_of_signed(kl: float, found: Absolute) -> float:
    """The KL as a share of the median of those with random signs. One seed in five may put a sign on one
    error that decides the KL, so that neither mean nor a single seed would do."""
    typical = median(found.signed)
    return kl / typical if typical else math.inf


def first_bounds(record: Record) -> Bounds:
    """The bounds that a first acceptance proposes: twice what was measured, in two digits. The rise has the
    KL's, which it is expected to equal on the model's own samples, unless it is larger on other text. Raises
    ValueError where the record has no KL."""
    kl = two_digits_up(2 * max(record.exact_kl[0], 0.0))
    upper = rise(record)[2]
    wider = math.isfinite(upper) and not record.self_sampled and 2 * upper > kl
    return Bounds(kl=kl, rise=two_digits_up(2 * upper) if wider else kl)


def two_digits_up(value: float) -> float:
    """The next number of two significant digits, from 0 upwards."""
    if value <= 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / unit) * unit:.1e}")


#: What begins a new file.
HEAD = """\
# Bounds of {model}: what a precision may cost on it, in nats per token. Read, edit and commit them.
# A case gets its line when it is first accepted: twice the KL that was measured then. No update changes it.
# kl bounds the KL to the reference; rise the rise of the cross-entropy, where it is not the same. A line with
# reason = "…" lets a case in that the checks of a first acceptance refuse. "1.09 of its errors with random
# signs": the KL is so many times what rounding errors of the same size cost (docs/gate.md, "Bounds").
"""


def bounds_lines(record: Record, bounds: Bounds, found: Absolute, *, today: date) -> str:
    """A case's line in its model's `bounds.toml`, under a comment that says what it was made from."""
    stage = record.case.stage
    key = stage if stage.replace("-", "").replace("_", "").isalnum() else f'"{stage}"'
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
    return f"\n# {stage}: KL {kl} on {text}; {signed}; {today.isoformat()}\n{key} = {{ {entry} }}\n"
