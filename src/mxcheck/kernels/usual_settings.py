"""Settings of a process that change what a cast or a model gives: put to what they usually are, then back.

mxcheck runs in other people's processes: a test project whose conftest sets a default dtype of float64 is
held against the same oracle, and the same baselines, as one that does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch

_LEAST_NORMAL = 2.0**-126  # of fp32
_LEAST_NORMAL_DOUBLE = 2.0**-1022
# Elements that torch leaves to one thread.
_OF_A_THREAD = 1 << 15


@contextmanager
def usual_settings(*, threads: int | None = None) -> Iterator[None]:
    """Within the context torch makes fp32 tensors on the CPU, computes gradients, casts nothing by itself and
    multiplies fp32 numbers as such, and numpy raises nothing; after it all is as it was, the flushing of
    subnormal numbers too.

    Deterministic algorithms stay as they are: the gate is green with them and without.

    Args:
        threads: torch's, within the context; None: as many as there are.
    """
    dtype, precision = torch.get_default_dtype(), torch.get_float32_matmul_precision()
    before, flushed = torch.get_num_threads(), flushes()
    with ExitStack() as stack:
        stack.callback(torch.set_default_dtype, dtype)
        stack.callback(torch.set_float32_matmul_precision, precision)
        stack.callback(torch.set_num_threads, before)
        stack.callback(_put_back_flushing, flushed)
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision("highest")
        if threads is not None:
            torch.set_num_threads(threads)
        if torch.get_default_device().type != "cpu":  # as a context: each call of torch becomes slower by it
            stack.enter_context(torch.device("cpu"))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autograd.set_detect_anomaly(mode=False))
        stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        yield


def check_subnormals() -> None:
    """Refuse a process in which subnormal numbers become zero: scales down to 2^-127 need them, and so does
    the oracle. Asked of the thread that calls this and, in torch, of each thread that it computes with.

    Raises:
        ValueError: it does.
    """
    wrong = [
        name
        for name, survive in (("torch", _survive_in_torch), ("numpy", _survive_in_numpy))
        if not survive()
    ]
    if wrong:
        raise ValueError(
            f"subnormal numbers become zero in this process ({' and '.join(wrong)}), which makes scales and "
            f"figures wrong: torch.set_flush_denormal(True) does that, and so does a library built with "
            f"-ffast-math when it is loaded; call torch.set_flush_denormal(False) after it, or do without it"
        )


def flushes() -> bool:
    """Whether subnormal numbers become zero in this thread: it is set for all types of floats at once."""
    return _LEAST_NORMAL_DOUBLE * 0.5 == 0


def _put_back_flushing(before: bool) -> None:
    if flushes() != before:
        torch.set_flush_denormal(before)


def _survive_in_torch() -> bool:
    threads = torch.get_num_threads()
    elements = 64 if threads == 1 else threads * _OF_A_THREAD
    normal = torch.full((elements,), _LEAST_NORMAL, dtype=torch.float32, device="cpu")
    half = normal * 0.5
    # As bits: where operands are flushed, too, a subnormal equals zero.
    return bool((half.view(torch.int32) != 0).all()) and torch.equal(half + half, normal)


def _survive_in_numpy() -> bool:
    normal = np.full(64, _LEAST_NORMAL, np.float32)
    half = normal * np.float32(0.5)
    return bool((half.view(np.int32) != 0).all()) and np.array_equal(half + half, normal)
