"""Modules that read one input share its cast; what is not the same is cast anew."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from architectures import tiny
from matrix_products import logits, some_tokens
from torch import Tensor, nn

from mxcheck.kernels.api import fake_quantize
from mxcheck.models.conversion import casts
from mxcheck.models.conversion.convert import Conversion, convert
from mxcheck.models.conversion.linear import ConvertedLinear
from mxcheck.models.conversion.shared_cast import shared, sharing
from mxcheck.models.recipes.recipe import recipe

IDS = some_tokens()
PRECISION = "mxfp8_e4m3"


def a_kernel(x: Tensor, _spec: object) -> Tensor:
    """A user's kernel."""
    return fake_quantize(x, "fp8_e4m3")


def made(monkeypatch: pytest.MonkeyPatch, model: nn.Module, kernel: str = "auto") -> list[Tensor]:
    """The operands of every cast of an activation in one forward."""
    conversion = convert(model, recipe(PRECISION, tier="B", kernel=kernel))
    found: list[Tensor] = []
    cast = casts.fake_quantize_with

    def noted(x: Tensor, *arguments: object) -> Tensor:
        found.append(x)
        return cast(x, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(casts, "fake_quantize_with", noted)
        logits(model, IDS)
    conversion.undo()
    return found


def test_what_several_modules_read_is_cast_once_but_by_a_user_s_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny("llama-3.1-8b")
    layers = model.config.num_hidden_layers
    assert len(made(monkeypatch, model)) == 4 * layers  # of 7: q, k, v are one, and gate and up
    assert len(made(monkeypatch, model, f"{__name__}:a_kernel")) == 7 * layers


class Counted:
    """A cast that counts."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        return 2 * x


def test_a_cast_is_shared_within_a_forward_and_nothing_is_held_after_it() -> None:
    cast = Counted()
    once, other = shared(cast, "e4m3"), shared(cast, "e5m2")
    x = torch.ones(3)
    once(x), once(x)
    assert cast.calls == 2  # no forward runs
    with sharing():
        assert once(x) is once(x) is shared(cast, "e4m3")(x)
        assert cast.calls == 3
        other(x)
        assert cast.calls == 4
        other(x.clone())
        assert cast.calls == 5
        with sharing():
            once(x)
        assert cast.calls == 6
    with sharing():
        once(x)
    assert cast.calls == 7


@pytest.mark.parametrize(
    "write",
    [lambda x: x.add_(1), lambda x: x[:1].mul_(3), lambda x: x.detach().zero_()],
    ids=["itself", "a view", "detached"],
)
def test_a_tensor_that_was_written_to_is_cast_anew(write: Callable[[Tensor], Tensor]) -> None:
    once = shared(Counted(), "e4m3")
    x = torch.ones(3)
    with sharing():
        once(x)
        write(x)
        assert torch.equal(once(x), 2 * x)
        once(x).zero_()
        assert torch.equal(once(x), 2 * x)


@pytest.mark.parametrize("inside", [True, False])
def test_where_torch_counts_no_writes_nothing_is_shared(inside: bool) -> None:
    cast = Counted()
    once = shared(cast, "e4m3")
    plain = torch.ones(3)
    with torch.inference_mode():
        of_inference = torch.ones(3)
    with sharing(), torch.inference_mode(inside):
        for x in (of_inference, plain) if inside else (of_inference,):
            before = cast.calls
            once(x), once(x)
            assert cast.calls == before + 2


class WritesBetween(nn.Module):
    """An MLP that changes its input between two projections."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(64, 64, bias=False).requires_grad_(False)
        self.up_proj = nn.Linear(64, 64, bias=False).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone()
        first = self.gate_proj(x)
        x.mul_(-0.3)
        result: Tensor = first * self.up_proj(x)
        return result


class WritesBetweenMLP(WritesBetween):
    """By its name an MLP."""


def converted_writer() -> tuple[WritesBetweenMLP, Conversion]:
    torch.manual_seed(0)
    model = tiny("llama-3.1-8b")
    model.model.layers[1].mlp = WritesBetweenMLP()
    return model.model.layers[1].mlp, convert(model, recipe(PRECISION, tier="B"))


def expected(part: WritesBetweenMLP, x: Tensor) -> Tensor:
    of = [fake_quantize(one, "fp8_e4m3") for one in (x, x * -0.3, part.gate_proj.weight, part.up_proj.weight)]
    return nn.functional.linear(of[0], of[2]) * nn.functional.linear(of[1], of[3])


def test_a_module_that_writes_to_its_input_between_two_projections() -> None:
    part, conversion = converted_writer()
    x = torch.randn(3, 64)
    assert torch.equal(part(x), expected(part, x))
    with torch.inference_mode():
        assert torch.equal(part(x), expected(part, x))
    conversion.undo()


def test_threads_that_run_one_model() -> None:
    model = tiny("llama-3.1-8b")
    conversion = convert(model, recipe(PRECISION, tier="B"))
    texts = [(IDS + n) % model.config.vocab_size for n in range(4)]
    alone = [logits(model, one) for one in texts]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            together = list(pool.map(lambda one: logits(model, one), texts))
            assert all(torch.equal(*pair) for pair in zip(together, alone, strict=True))
    conversion.undo()


def patched(module: nn.Module, x: Tensor) -> Tensor:
    return nn.functional.linear(x + 1, module.weight)  # type: ignore[arg-type]


@pytest.mark.parametrize("whose", ["instance", "class"])
def test_a_forward_that_somebody_put_in_place_of_linear_s_runs(
    whose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("llama-3.1-8b")
    name = "model.layers.0.mlp.up_proj"
    module = model.get_submodule(name)
    if whose == "instance":
        module.forward = lambda x: patched(module, x)
    else:
        monkeypatch.setattr(nn.Linear, "forward", patched)
    conversion = convert(model, recipe(PRECISION, tier="B"))
    x = torch.randn(3, module.in_features)
    of = fake_quantize(x + 1, "fp8_e4m3"), fake_quantize(module.weight.detach(), "fp8_e4m3")
    with torch.no_grad():
        assert torch.equal(module(x), nn.functional.linear(*of))
    assert isinstance(conversion.modules[name], ConvertedLinear)
    conversion.undo()
