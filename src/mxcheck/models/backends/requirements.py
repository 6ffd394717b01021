"""Check a library's requirements before anything is loaded. Each function returns a reason in one line, or
None."""

from __future__ import annotations

from functools import cache
from importlib import import_module

import torch

from mxcheck.files.printed import WORDS, one_line

Capability = tuple[int, int]

# Errors of a binary that was built for another torch or CUDA, or lacks a part: an undefined symbol, a missing
# shared object, a version that an `assert` refuses, a name that torch no longer has.
_BROKEN = (ImportError, OSError, RuntimeError, AssertionError, AttributeError)


@cache
def broken(module: str) -> str | None:
    """Return an error if an installed module cannot be imported, or None."""
    try:
        import_module(module)
    except _BROKEN as error:
        package = module.partition(".")[0]
        words = one_line(str(error), WORDS)
        return (
            f"{package} is installed but broken: importing {module} raises {type(error).__name__}: {words}; "
            f"install a build of it for torch {torch.__version__}"
        )
    return None


def cuda_capability(device: str) -> Capability | None:
    """Return the compute capability of a CUDA device; None for any other device, or where torch sees none."""
    if torch.device(device).type != "cuda" or torch.version.hip or not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_capability(device)


def unfit_device(
    device: str, capability: Capability | None, *, at_least: Capability, below: Capability | None = None
) -> str | None:
    """Return an error unless `device`, with this `capability`, is a CUDA device within the range."""
    if capability is not None and capability >= at_least and (below is None or capability < below):
        return None
    least = ".".join(map(str, at_least))
    allowed = f"{least} or later" if below is None else f"{least} up to, not including, {below[0]}.{below[1]}"
    if capability is not None:
        got = f"{device} has {capability[0]}.{capability[1]}"
    elif torch.device(device).type == "cuda":
        got = "torch sees no CUDA device"
    else:
        got = f"the model is on {device}"
    return f"needs a CUDA device of compute capability {allowed}, and {got}"
