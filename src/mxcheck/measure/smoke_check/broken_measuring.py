"""Smoke check of the measuring code: before a process measures a case, it measures known results.

A baseline protects the figures of a case only if it was right itself: a measurement that has always been
wrong moves nothing. So every process first compares `evaluate` on a toy model with a few lines of arithmetic,
counts the bytes of its weights, and encodes a text of three words. If one of them is wrong, every case of the
process fails in step 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from mxcheck.measure.smoke_check.hindrance import no_room
from mxcheck.models.zoo.refusal import is_out_of_memory

#: One smoke check: yields which figure is wrong, and how.
SmokeCheck = Callable[[], Iterator[tuple[str, str]]]


def smoke_checks() -> tuple[SmokeCheck, ...]:
    """Return all smoke checks."""
    from mxcheck.measure.smoke_check.scored import scored
    from mxcheck.measure.smoke_check.texts import tokenized
    from mxcheck.measure.smoke_check.weights import weighed

    return scored, weighed, tokenized


def broken_measuring(chosen: Sequence[SmokeCheck] | None = None) -> str:
    """Return why no measurement of this process counts, in one line; empty if all is right. Raises torch's
    error if memory runs out."""
    import torch

    found: list[tuple[str, str]] = []
    for measured in smoke_checks() if chosen is None else chosen:
        try:
            with torch.device("cpu"):
                found += measured()
        except Exception as error:  # any error is reported: the toy model raises none
            if is_out_of_memory(error):
                raise
            found.append((measured.__name__, " ".join(f"raised {type(error).__name__}: {error}".split())))
    if not found:
        return ""
    if why := no_room():
        return f"the smoke check of the measuring code cannot run: {why}; no figure of this run counts"
    (what, how), *others = found
    more = f" (and {len(others)} more, {others[0][0]} the next)" if others else ""
    return (
        f"mxcheck measures a known result wrong: {what}: {how}{more}; mxcheck itself is broken, no figure of "
        f"this run counts; undo local changes of the package, or reinstall it"
    )
