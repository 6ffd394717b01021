"""Smoke test of the measuring code: before a process measures a case, it measures known results.

A baseline protects the figures of a case only if it was right itself: a measurement that has always been
wrong moves nothing. So every process first compares `evaluate` on a toy model with a few lines of arithmetic,
counts the bytes of its weights, and encodes a text of three words. If one of them is wrong, every case of the
process fails in step 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from mxcheck.measure.canaries.hindrance import no_room
from mxcheck.models.zoo.refusal import is_out_of_memory

#: A trial: yields what is wrong, and how.
Trial = Callable[[], Iterator[tuple[str, str]]]


def trials() -> tuple[Trial, ...]:
    """Return all trials."""
    from mxcheck.measure.canaries.scored import scored
    from mxcheck.measure.canaries.texts import tokenized
    from mxcheck.measure.canaries.weights import weighed

    return scored, weighed, tokenized


def broken_measuring(chosen: Sequence[Trial] | None = None) -> str:
    """Return why no measurement of this process counts, in one line; empty if all is right. Raises torch's
    error if memory runs out."""
    import torch

    found: list[tuple[str, str]] = []
    for trial in trials() if chosen is None else chosen:
        try:
            with torch.device("cpu"):
                found += trial()
        except Exception as error:  # any error is reported: the toy model raises none
            if is_out_of_memory(error):
                raise
            found.append((trial.__name__, " ".join(f"raised {type(error).__name__}: {error}".split())))
    if not found:
        return ""
    if why := no_room():
        return f"what measures cannot be tried: {why}; no figure of this run counts"
    (what, how), *others = found
    more = f" (and {len(others)} more, {others[0][0]} the next)" if others else ""
    return (
        f"mxcheck measures a canary wrong: {what}: {how}{more}; mxcheck itself is broken, no figure of "
        f"this run counts; undo what was changed under mxcheck, or install it anew"
    )
