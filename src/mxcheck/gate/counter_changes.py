"""Changes between the counters of two cases: which are permitted, and a sentence for each.

Weights are cast from stored numbers, so their counts are equal on every machine. So are all counts where a
machine has the baseline's arithmetic. Elsewhere activations differ in their last bits, and some cross a
threshold of the cast. Measured with torch limited to its plainest instructions (`default` of
measure/measured_noise.py) against AVX2, on ref-llama, ref-moe and SmolLM2-135M (30 layers, bf16, 32
tokens), six recipes each:

- of saturated, flushed and top elements at most 0.82 % of an operand's elements changed (nvfp4; 0.29 % with
  power-of-two scales). The bound is `SHARE`, six times that. Noise changes single numbers, not their
  distribution, so depth does not increase it beyond the bound;
- each of four experts gained or lost at most 0.2 % of a module's rows, so at most 0.4 % entered another
  expert. The bound is `SHARE` of the rows that entered another expert in total, because a hundred experts
  each take fewer;
- no count of NaN, Inf or zero blocks changed. NaN and Inf must be equal; zero blocks are bounded as elements
  are;
- histograms of scales changed by 4 % of the blocks with E8M0 scales, but by 28 % with nvfp4, whose tensor
  scale follows the largest element: they are shown and not judged. A wrong scale also changes the saturated,
  flushed and top counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mxcheck.gate.counters import Absent, Counters, OperandCounts

#: Share of an operand's elements, or of a module's rows, in other arithmetic. See above.
SHARE = 0.05

#: figure -> its wording in a sentence
_VERBS: Mapping[str, str] = {
    "saturated": "saturated",
    "flushed": "were flushed to zero",
    "top": "took the largest code",
    "nan": "were NaN",
    "inf": "were infinite",
}
_ABSENT = "absent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One counter that differs from the accepted one.

    Attributes:
        module, operand, figure: identify the counter; `figure` is a field of `OperandCounts`, `absent` where
            one side has no counts, or `rows` of an expert.
        share: share of the operand that changed, from 0 to 1; 1 where its size differs.
        within: whether the change is allowed.
        message: one sentence.
    """

    module: str
    operand: str
    figure: str
    share: float
    within: bool
    message: str


def changes(now: Counters, then: Counters, *, same_inputs: bool) -> tuple[Change, ...]:
    """Return every changed counter, those beyond their bounds first, then by descending share.

    Args:
        same_inputs: this machine has the baseline's arithmetic, so that activations are equal bit for
            bit; then no counter may move.
    """
    found = [*_operands(now, then, same_inputs), *_rows(now, then, same_inputs)]
    return tuple(sorted(found, key=lambda one: (one.within, -one.share, one.module, one.operand, one.figure)))


def _operands(now: Counters, then: Counters, same_inputs: bool) -> Iterator[Change]:
    missing = Absent(reason="not counted")
    for module in sorted(now.operands.keys() | then.operands.keys()):
        ours, theirs = now.operands.get(module, {}), then.operands.get(module, {})
        for operand in sorted(ours.keys() | theirs.keys()):
            a, b = ours.get(operand, missing), theirs.get(operand, missing)
            exact = same_inputs or operand == "weights"
            if isinstance(a, OperandCounts) and isinstance(b, OperandCounts):
                yield from _figures(module, operand, a, b, exact)
            elif a != b:
                yield _change(module, operand, _ABSENT, 1.0, False, f"{_said(a)} (accepted: {_said(b)})")


def _said(counts: OperandCounts | Absent) -> str:
    return f"no counts: {counts.reason}" if isinstance(counts, Absent) else f"{counts.elements} elements"


def _figures(
    module: str, operand: str, now: OperandCounts, then: OperandCounts, exact: bool
) -> Iterator[Change]:
    if now.elements != then.elements:
        # The rest has another size, so it cannot be compared.
        said = f"{now.elements} elements were cast (accepted {then.elements})"
        yield _change(module, operand, "elements", 1.0, False, said)
        return
    for figure, verb in _VERBS.items():
        a, b = getattr(now, figure), getattr(then, figure)
        if a != b:
            share = abs(a - b) / now.elements
            within = not exact and figure not in ("nan", "inf") and share <= SHARE
            said = _sentence(a, b, now.elements, f"of {operand} of {module} {verb}")
            yield _change(module, operand, figure, share, within, said)
    blocks = now.elements if isinstance(now.scales, Absent) else sum(now.scales.values())
    if now.zero_blocks != then.zero_blocks:
        share = abs(now.zero_blocks - then.zero_blocks) / blocks
        said = f"{now.zero_blocks} blocks are zero (accepted {then.zero_blocks})"
        yield _change(module, operand, "zero_blocks", share, not exact and share <= SHARE, said)
    if now.scales != then.scales:
        yield _scales(module, operand, now, then, exact)


def _scales(module: str, operand: str, now: OperandCounts, then: OperandCounts, exact: bool) -> Change:
    if isinstance(now.scales, Absent) or isinstance(then.scales, Absent):
        kinds = ["no codes" if isinstance(one.scales, Absent) else "codes" for one in (now, then)]
        said = f"its scales have {kinds[0]} (accepted: {kinds[1]})"
        return _change(module, operand, "scales", 1.0, False, said)
    a, b = sum(now.scales.values()), sum(then.scales.values())
    if a != b:
        return _change(module, operand, "scales", 1.0, False, f"{a} blocks (accepted {b})")
    codes = now.scales.keys() | then.scales.keys()
    moved = sum(abs(now.scales.get(code, 0) - then.scales.get(code, 0)) for code in codes) // 2
    means = [sum(code * n for code, n in one.items()) / a for one in (now.scales, then.scales)]
    said = f"{moved} of {a} scales took another code: on average {means[0]:.3f} (accepted {means[1]:.3f})"
    return _change(module, operand, "scales", moved / a, not exact, said)


def _rows(now: Counters, then: Counters, same_inputs: bool) -> Iterator[Change]:
    for module in sorted(now.expert_rows.keys() | then.expert_rows.keys()):
        a, b = now.expert_rows.get(module, ()), then.expert_rows.get(module, ())
        if len(a) != len(b) or sum(a) != sum(b):
            said = f"{sum(a)} rows entered {len(a)} experts (accepted {sum(b)}, {len(b)})"
            yield _change(module, "rows", "rows", 1.0, False, said)
            continue
        moved = [abs(ours - theirs) for ours, theirs in zip(a, b, strict=True)]
        # each row that entered another expert counts as one lost and one gained
        within = not same_inputs and sum(moved) <= 2 * SHARE * sum(a)
        for expert, (ours, theirs) in enumerate(zip(a, b, strict=True)):
            if ours != theirs:
                said = _sentence(ours, theirs, sum(a), f"of rows of {module} entered expert {expert}")
                yield _change(module, "rows", "rows", moved[expert] / sum(a), within, said)


def _change(module: str, operand: str, figure: str, share: float, within: bool, said: str) -> Change:
    message = said if module in said else f"{operand} of {module}: {said}"
    return Change(module=module, operand=operand, figure=figure, share=share, within=within, message=message)


def _sentence(now: int, then: int, of: int, rest: str) -> str:
    """Describe a count in per cent, unless both would read the same."""
    a, b = (f"{100 * number / of:.3g} %" for number in (now, then))
    return f"{a} {rest} (accepted {b})" if a != b else f"{now} of {of} {rest} (accepted {then})"
