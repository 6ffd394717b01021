"""What a recipe is measured with: the converted model, and the arithmetic of its own type."""

from __future__ import annotations

import torch

from mxcheck.evaluation.arithmetic import product_digest
from mxcheck.gate.case import Case
from mxcheck.measure.measure_case import measure_case
from mxcheck.measure.model_session import ModelSession
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
