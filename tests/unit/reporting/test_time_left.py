"""The time left that the live display tells, beside the time that is left: a run in virtual time."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import pytest

from mxcheck.reporting.progress import Expected, RunProgress

#: True seconds: of loading a model, of a case, of measuring the noise of all of a model's cases.
LOAD, CASE, NOISE = 3.0, 2.0, 90.0
MODELS, CASES = ("m", "n", "o", "p"), 20
#: What is expected is right in proportion only, and that of the noise is half of it.
SCALE = 0.01


def expected(*, accepts: bool) -> Expected:
    names = {f"{model}-{number}": model for model in MODELS for number in range(CASES)}
    once = LOAD + (NOISE / 2 if accepts else 0.0)
    return Expected(
        cases=dict.fromkeys(names, SCALE * CASE), shared=dict.fromkeys(MODELS, SCALE * once), models=names
    )


def told(board: RunProgress, *, accepts: bool, workers: int) -> Iterator[tuple[float, float | None]]:
    """Run it in virtual time; at the end of each case, the time and what is told to be left."""
    models = list(MODELS)
    queue = [(0.0, worker, "", 0) for worker in range(workers)]
    while queue:
        now, worker, model, number = heapq.heappop(queue)
        name = f"gw{worker}"
        if model:
            once = (LOAD + (NOISE if accepts else 0.0)) if number == 0 else 0.0
            case = f"{model}-{number}"
            if once:
                board.heard(name, {"do": "shared", "case": case, "model": model, "seconds": once}, now)
            board.case_ended(case, CASE + once)
            board.heard(name, {"do": "step", "what": "the next"}, now)
            yield now, board.seconds_left()
            number += 1
        if not model or number == CASES:
            if not models:
                board.gone(name)
                continue
            model, number = models.pop(0), 0
        once_for = {"once": model} if number == 0 else {}
        board.heard(name, {"do": "step", "what": f"{model} loading", **once_for}, now)
        once = (LOAD + (NOISE if accepts else 0.0)) if number == 0 else 0.0
        heapq.heappush(queue, (now + once + CASE, worker, model, number))


@pytest.mark.parametrize("accepts", [False, True], ids=["gate", "accepts"])
@pytest.mark.parametrize("workers", [1, 2])
def test_the_time_left_is_near_the_truth_from_the_first_case_on(workers: int, *, accepts: bool) -> None:
    """The first case of a run that accepts is the one that measured everybody's noise."""
    seen = list(told(RunProgress(expected=expected(accepts=accepts)), accepts=accepts, workers=workers))
    end = seen[-1][0]
    assert len(seen) == len(MODELS) * CASES
    for now, left in seen[: -2 * workers]:
        assert left is not None
        assert 0.6 < left / (end - now) < 1.6, (now, left, end - now)


def test_a_case_that_measured_everybody_s_noise_says_nothing_of_the_others() -> None:
    board = RunProgress(expected=expected(accepts=True))
    board.heard("gw0", {"do": "step", "what": "m loading"}, 0.0)
    board.heard("gw0", {"do": "shared", "case": "m-0", "model": "m", "seconds": LOAD + NOISE}, 95.0)
    board.case_ended("m-0", LOAD + NOISE + CASE)
    left = board.seconds_left()
    truth = (len(MODELS) * CASES - 1) * CASE + (len(MODELS) - 1) * (LOAD + NOISE)
    assert left == pytest.approx(truth)
