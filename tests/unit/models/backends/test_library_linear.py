from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers.models.falcon.modeling_falcon import FalconLinear
from transformers.pytorch_utils import Conv1D

from mxcheck.models.backends.library_linear import (
    bias_of,
    features,
    indivisible,
    nbytes,
    not_linear,
    weight_of,
)


class Doubled(nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


class Renamed(nn.Linear):
    pass


LINEAR: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(6, 4),
    "no_bias": lambda: nn.Linear(6, 4, bias=False),
    "subclass": lambda: Renamed(6, 4),
    "falcon": lambda: FalconLinear(6, 4),
    "conv1d": lambda: Conv1D(4, 6),
}


@pytest.mark.parametrize("kind", LINEAR)
def test_what_is_taken_makes_the_modules_own_product(kind: str) -> None:
    module = LINEAR[kind]()
    assert not_linear(module) is None
    assert features(module) == (6, 4)
    x = torch.randn(3, 6)
    weight = weight_of(module)
    assert weight.is_contiguous()
    ours = x.double() @ weight.double().t() + (0 if (bias := bias_of(module)) is None else bias.double())
    torch.testing.assert_close(module(x).double(), ours)


@pytest.mark.parametrize("kind", LINEAR)
def test_what_is_taken_is_a_copy(kind: str) -> None:
    module = LINEAR[kind]()
    before = [parameter.detach().clone() for parameter in module.parameters()]
    weight_of(module).zero_()
    if (bias := bias_of(module)) is not None:
        bias.fill_(7)
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


@pytest.mark.parametrize(
    ("module", "said"),
    [
        pytest.param(Doubled(6, 4), "Doubled has a forward of its own", id="own_forward"),
        pytest.param(nn.Conv1d(2, 2, 1), "Conv1d is no nn.Linear and no Conv1D", id="convolution"),
        pytest.param(nn.Embedding(4, 4), "Embedding is no nn.Linear and no Conv1D", id="embedding"),
    ],
)
def test_what_is_not_just_a_product_is_refused(module: nn.Module, said: str) -> None:
    reason = not_linear(module)
    assert reason is not None
    assert reason.startswith(said)


def test_divisibility_is_of_in_and_out_features() -> None:
    assert indivisible(nn.Linear(32, 24), 16, 8, "X") is None
    assert indivisible(nn.Linear(24, 32), 16, 8, "X") == "in_features is 24; X needs a multiple of 16"
    assert indivisible(nn.Linear(32, 20), 16, 8, "X") == "out_features is 20; X needs a multiple of 8"
    assert indivisible(Conv1D(20, 32), 16, 8, "X") == "out_features is 20; X needs a multiple of 8"


def test_nbytes_counts_every_tensor() -> None:
    assert nbytes(torch.zeros(3, dtype=torch.int8), torch.zeros(2, 2)) == 3 + 16
