"""The smoke test of what measures: before a process measures, it measures what is known.

What was accepted holds the figures of a case only as long as it was right itself. A measurement that has
always been wrong moves nothing. So every process first evaluates a toy model beside a few lines of
arithmetic, counts the bytes of its weights, and encodes a text of three words; and every case of the process
fails in step 2 where one of them comes out otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from mxcheck.measure.canaries.hindrance import no_room
from mxcheck.measure.memory import is_out_of_memory

#: What is tried: each yields what is wrong, and how.
Trial = Callable[[], Iterator[tuple[str, str]]]


def trials() -> tuple[Trial, ...]:
    """All of them."""
    from mxcheck.measure.canaries.scored import scored
    from mxcheck.measure.canaries.texts import tokenized
    from mxcheck.measure.canaries.weights import weighed

    return scored, weighed, tokenized


def broken_measuring(chosen: Sequence[Trial] | None = None) -> str:
    """Why nothing that this process measures counts, in one line; empty where all is right. Raises
    what torch raises where memory runs out."""
    import torch

    found: list[tuple[str, str]] = []
    for trial in trials() if chosen is None else chosen:
        try:
            with torch.device("cpu"):
                found += trial()
        except Exception as error:  # whatever it is, it is told: the toy model raises nothing
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
