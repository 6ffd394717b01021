"""A kernel may multiply for itself: the digests are of the model's products alone."""

from __future__ import annotations

import pytest
import torch
from architectures import tiny
from torch import Tensor

from mxcheck.formats.spec import CastSpec
from mxcheck.kernels.eager import quantize_eager
from mxcheck.models.conversion.convert import convert
from mxcheck.models.conversion.probe import digests
from mxcheck.models.recipes.recipe import recipe


def multiplies(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
    """Ours, beside a product of its own and an addition of hidden shape."""
    torch.matmul(torch.eye(4), torch.eye(4))
    return quantize_eager(x + torch.zeros_like(x), spec)


@pytest.mark.parametrize("name", ["llama-3.1-8b", "mixtral-8x7b"])
def test_digests_are_the_same_whatever_a_kernel_computes_on_its_way(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mxcheck.kernels.eager.multiplies", multiplies, raising=False)
    found = []
    for kernel in ("eager", "mxcheck.kernels.eager:multiplies"):
        made = recipe("mxfp8_e4m3", tier="B", attention=True, elementwise="bf16", kernel=kernel)
        conversion = convert(tiny(name), made)
        found.append(digests(conversion))
    assert found[0] == found[1]
