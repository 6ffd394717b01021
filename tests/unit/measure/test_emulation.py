"""What a recipe is measured with: the converted model, and the arithmetic of its own type."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from mxcheck.evaluation.arithmetic import product_digest
from mxcheck.evaluation.layer_states import reference_states
from mxcheck.evaluation.measure import evaluate
from mxcheck.gate.case import Case
from mxcheck.measure import emulation
from mxcheck.measure.emulation import emulate, repeat
from mxcheck.measure.measure_case import measure_case
from mxcheck.measure.model_session import ModelSession
from mxcheck.models.recipes.recipe import recipe
from mxcheck.models.zoo.load import LoadedModel
from mxcheck.run.measurement_settings import Measuring


def test_arithmetic_is_that_of_the_type_a_recipe_computes_in() -> None:
    """Where bf16 products came out otherwise, and fp32 products did not, the reference would not tell."""
    with ModelSession(Measuring(max_samples=1, sequence_length=32)) as session:
        found = {
            name: measure_case(session, Case(model="ref-llama", precision=name)).arithmetic
            for name in ("bf16", "fp32")
        }
        expected = {"bf16": product_digest(torch.bfloat16), "fp32": product_digest(torch.float32)}
    assert expected["bf16"] != expected["fp32"]
    assert found == expected


@pytest.mark.parametrize("precision", ["mxfp8_e4m3", "nvfp4"])
@pytest.mark.parametrize("memory", ["kept", "lean"])
def test_what_is_repeated_has_the_figures_of_the_case_and_runs_no_more(
    precision: str,
    memory: str,
    reference_model: Callable[[str], LoadedModel],
    tokens: Callable[[LoadedModel], torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded = reference_model("ref-moe")
    model, text, made = loaded.model, tokens(loaded)[:2, :32], recipe(precision, tier="B")
    reference, states = evaluate(model, text), reference_states(model, text)
    whole = emulate(model, made, text, reference, states, batch_size=1)

    def never(*_: object) -> None:
        raise AssertionError("a repeated case counts nothing")

    monkeypatch.setattr(emulation, "counting", never)
    found = repeat(model, made, text, reference, states, batch_size=1, memory=memory)
    assert found.result.sequence_losses == whole.result.sequence_losses
    assert found.result.sequence_kl == whole.result.sequence_kl
    assert found.sublayers == whole.sublayers
    assert found.digests == whole.digests
    assert found.unsteady == {}
