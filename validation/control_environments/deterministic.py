"""A pytest plugin that enables torch's deterministic mode, for which there is no environment variable."""

from __future__ import annotations


def pytest_sessionstart() -> None:
    """Enable it before the first test, in each worker."""
    import torch

    torch.use_deterministic_algorithms(True)
