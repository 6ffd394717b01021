"""What an error says of a device's memory."""

from __future__ import annotations

from mxcheck.models.refusal import OUT_OF_MEMORY


def is_out_of_memory(error: BaseException) -> bool:
    """On a CPU torch raises a plain RuntimeError for it, and some of CUDA's libraries do, by these words."""
    import torch

    memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return memory or any(words in str(error) for words in OUT_OF_MEMORY)
