"""What is a router, and what only looks like one."""

import pytest
import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.pytorch_utils import Conv1D

from mxcheck.models.conversion.classify import classify


def one_layer(layer: nn.Module, **counts: int) -> nn.Module:
    """A model of that layer alone, with a configuration of those counts."""
    model = nn.ModuleDict({"layers": nn.ModuleList([layer])})
    model.config = PreTrainedConfig(**counts)
    return model


@pytest.mark.parametrize(("inputs", "outputs", "role"), [(8, 4, "router"), (4, 8, "other")])
def test_the_outputs_of_a_gate_that_is_stored_transposed(inputs: int, outputs: int, role: str) -> None:
    model = one_layer(nn.ModuleDict({"gate": Conv1D(outputs, inputs)}), num_experts=4)

    assert classify(model) == {"layers.0.gate": role}


@pytest.mark.parametrize("leaf", ["gate", "router", "shared_expert_gate"])
@pytest.mark.parametrize(
    ("width", "counts", "role"),
    [
        pytest.param(1, {}, "router", id="one-shared-expert"),
        pytest.param(1, {"num_experts": 4}, "router", id="shared-beside-many"),
        pytest.param(
            1,
            {"num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4},
            "router",
            id="shared-beside-every-count",
        ),
        pytest.param(4, {"num_experts": 4}, "router", id="num_experts"),
        pytest.param(4, {"num_local_experts": 4}, "router", id="num_local_experts"),
        pytest.param(4, {"n_routed_experts": 4}, "router", id="n_routed_experts"),
        pytest.param(4, {"num_experts": 8}, "mlp", id="another-number"),
        pytest.param(4, {}, "mlp", id="no-number"),
        pytest.param(4, None, "mlp", id="no-config"),
    ],
)
def test_a_gate_is_a_router_only_if_it_scores_experts(
    leaf: str, width: int, counts: dict[str, int] | None, role: str
) -> None:
    """A gated MLP may call a projection `gate` too, and that one is quantized."""
    layer = nn.ModuleDict({"ffn": nn.ModuleDict({leaf: nn.Linear(8, width)})})
    model = one_layer(layer, **(counts or {}))
    if counts is None:
        del model.config

    assert classify(model) == {f"layers.0.ffn.{leaf}": role}


class Matrix(nn.Module):
    """A weight held directly [4, 8], as the routers of transformers 5 hold theirs."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(shape or (4, 8)))


class TopKRouter(Matrix): ...


class MoEGate(Matrix): ...


class ForgetGate(Matrix): ...


class Holder(nn.Module):
    """A router or gate around a linear of 4 outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(8, 4)


class ScoringRouter(Holder): ...


class TopKGating(Holder): ...


class FfnForgetGate(Holder): ...


@pytest.mark.parametrize(
    ("module", "path", "experts", "role"),
    [
        pytest.param(TopKRouter, "", 4, "router", id="router"),
        pytest.param(TopKRouter, "", 8, "router", id="router-by-its-class-alone"),
        pytest.param(MoEGate, "", 4, "router", id="gate"),
        pytest.param(MoEGate, "", 8, "other", id="gate-of-something-else"),
        pytest.param(ScoringRouter, ".score", 8, "router", id="inside-a-router"),
        pytest.param(TopKGating, ".score", 4, "router", id="inside-a-gate"),
        pytest.param(TopKGating, ".score", 8, "other", id="inside-a-gate-of-something-else"),
        pytest.param(FfnForgetGate, ".score", 4, "mlp", id="inside-a-forget-gate"),
    ],
)
def test_routers_by_their_class(module: type[nn.Module], path: str, experts: int, role: str) -> None:
    model = one_layer(nn.ModuleDict({"scorer": module()}), num_experts=experts)

    assert classify(model) == {f"layers.0.scorer{path}": role}


@pytest.mark.parametrize(
    "module",
    [pytest.param(Matrix(), id="no-router"), pytest.param(TopKRouter(8), id="a-vector")],
)
def test_other_matrices_are_not_linear_like(module: nn.Module) -> None:
    assert classify(one_layer(nn.ModuleDict({"scorer": module}), num_experts=4)) == {}
