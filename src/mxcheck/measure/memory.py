"""Recognise out-of-memory errors."""

from __future__ import annotations

from mxcheck.models.refusal import OUT_OF_MEMORY


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out. On a CPU torch raises a plain RuntimeError for it, as some of CUDA's
    libraries do; its words tell."""
    import torch

    memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return memory or any(words in str(error) for words in OUT_OF_MEMORY)
