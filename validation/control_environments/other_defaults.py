"""A pytest plugin that changes defaults as a user's conftest may have done."""

from __future__ import annotations


def pytest_sessionstart() -> None:
    """Change them before the first test, in each worker."""
    import numpy as np
    import torch

    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")  # a tensor that takes this default has no numbers
    torch.set_grad_enabled(False)
    torch.manual_seed(1)
    np.seterr(all="raise")
