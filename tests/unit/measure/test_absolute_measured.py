"""What a first acceptance finds of a real model: sound recipes pass, broken ones do not."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from matrix_products import multiplied
from transformers import LlamaForCausalLM

from mxcheck.gate.absolute_checks import Absolute, absolute_checks, share_of_signed
from mxcheck.gate.case import case_of
from mxcheck.gate.orderings import Standing
from mxcheck.gate.record import Record
from mxcheck.measure.absolute_figures import (
    SEEDS,
    _rows,
    absolute,
    by_the_oracle,
    compared_with_the_oracle,
    random_signs,
    sees_later,
    zero_matrices,
)
from mxcheck.measure.model_session import ModelSession
from mxcheck.models.conversion.convert import convert
from mxcheck.models.recipes.ladder import BF16
from mxcheck.models.recipes.recipe import Operand, recipe
from mxcheck.run.measurement_settings import Measuring

pytestmark = pytest.mark.slow

TOOL = Path(__file__).parents[3] / "tools" / "try_first_acceptance.py"


def _tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("try_first_acceptance", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FIRST = _tool()
CASE = case_of("ref-llama", "mxfp8_e4m3-B+rceil")
#: One of each way to cast: blocks, an fp32 scale a tensor, two scales, attention, every linear, bf16.
SOUND = (
    "mxfp8_e4m3-B+floor",
    "nvfp4-B",
    "fp8_tensor_e4m3-B",
    "mxint8-A",
    "bf16_operands-B",
    "mxfp8_e4m3-B+attention",
    "mxfp8_e4m3-linears",
)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelSession]:
    recipes = {case_of("ref-llama", case_name): FIRST.SOUND[case_name] for case_name in (*SOUND, CASE.name)}
    recipes[case_of("ref-llama", "bnb_int8-B")] = recipe("bnb_int8", tier="B")
    measuring = Measuring(
        recipes=recipes, max_samples=4, baselines=tmp_path_factory.mktemp("baselines"), device="cpu"
    )
    with ModelSession(measuring) as session:
        yield session


def refused(record: Record, found: Absolute) -> list[str]:
    return [one.key for one in absolute_checks(record, found, Standing()) if not one.passed]


@pytest.mark.parametrize("case_name", SOUND)
def test_a_sound_recipe_passes(session: ModelSession, case_name: str) -> None:
    record, found = FIRST._tried(session, case_of("ref-llama", case_name), None)
    assert refused(record, found) == []
    assert found.compared > 100_000
    assert len(found.signed) == len(SEEDS)
    assert len(set(found.signed)) == len(SEEDS)


@pytest.mark.parametrize("name", FIRST.BROKEN)
def test_a_broken_recipe_does_not(session: ModelSession, name: str) -> None:
    record, found = FIRST._tried(session, CASE, FIRST.BROKEN[name])
    assert refused(record, found) == ["signs" if name == "results are rounded to eight bits" else "oracle"]


def test_products_are_no_part_of_the_measure(session: ModelSession) -> None:
    """Random signs go into the modules' own products: a broken one does not make its own excuse."""
    fault = FIRST.BROKEN["results are rounded to eight bits"]
    record, found = FIRST._tried(session, CASE, fault)
    _, sound = FIRST._tried(session, CASE, None)
    assert found.signed == sound.signed
    assert record.kl is not None
    assert share_of_signed(record.kl, found) > 3


@pytest.mark.parametrize(
    ("rows", "wrong"),
    [
        pytest.param(lambda y: y[:, 512:], True, id="rows-of-a-pass-from-512"),
        pytest.param(lambda y: y[:, -1:], True, id="last-row-of-a-pass"),
        pytest.param(lambda y: y[:, :0], False, id="none"),
    ],
)
def test_rows_of_a_pass_beyond_the_first_sequence_are_compared(
    session: ModelSession, rows: Callable[[torch.Tensor], torch.Tensor], wrong: bool
) -> None:
    """As a grid that ends too early has them: 4 sequences of 256 tokens make 1,024 rows."""
    conversion = convert(session.resident(CASE.model).loaded.model, FIRST.SOUND[CASE.name])
    module = next(iter(conversion.modules.values()))
    cast = module.cast

    def broken(x: torch.Tensor) -> torch.Tensor:
        values = cast(x).clone()
        rows(values.view(1, -1, values.shape[-1])).mul_(0.75)
        return values

    module.cast = broken
    try:
        _, found = compared_with_the_oracle(conversion, session.resident(CASE.model).text.tokens)
    finally:
        conversion.undo()
    assert bool(found) is wrong


