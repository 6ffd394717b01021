"""A record whose figures contradict each other is refused; every committed one adds up."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mxcheck.gate.baseline import read
from mxcheck.gate.figures import check_figures
from mxcheck.gate.record import Record

BASELINES = Path(__file__).parents[3] / "baselines"


@pytest.fixture
def accepted() -> Record:
    return read(BASELINES / "ref-llama" / "fp8_e4m3-B.json")


@pytest.mark.parametrize(
    "path", sorted(BASELINES.rglob("*.json")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_every_accepted_record_adds_up(path: Path) -> None:
    check_figures(read(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: {"cross_entropy": r.cross_entropy + 1e-9}, r"cross-entropy .*, mean of its sequences "),
        (lambda r: {"reference_cross_entropy": r.cross_entropy}, "reference's cross-entropy "),
        (lambda r: {"reference_entropy": r.reference_entropy / math.log(2)}, "reference's entropy "),
        (lambda r: {"kl": r.kl * (1 + 1e-9)}, r"KL .*, mean of its sequences "),
        (lambda r: {"perplexity": 2.0**r.cross_entropy}, r"perplexity .*, exp\(cross-entropy\) "),
        (lambda _: {"perplexity": math.nan}, "perplexity nan, "),
        (lambda _: {"bit_equal": True}, "bit-equal to the reference, yet top-1 agreement "),
    ],
    ids=["cross-entropy", "reference", "entropy", "kl", "base-2", "nan", "bit-equal"],
)
def test_a_figure_that_does_not_follow_from_the_others(
    accepted: Record, change: Callable[[Record], dict[str, Any]], message: str
) -> None:
    with pytest.raises(ValueError, match=rf"the record contradicts itself: {message}"):
        check_figures(replace(accepted, **change(accepted)))


def test_a_ruined_model_does_not_contradict_itself(accepted: Record) -> None:
    losses = [1e4] * len(accepted.sequence_losses)
    check_figures(replace(accepted, sequence_losses=losses, cross_entropy=1e4, perplexity=math.inf))
