import pytest
import torch


@pytest.fixture
def random_tokens() -> torch.Tensor:
    """Seven sequences of 12 tokens of `tiny_llama`'s vocabulary."""
    return torch.randint(96, (7, 12), generator=torch.Generator().manual_seed(1))
