"""What an error says of a device's memory."""

from __future__ import annotations


def is_out_of_memory(error: BaseException) -> bool:
    """On a CPU torch raises a plain RuntimeError for it, and some of CUDA's libraries do, by these words."""
    import torch

    words = ("can't allocate memory", "not enough memory", "CUDA error: out of memory", "ALLOC_FAILED")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(w in str(error) for w in words)
