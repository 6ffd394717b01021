"""What the default gate has besides the whole ladder."""

from __future__ import annotations

import pytest

from mxcheck.models.zoo.known_models import REFERENCE_MODELS
from mxcheck.run.default_gate import FEW_PRECISIONS, WHOLE_LADDER, beside, is_run_with
from mxcheck.run.ladder_cases import Changes


def test_every_reference_model_has_the_ladder_or_few_precisions() -> None:
    assert set(WHOLE_LADDER) | FEW_PRECISIONS.keys() == set(REFERENCE_MODELS)
    assert not set(WHOLE_LADDER) & FEW_PRECISIONS.keys()
    # a reduced run may have no other
    assert all(("fp32", None) in few for few in FEW_PRECISIONS.values())


def test_a_model_with_few_precisions_has_no_other() -> None:
    assert is_run_with("wide-gpt2", "mxfp8_e4m3", "B")
    assert not is_run_with("wide-gpt2", "mxfp8_e4m3", "A")
    assert is_run_with("my-model", "mxfp8_e4m3", "A")


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
def test_what_stands_beside_a_precision(model: str, tier: str, expected: list[Changes]) -> None:
    assert list(beside(model, "mxfp8_e4m3", tier)) == expected
