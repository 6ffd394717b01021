"""Global quantization: which element-wise results there are, that they are cast, and that it is undone."""

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from architectures import ARCHITECTURES, tiny
from matrix_products import logits, some_tokens
from torch import Tensor, nn
from transformers import PreTrainedModel

from mxcheck.kernels.api import fake_quantize
from mxcheck.models.conversion.convert import Conversion
from mxcheck.models.conversion.elementwise import elementwise_modules
from mxcheck.models.recipes.recipe import Casts, Operand, Recipe

Convert = Callable[[PreTrainedModel, Recipe], Conversion]

every_architecture = pytest.mark.parametrize("name", ARCHITECTURES)

IDS = some_tokens()


def global_alone(format: str) -> Recipe:
    return Recipe(precision="global-alone", roles={"mlp": Casts()}, elementwise=Operand(format=format))


#: Of two layers: norms, activation functions; softmax, additions of hidden states in a forward pass.
#: A layer has 2 norms, 1 activation function, 1 softmax and 2 residual additions, and there is a last norm.
USUAL = (5, 2, 2, 4)
COUNTS = dict.fromkeys(ARCHITECTURES, USUAL) | {
    # learned positions are added to the embeddings
    "tinystories-33M": (5, 2, 2, 5),
    "gpt2": (5, 2, 2, 5),
    "opt-125m": (5, 2, 2, 5),
    # one norm a layer, which attention and MLP share; their two results are still added one by one
    "phi-1_5": (3, 2, 2, 4),
    "falcon-7b": (3, 2, 2, 4),
    # a norm of the embeddings
    "bloom-560m": (6, 2, 2, 4),
    # norms of queries and keys; Gemma's also of both results
    "qwen3-0.6b": (9, 2, 2, 4),
    "gemma3-1b": (13, 2, 2, 4),
    # the router of each layer is a softmax; its experts share one activation function
    "mixtral-8x7b": (5, 2, 4, 4),
    "gpt-oss-20b": (5, 2, 4, 4),
    "qwen3-moe-30b-a3b": (9, 2, 4, 4),
    # a norm of the latent keys and values in each layer; the second layer has a router, and shared experts
    # with an activation of their own, whose result is added to the routed ones'
    "deepseek-v2-lite": (7, 3, 3, 5),
}


@every_architecture
@pytest.mark.parametrize("length", [64, 24], ids=["as-long-as-wide", "shorter"])
def test_what_is_cast(name: str, length: int, converted: Convert) -> None:
    model = tiny(name)
    conversion = converted(model, global_alone("bf16"))
    assert conversion.elementwise is not None
    kinds = Counter(elementwise_modules(model).values())
    for _ in range(2):  # of the last pass, not of all
        logits(model, IDS[:, :length])
        operations = conversion.elementwise.counts

        assert (kinds["norm"], kinds["activation"]) == COUNTS[name][:2]
        assert (operations["softmax"], operations["addition"]) == COUNTS[name][2:]
        assert set(kinds) | set(operations) == {"norm", "activation", "softmax", "addition"}


@every_architecture
@pytest.mark.parametrize("format", ["bf16", "fp4_e2m1"])
def test_results_lie_on_the_grid_and_undo_is_bit_equal(name: str, format: str, converted: Convert) -> None:
    model = tiny(name)
    before = logits(model, IDS)
    plain = results(model)
    conversion = converted(model, global_alone(format))
    changed, found = logits(model, IDS), results(model)
    assert conversion.elementwise is not None

    assert not torch.equal(changed, before)
    gates = {
        key for key in conversion.elementwise.modules if "Experts" in type(model.get_submodule(key)).__name__
    }
    assert found.keys() == conversion.elementwise.modules.keys() - gates
    for module, values in found.items():
        for x in values:
            assert torch.equal(x, cast(x, format)), module
        assert not any(torch.equal(x, cast(x, format)) for x in plain[module]), module
    conversion.undo()
    assert torch.equal(logits(model, IDS), before)
    assert conversion.replaced == {**conversion.elementwise.modules, **linear_roles(conversion)}


def cast(x: Tensor, format: str) -> Tensor:
    return x.bfloat16().to(x.dtype) if format == "bf16" else fake_quantize(x, format)


def linear_roles(conversion: Conversion) -> dict[str, str]:
    return {name: conversion.replaced[name] for name in conversion.modules}


def results(model: PreTrainedModel) -> dict[str, list[Tensor]]:
    """What each norm and activation function gives in a forward pass."""
    found: dict[str, list[Tensor]] = {}

    def note(name: str) -> Callable[..., None]:
        return lambda _module, _args, output: found.setdefault(name, []).append(output.clone())

    names = [
        key for key in elementwise_modules(model) if "Experts" not in type(model.get_submodule(key)).__name__
    ]
    handles = [model.get_submodule(key).register_forward_hook(note(key)) for key in names]
    try:
        logits(model, IDS)
    finally:
        for handle in handles:
            handle.remove()
    return found


