"""What the default gate has besides the whole ladder."""

from __future__ import annotations

import pytest

from mxcheck.models.zoo import REFERENCE_MODELS
from mxcheck.run.cases import Changes
from mxcheck.run.default_gate import FEW_STAGES, WHOLE_LADDER, beside, has_stage


def test_every_reference_model_has_the_ladder_or_few_stages() -> None:
    assert set(WHOLE_LADDER) | FEW_STAGES.keys() == set(REFERENCE_MODELS)
    assert not set(WHOLE_LADDER) & FEW_STAGES.keys()
    assert all(("fp32", None) in stages for stages in FEW_STAGES.values())  # a reduced run may have no other


def test_a_model_with_few_stages_has_no_other() -> None:
    assert has_stage("wide-gpt2", "fp8_e4m3", "B")
    assert not has_stage("wide-gpt2", "fp8_e4m3", "A")
    assert has_stage("my-model", "fp8_e4m3", "A")


@pytest.mark.parametrize(
    ("model", "tier", "expected"),
    [
        ("ref-llama", "B", [Changes(scale_rule="rceil")]),
        ("my-model", "B", [Changes(scale_rule="rceil")]),
        ("ref-llama", "A", []),
        ("ref-neo", "B", [Changes(scale_rule="rceil"), Changes(outputs=True)]),
        ("wide-gpt2", "B", [Changes(attention=True)]),
        ("bf16-llama", "B", []),
    ],
)
def test_what_stands_beside_a_stage(model: str, tier: str, expected: list[Changes]) -> None:
    assert list(beside(model, "fp8_e4m3", tier)) == expected
