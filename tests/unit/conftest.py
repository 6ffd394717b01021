from collections.abc import Callable, Iterator
from functools import cache

import pytest
import torch
from hypothesis import HealthCheck, settings
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from mxcheck.evaluation.tokens import load_tokens
from mxcheck.measure import probe_inputs
from mxcheck.models.conversion.convert import Conversion, convert
from mxcheck.models.recipes.recipe import Recipe
from mxcheck.models.zoo.load import LoadedModel, load

# No test fails on time: these machines are shared. The rest is as Hypothesis has it, here or in CI.
settings.register_profile("mxcheck", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mxcheck")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _fewer_calls_of_a_cast() -> Iterator[None]:
    """Each session asks its casts anew: of one in a test, most need not be asked in full."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe_inputs, "MANY_CALLS", 256)
        patch.setattr(probe_inputs, "LARGE", 1 << 15)
        yield


@pytest.fixture(scope="session")
def reference_model() -> Callable[[str], LoadedModel]:
    """The reference model of that name, loaded once a session: leave it as it was."""
    return cache(load)


@pytest.fixture(scope="session")
def tokens() -> Callable[[LoadedModel], torch.Tensor]:
    """The first 64 tokens of 4 of the model's own sequences."""

    def read(loaded: LoadedModel) -> torch.Tensor:
        assert loaded.source.tokens is not None
        return load_tokens(loaded.source.tokens)[:4, :64]

    return read


@pytest.fixture
def converted(request: pytest.FixtureRequest) -> Callable[[PreTrainedModel, Recipe], Conversion]:
    """`convert`, undone when the test ends, however it ends."""

    def convert_for_this_test(model: PreTrainedModel, recipe: Recipe) -> Conversion:
        conversion = convert(model, recipe)
        request.addfinalizer(conversion.undo)
        return conversion

    return convert_for_this_test


@pytest.fixture
def tiny_llama() -> LlamaForCausalLM:
    """A random Llama of two layers, the test's own to spoil."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        initializer_range=0.2,
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config).eval().requires_grad_(False)
