"""A pytest plugin: what a user's conftest may have set for all that comes after it."""

from __future__ import annotations


def pytest_sessionstart() -> None:
    """Before the first test, in each worker."""
    import numpy as np
    import torch

    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")  # a tensor that follows it has no numbers
    torch.set_grad_enabled(False)
    torch.manual_seed(1)
    np.seterr(all="raise")