def test_the_last_rows_of_a_weight_are_compared() -> None:
    assert {0, 343} <= set(_rows(torch.zeros(344, 32), -1, 32))
    assert _rows(torch.zeros(1, 32), -1, 32) == [0]
    assert _rows(torch.tensor([[0.0], [9.0], [0.0], [0.0], [0.0]]), -1, 2) == [0, 1, 4]


def test_a_model_that_sees_later_tokens_is_told(tiny_llama: LlamaForCausalLM) -> None:
    tokens = torch.arange(2, 34)[None]
    assert sees_later(tiny_llama, tokens) < 1e-3
    for layer in tiny_llama.model.layers:
        mean = layer.register_forward_hook(lambda _, __, out: out + out.mean(1, keepdim=True))
        assert mean is not None
    assert sees_later(tiny_llama, tokens) > 0.1


def test_a_matrix_of_zeros_is_told(tiny_llama: LlamaForCausalLM) -> None:
    assert zero_matrices(tiny_llama) == ()
    name = "model.layers.0.mlp.up_proj.weight"
    with torch.no_grad():
        tiny_llama.get_parameter(name).zero_()
        tiny_llama.get_parameter("model.norm.weight").zero_()  # no matrix
    assert zero_matrices(tiny_llama) == (name,)


def test_what_a_library_casts_is_not_known(session: ModelSession) -> None:
    found = absolute(session, case_of("ref-llama", "bnb_int8-B"))
    assert found.unknown == "bitsandbytes casts"
    assert 0.4 < found.of_uniform < 0.5  # 3.0 nats of log(1024)


def test_random_signs_leave_the_conversion_as_it_was(session: ModelSession) -> None:
    model = session.resident("ref-llama").loaded.model
    tokens = session.resident("ref-llama").text.tokens[:1, :64]
    before = {name: value.clone() for name, value in model.named_parameters()}
    conversion = convert(model, FIRST.SOUND["mxfp8_e4m3-B+attention"])
    try:
        with torch.inference_mode():
            converted = model(tokens).logits
            with random_signs(conversion, 0):
                turned = model(tokens).logits
            again = model(tokens).logits
            with random_signs(conversion, 0):
                assert torch.equal(model(tokens).logits, turned)
            with random_signs(conversion, 1):
                assert not torch.equal(model(tokens).logits, turned)
    finally:
        conversion.undo()
    assert torch.equal(converted, again)
    assert not torch.equal(converted, turned)
    assert all(torch.equal(before[name], value) for name, value in model.named_parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_oracle_s_values(dtype: torch.dtype) -> None:
    x = torch.tensor([[1.0625, -0.3, 448.0, 0.0] * 8]).to(dtype)
    assert torch.equal(by_the_oracle(x, None, -1), x.float())
    assert torch.equal(by_the_oracle(x, Operand(format=BF16), -1), x.bfloat16().float())
    values = by_the_oracle(x, Operand(format="fp8_e4m3"), -1)
    assert values[0, :4].tolist() == [1.0, -0.3125, 448.0, 0.0]


def test_a_module_that_is_called_by_name_is_measured_alike(session: ModelSession) -> None:
    """`linear(input=x)`, as some models write it."""
    model = session.resident("ref-llama").loaded.model
    tokens = session.resident("ref-llama").text.tokens[:1, :32]
    conversion = convert(model, recipe("mxfp8_e4m3", tier="A"))
    try:
        with torch.inference_mode(), random_signs(conversion, 0):
            by_position = model(tokens).logits
        mlp = model.model.layers[0].mlp
        before = mlp.forward
        mlp.forward = lambda x: mlp.down_proj(input=mlp.act_fn(mlp.gate_proj(input=x)) * mlp.up_proj(input=x))
        try:
            with torch.inference_mode(), random_signs(conversion, 0):
                assert torch.equal(model(tokens).logits, by_position)
        finally:
            mlp.forward = before
    finally:
        conversion.undo()


def test_a_shared_weight_is_turned_in_the_module_alone() -> None:
    """ref-neo's output embedding is its input embedding, which no recipe casts."""
    measuring = Measuring(models={"ref-neo": "ref-neo"}, max_samples=1, device="cpu")
    with ModelSession(measuring) as session:
        model = session.resident("ref-neo").loaded.model
        embedding = model.get_input_embeddings().weight
        assert model.get_output_embeddings().weight is embedding
        before = embedding.detach().clone()
        conversion = convert(model, recipe("mxfp8_e4m3", tier="linears"))
        try:
            with random_signs(conversion, 0):
                assert torch.equal(model.get_input_embeddings().weight, before)
                assert not torch.equal(multiplied(model.get_output_embeddings())["weight"], before)
        finally:
            conversion.undo()
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
        assert torch.equal(embedding, before)