def test_the_inline_gate_of_gpt_oss_is_cast_and_its_experts_keep_their_role(converted: Convert) -> None:
    model = tiny("gpt-oss-20b")
    experts = model.model.layers[0].mlp.experts
    halves = torch.randn(7, 192, generator=torch.Generator().manual_seed(1))
    before = experts._apply_gate(halves)
    conversion = converted(model, global_alone("fp4_e2m1"))

    assert torch.equal(experts._apply_gate(halves), fake_quantize(before, "fp4_e2m1"))
    assert conversion.replaced["model.layers.0.mlp.experts"] == "mlp"
    conversion.undo()
    assert torch.equal(experts._apply_gate(halves), before)
    assert "_apply_gate" not in vars(experts)


class _Layer(nn.Module):
    """Stands in a model for one operation on hidden states, kept where the test can see both."""

    def __init__(self, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.operation = operation
        self.seen: list[Tensor] = []

    def forward(self, hidden_states: Tensor) -> Tensor:
        result = self.operation(hidden_states)
        self.seen.append(result)
        return result


OTHER = torch.randn(2, 64, 64, generator=torch.Generator().manual_seed(2))


def in_place(x: Tensor) -> Tensor:
    y = x.clone()
    alias = y.view(-1, 64)
    y += OTHER
    # the alias shows what was written to memory, not just what the name was bound to
    return alias.view(y.shape)


OPERATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], bool]] = {
    "plus": (lambda x: x + OTHER, lambda x: x + OTHER, True),
    "torch.add": (lambda x: torch.add(x, OTHER), lambda x: x + OTHER, True),
    "Tensor.add_": (lambda x: x.clone().add_(OTHER), lambda x: x + OTHER, True),
    "in-place": (in_place, lambda x: x + OTHER, True),
    "positions": (lambda x: x + OTHER[:1], lambda x: x + OTHER[:1], True),
    "flattened": (
        lambda x: (x.view(-1, 64) + OTHER.view(-1, 64)).view(x.shape),
        lambda x: x + OTHER,
        True,
    ),
    "softmax": (lambda x: x.softmax(-1), lambda x: x.softmax(-1), True),
    "functional-softmax": (lambda x: nn.functional.softmax(x, dim=-1), lambda x: x.softmax(-1), True),
    "functional-silu": (nn.functional.silu, nn.functional.silu, True),
    "functional-gelu": (nn.functional.gelu, nn.functional.gelu, True),
    "functional-relu": (
        # of what the norm gave, relu alone would be on the grid already
        lambda x: nn.functional.relu(x - 0.3),
        lambda x: nn.functional.relu(x - 0.3),
        True,
    ),
    "bias": (lambda x: x + OTHER[0, 0], lambda x: x + OTHER[0, 0], False),
    "number": (lambda x: x + 1.5, lambda x: x + 1.5, False),
    "product": (lambda x: x * OTHER, lambda x: x * OTHER, False),
}


@pytest.mark.parametrize("case", OPERATIONS)
def test_operations(case: str, converted: Convert) -> None:
    operation, plain, is_cast = OPERATIONS[case]
    model = tiny("llama-3.1-8b")
    layer = _Layer(operation)
    model.model.layers[0].mlp = layer
    conversion = converted(model, global_alone("fp4_e2m1"))
    assert conversion.elementwise is not None
    inputs: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _module, args: inputs.append(args[0].clone()))
    logits(model, IDS)
    handle.remove()
    expected = plain(inputs[0])

    assert torch.equal(layer.seen[0], fake_quantize(expected, "fp4_e2m1") if is_cast else expected)
    assert not torch.equal(expected, fake_quantize(expected, "fp4_e2m1"))


def test_nothing_is_cast_outside_a_forward_pass(converted: Convert) -> None:
    converted(tiny("llama-3.1-8b"), global_alone("fp4_e2m1"))
    x = torch.linspace(-1, 1, 2 * 3 * 64).view(2, 3, 64)

    assert torch.equal((x + x).view(-1), (2 * x).view(-1))
    assert not torch.equal(x, fake_quantize(x, "fp4_e2m1"))


def test_a_gated_norm_is_a_norm() -> None:
    """Of linear attention (Qwen3-Next, Mamba 2): a class of that name is all that the rule looks at."""
    gated = type("SomeRMSNormGated", (nn.Module,), {})
    assert elementwise_modules(nn.Sequential(gated(), nn.Linear(2, 2))) == {"0": "norm"}
