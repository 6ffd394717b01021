"""KLs with a known order, and the required verdict on each."""

from __future__ import annotations

from collections.abc import Iterator

from mxcheck.gate.orderings import Deviation, ModelOrdering, Ordering, Shown, compare_kl, unexpected_result

_ORDERING = Ordering(lower="mxfp8_e4m3-A", higher="mxfp4_e2m1-A", why="an example")
_LOWER = [0.010, 0.012, 0.009, 0.011, 0.010, 0.012, 0.009, 0.011]


def _higher(by: float, scatter: float) -> list[float]:
    return [one + by + scatter * (-1) ** place for place, one in enumerate(_LOWER)]


#: The result of comparing KLs of the higher precision that lie 0.01 above, 0.005 below, and on average almost
#: equal.
_HIGHER: tuple[tuple[Shown, list[float]], ...] = (
    ("holds", _higher(0.01, 0.003)),
    ("reversed", _higher(-0.005, 0.001)),
    ("undecided", _higher(0.0001, 0.003)),
    ("undecided", _higher(-0.0001, 0.003)),
)
#: Possible verdicts on an ordering, and on an exception that shows this.
_MAY: dict[Shown | None, tuple[Shown, ...]] = {
    None: ("holds",),
    "undecided": ("holds", "undecided"),
    "reversed": ("reversed",),
}


def missed_orderings() -> Iterator[str]:
    """Yield each wrong verdict, in one line."""
    for shows, higher in _HIGHER:
        found = compare_kl(_LOWER, higher)
        if found.shows != shows:
            yield f"costs that show {shows} are taken for {found.shows}"
        for exception, allowed in _MAY.items():
            if (unexpected_result(_one(exception), found) == "") != (shows in allowed):
                expected = "an ordering" if exception is None else f"an exception that shows {exception}"
                yield f"{shows} is judged wrong where {expected} is known"
    ratio = compare_kl([0.25] * 4, [0.5, 1.0, 0.5, 1.0]).ratio
    if ratio != 3.0:
        yield f"a KL three times as large is said to be {ratio} times as large"


def _one(exception: Shown | None) -> ModelOrdering:
    deviation = exception and Deviation(
        model="example", lower=_ORDERING.lower, higher=_ORDERING.higher, shows=exception, why="an example"
    )
    return ModelOrdering(model="example", ordering=_ORDERING, exception=deviation or None)
