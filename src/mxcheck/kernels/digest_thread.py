"""Digests beside other work: a thread computes them while the caller multiplies.

Nearly all of a digest is spent in numpy and torch, which release the interpreter's lock. A caller waits for
what it began before the tensor may change, so that no result depends on the thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def begin(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Callable[[], R]:
    """Call `function` on the digests' thread, and return a function that waits for the result.

    What the call raises, that function raises, each time. The call records no gradient, and no mode of the
    caller's thread is on. With tensors that are not on the CPU it is made at once, by the caller: a device
    works beside the host anyway, and a thread may have another current device.
    """
    if any(isinstance(one, torch.Tensor) and not one.is_cpu for one in (*args, *kwargs.values())):
        result = function(*args, **kwargs)
        return lambda: result

    def call() -> R:
        with torch.inference_mode():
            return function(*args, **kwargs)

    return _thread(os.getpid()).submit(call).result


@lru_cache(maxsize=1)
def _thread(_process: int) -> ThreadPoolExecutor:
    """Return the thread of a process: a fork does not inherit its parent's."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="mxcheck-digests")
