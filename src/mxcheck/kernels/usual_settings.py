"""Set the process settings that change a cast or a model to their usual values, then restore them.

mxcheck runs in other people's processes: a test project whose conftest sets a default dtype of float64 is
compared with the same oracle and the same baselines as one that does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch

from mxcheck.kernels.kept_settings import AS_IT_IS, SETTINGS, put_settings, settings_kept

_LEAST_NORMAL = 2.0**-126  # of fp32
# Most elements that torch leaves to one thread.
_OF_A_THREAD = 1 << 15


@contextmanager
def usual_settings(*, threads: int | None = None) -> Iterator[None]:
    """Within the context torch makes fp32 tensors on the CPU, computes gradients, does not autocast and
    multiplies fp32 numbers as such, and numpy raises nothing; afterwards each of `SETTINGS` is restored,
    whatever the body did to it.

    Args:
        threads: torch's threads within the context; None: unchanged.
    """
    with ExitStack() as stack:
        stack.enter_context(settings_kept())
        stack.enter_context(torch.inference_mode(mode=False))
        put_settings([one.get() if one.usual is AS_IT_IS else one.usual for one in SETTINGS])
        if torch.get_default_device().type != "cpu":  # set by `with torch.device(…)`
            stack.enter_context(torch.device("cpu"))
        if threads is not None:
            torch.set_num_threads(threads)
        yield


def check_subnormals() -> None:
    """Raise where the process flushes subnormal numbers to zero: scales down to 2^-127 need them, and so does
    the oracle. Checks the calling thread and each of torch's compute threads.

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
            f"-ffast-math when it is loaded; call torch.set_flush_denormal(False) after it, or do without "
            f"that library"
        )


def _survive_in_torch() -> bool:
    threads = torch.get_num_threads()
    elements = 64 if threads == 1 else threads * _OF_A_THREAD
    normal = torch.full((elements,), _LEAST_NORMAL, dtype=torch.float32, device="cpu")
    half = normal * 0.5
    # Compare bits: where operands are flushed too, a subnormal equals zero.
    return bool((half.view(torch.int32) != 0).all()) and torch.equal(half + half, normal)


def _survive_in_numpy() -> bool:
    normal = np.full(64, _LEAST_NORMAL, np.float32)
    half = normal * np.float32(0.5)
    return bool((half.view(np.int32) != 0).all()) and np.array_equal(half + half, normal)
