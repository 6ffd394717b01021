"""`mxcheck.convert` and `mxcheck.evaluate` give the figures of the gate's record, to the last bit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import mxcheck
from mxcheck.evaluation import measure
from mxcheck.gate.case import Case
from mxcheck.gate.record import Record
from mxcheck.measure.measure_case import measure_case
from mxcheck.measure.model_session import ModelSession
from mxcheck.models.conversion.convert import UnavailableError, convert, sequences_a_pass
from mxcheck.models.recipes.ladder import LADDER, with_tiers
from mxcheck.models.recipes.recipe import Recipe
from mxcheck.run.measurement_settings import Measuring

#: Four sequences fit into one pass, so a recipe whose casts span the batch is seen to be obeyed.
SEQUENCES, LENGTH = 4, 32
#: Those that need their sequences one by one.
ALONE = ("nvfp4", "fp8_tensor_e4m3", "fp8_tensor_e5m2")


@pytest.fixture(scope="module")
def session() -> Iterator[ModelSession]:
    with ModelSession(Measuring(max_samples=SEQUENCES, sequence_length=LENGTH, device="cpu")) as made:
        yield made


@pytest.fixture(scope="module")
def public(session: ModelSession) -> tuple[torch.nn.Module, torch.Tensor, mxcheck.Measurement]:
    """A user's own: a model of the same weights, the same tokens, and what `evaluate` says of them."""
    loaded = mxcheck.load("ref-llama")
    tokens = session.resident("ref-llama").text.tokens
    assert tokens.shape == (SEQUENCES, LENGTH)
    return loaded.model, tokens, mxcheck.evaluate(loaded.model, tokens)


def figures(of: Record | mxcheck.Measurement) -> dict[str, object]:
    names = ("cross_entropy", "entropy", "perplexity", "kl", "top1_agreement", "bit_equal")
    lists = ("sequence_losses", "sequence_kl", "predictions")
    return {name: getattr(of, name) for name in (*names, *lists)}


def evaluated(
    public: tuple[torch.nn.Module, torch.Tensor, mxcheck.Measurement], recipe: Recipe
) -> mxcheck.Measurement:
    model, tokens, reference = public
    conversion = mxcheck.convert(model, recipe)
    try:
        return mxcheck.evaluate(model, tokens, reference=reference)
    finally:
        conversion.undo()


@pytest.mark.parametrize(
    ("precision", "tier"), [*with_tiers(), ("fp4_e2m1", "linears"), ("nvfp4", "linears")]
)
def test_evaluate_equals_the_gates_record(
    precision: str,
    tier: str | None,
    session: ModelSession,
    public: tuple[torch.nn.Module, torch.Tensor, mxcheck.Measurement],
) -> None:
    recipe = mxcheck.recipe(precision, tier=tier)
    if (reason := session.unavailable(recipe)) is not None:
        pytest.skip(reason)
    case = Case(model="ref-llama", precision=precision, tier=tier)
    try:
        record = measure_case(session, case)
    except UnavailableError as error:
        pytest.skip(str(error))
    measurement = evaluated(public, recipe)

    assert figures(measurement) == figures(record)
    assert measurement.bit_equal is (precision == "fp32")
    assert public[2].sequence_losses == record.reference_losses


@pytest.mark.parametrize("precision", ALONE)
def test_the_figures_are_others_where_sequences_share_a_scale(
    precision: str,
    public: tuple[torch.nn.Module, torch.Tensor, mxcheck.Measurement],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = mxcheck.recipe(precision, tier="B")
    alone = evaluated(public, recipe)
    monkeypatch.setattr(measure, "sequences_a_pass", lambda _: None)
    assert evaluated(public, recipe).sequence_losses != alone.sequence_losses


def test_the_ladder_has_no_other_precision_of_ours_that_goes_one_by_one() -> None:
    found = {
        name
        for name, tier in with_tiers()
        if LADDER[name].library is None and mxcheck.recipe(name, tier=tier).sequences_a_pass
    }
    assert found == set(ALONE)


def test_a_part_of_a_model_that_is_converted_counts(
    public: tuple[torch.nn.Module, torch.Tensor, mxcheck.Measurement],
) -> None:
    model, tokens, reference = public
    whole = evaluated(public, mxcheck.recipe("nvfp4", tier="B"))
    conversion = convert(model.get_submodule("model"), mxcheck.recipe("nvfp4", tier="B"))
    try:
        assert sequences_a_pass(model) == 1
        part = mxcheck.evaluate(model, tokens, reference=reference)
        with conversion.suspended():
            assert sequences_a_pass(model) is None
        assert sequences_a_pass(model) == 1
    finally:
        conversion.undo()
    assert sequences_a_pass(model) is None
    assert figures(part) == figures(whole)
