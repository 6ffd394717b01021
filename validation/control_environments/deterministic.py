"""A pytest plugin: torch's deterministic mode, which no environment variable switches on."""

from __future__ import annotations


def pytest_sessionstart() -> None:
    """Before the first test, in each worker."""
    import torch

    torch.use_deterministic_algorithms(True)
