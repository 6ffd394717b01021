"""Which cases may run with any batch size: where no sequence feels those beside it."""

from collections.abc import Callable

import pytest
from architectures import tiny
from matrix_products import some_tokens
from transformers import PreTrainedModel

from mxcheck.evaluation import measure
from mxcheck.evaluation.measure import Measurement, evaluate
from mxcheck.models.conversion.convert import Conversion
from mxcheck.models.recipes.ladder import LADDER, with_tiers
from mxcheck.models.recipes.recipe import Recipe, recipe

Convert = Callable[[PreTrainedModel, Recipe], Conversion]

# A dense model. Of experts each product has as many rows as tokens were sent to it, which depends on the
# batch, and the number of rows may decide how a library sums: a Mixtral gives other last bits unconverted.
MODEL = "llama-3.1-8b"
IDS = some_tokens(sequences=4)
OURS = [(name, tier) for name, tier in with_tiers() if LADDER[name].library is None]
ALONE = [case_name for case_name in OURS if recipe(case_name[0], tier=case_name[1]).sequences_a_pass is None]


def by_batch_size(model: PreTrainedModel) -> list[Measurement]:
    reference = evaluate(model, IDS, batch_size=1, keep_log_probabilities=True)
    return [reference, evaluate(model, IDS, batch_size=4, reference=reference)]


@pytest.fixture(scope="module")
def _products_of_any_batch() -> None:
    """Where a machine's products depend on their number of rows, batch sizes say nothing about casts."""
    if not by_batch_size(tiny(MODEL))[1].bit_equal:
        pytest.skip("this machine multiplies batches of 1 and 4 differently: nothing to tell casts by")


any_batch = pytest.mark.usefixtures("_products_of_any_batch")


@any_batch
@pytest.mark.parametrize(("precision", "tier"), ALONE)
def test_no_batch_size_changes_a_bit_where_any_is_allowed(
    precision: str, tier: str | None, converted: Convert
) -> None:
    model = tiny(MODEL)
    converted(model, recipe(precision, tier=tier))
    one, four = by_batch_size(model)

    assert four.bit_equal
    assert four.sequence_losses == one.sequence_losses


@any_batch
@pytest.mark.parametrize("elementwise", ["bf16", "mxint8"])
def test_nor_with_everything_cast(elementwise: str, converted: Convert) -> None:
    model = tiny(MODEL)
    made = recipe("mxfp4_e2m1", tier="linears", attention=True, outputs=True, elementwise=elementwise)
    converted(model, made)
    assert made.sequences_a_pass is None

    assert by_batch_size(model)[1].bit_equal


@any_batch
@pytest.mark.parametrize(
    "precision", ["nvfp4", "fp8_tensor_e4m3", "fp8_tensor_e5m2", "bnb_int8", "scaled_mm_fp8"]
)
def test_scales_that_span_the_batch_do_unless_evaluate_goes_one_by_one(
    precision: str, converted: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny(MODEL)
    for layer in model.model.layers:
        layer.input_layernorm.weight *= 2  # some activations above 6: columns of outliers for bitsandbytes
    made = recipe(precision, tier="B")
    converted(model, made)

    assert made.sequences_a_pass == 1
    assert by_batch_size(model)[1].bit_equal
    monkeypatch.setattr(measure, "sequences_a_pass", lambda _: None)
    assert not by_batch_size(model)[1].bit_equal


@any_batch
@pytest.mark.parametrize("precision", ["nvfp4", "fp8_tensor_e4m3"])
def test_weights_with_one_scale_a_tensor_do_not(precision: str, converted: Convert) -> None:
    model = tiny(MODEL)
    made = recipe(precision, tier="B", weights_only=True)
    converted(model, made)

    assert made.sequences_a_pass is None
    assert by_batch_size(model)[1].bit_equal
