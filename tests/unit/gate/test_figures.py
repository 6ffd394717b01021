"""A record whose figures contradict each other is refused; every committed one adds up."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from sample_predictions import build_predictions
from sample_record import build_record

from mxcheck.gate.baseline import read
from mxcheck.gate.figures import check_figures
from mxcheck.gate.predictions import Predictions
from mxcheck.gate.record import Record

BASELINES = Path(__file__).parents[3] / "baselines"


@pytest.fixture
def accepted() -> Record:
    """64 sequences of 255 tokens each, and figures that follow from theirs."""
    reference = [2.0 + 0.01 * (index % 7) for index in range(64)]
    kl = [0.003 + 0.0001 * (index % 5) for index in range(64)]
    losses = [loss + distance for loss, distance in zip(reference, kl, strict=True)]
    return build_record(
        scored_tokens=64 * 255,
        reference_losses=reference,
        reference_entropies=reference,
        sequence_losses=losses,
        sequence_kl=kl,
        reference_cross_entropy=fmean(reference),
        reference_entropy=fmean(reference),
        cross_entropy=fmean(losses),
        perplexity=math.exp(fmean(losses)),
        kl=fmean(kl),
    )


def with_predictions(record: Record, found: Predictions) -> Record:
    return replace(record, predictions=found, absent={})


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


@pytest.mark.parametrize("name", ["kl", "top1_agreement"])
def test_a_figure_that_is_absent_contradicts_nothing(accepted: Record, name: str) -> None:
    """But for a figure that its predictions give."""
    check_figures(replace(accepted, **{name: None}))
    lost = replace(with_predictions(accepted, build_predictions(accepted)), **{name: None})
    with pytest.raises(ValueError, match=r"the record contradicts itself: .* None, mean of its "):
        check_figures(lost)


# The predictions of a record


def test_predictions_that_add_up(accepted: Record) -> None:
    check_figures(with_predictions(accepted, build_predictions(accepted)))


def test_predictions_of_a_case_that_is_its_reference(accepted: Record) -> None:
    """All zero, and a sequence with fewer positions than parts."""
    zeros = [0.0] * len(accepted.sequence_losses)
    same = replace(
        accepted, bit_equal=True, kl=0.0, sequence_kl=zeros, top1_agreement=1.0, scored_tokens=len(zeros)
    )
    nothing = dict.fromkeys(build_predictions(accepted).kl_percentiles, 0.0)
    no_change = dict.fromkeys(build_predictions(accepted).probability_change_percentiles, 0.0)
    found = build_predictions(
        same,
        sequence_top1=[1.0] * len(zeros),
        kl_by_position=[0.0],
        kl_percentiles=nothing,
        probability_change=0.0,
        probability_change_rms=0.0,
        probability_change_percentiles=no_change,
    )
    check_figures(with_predictions(same, found))
    with pytest.raises(ValueError, match="bit-equal to the reference, yet k3, a percentile of the KL or "):
        check_figures(with_predictions(same, replace(found, sequence_k3=[1e-9, *zeros[1:]])))


def _with(percentiles: dict[str, float], **changed: float) -> dict[str, float]:
    return {**percentiles, **{name.strip("_").replace("_", "."): value for name, value in changed.items()}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda p, _: {"sequence_entropies": p.sequence_entropies[1:]},
            "entropies of 63 sequences, losses of",
        ),
        (lambda p, _: {"sequence_top1": p.sequence_top1[1:]}, "top-1 agreements of 63 sequences, losses of"),
        (lambda p, _: {"sequence_k3": p.sequence_k3[1:]}, "k3 of 63 sequences, losses of 64"),
        (lambda p, _: {"sequence_entropies": [x / math.log(2) for x in p.sequence_entropies]}, "entropy "),
        (lambda p, _: {"sequence_top1": [1 - x for x in p.sequence_top1]}, "top-1 agreement "),
        (lambda p, _: {"kl_by_position": p.kl_by_position[:3]}, "KL of 3 parts of a sequence, expected 4"),
        (
            lambda _, r: {"kl_by_position": [r.kl] * 3 + [r.kl * 1.001]},
            "KL .*, mean of its parts by position ",
        ),
        # 255 positions are parts of 63 and three of 64: a plain mean of these four is the KL
        (
            lambda _, r: {"kl_by_position": [2 * r.kl, 0.0, r.kl, r.kl]},
            "KL .*, mean of its parts by position ",
        ),
        (
            lambda p, _: {"kl_percentiles": _with(p.kl_percentiles, _90=0.1)},
            "percentiles of the KL do not ascend: 0.2, 0.1,",
        ),
        (
            lambda p, _: {"kl_percentiles": dict.fromkeys(p.kl_percentiles, 1e-3)},
            "KL of a part of the sequence and of the token with the most do not ascend",
        ),
        (
            lambda p, _: {
                "probability_change_percentiles": _with(p.probability_change_percentiles, _100=1.1)
            },
            "percentiles of the probability change do not ascend: .*, 1.1, 1.0",
        ),
        (
            lambda p, _: {
                "probability_change_percentiles": {
                    name: 100 * value for name, value in p.probability_change_percentiles.items()
                }
            },
            "percentiles of the probability change do not ascend",
        ),
        (lambda _p, _r: {"probability_change": 0.5}, "the mean probability change between its extremes "),
        (lambda _p, _r: {"probability_change_rms": 0.0}, "size of the mean, root mean square and "),
        (lambda _p, _r: {"probability_change_rms": 0.5}, "size of the mean, root mean square and "),
        (lambda p, _: {"sequence_k3": [-1e-3, *p.sequence_k3[1:]]}, "0 and the least k3 of a sequence "),
    ],
    ids=[
        *("entropies", "top1-missing", "k3-missing", "entropy-in-bits", "top1", "parts", "part"),
        *("parts-weighted", "kl-order", "kl-max", "change-beyond-1", "change-in-percent", "change-mean"),
        *("rms-small", "rms-large", "k3-negative"),
    ],
)
def test_a_prediction_figure_that_does_not_follow_from_the_others(
    accepted: Record, change: Callable[[Predictions, Record], dict[str, Any]], message: str
) -> None:
    found = build_predictions(accepted)
    with pytest.raises(ValueError, match=rf"the record contradicts itself: {message}"):
        check_figures(with_predictions(accepted, replace(found, **change(found, accepted))))
