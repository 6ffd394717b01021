"""The devices that an option can name, and the meaning of `auto` here. Imports torch to resolve one."""

from __future__ import annotations

from mxcheck.formats.choices import choose

DEVICES = ("auto", "cpu", "cuda")


def resolve_device(name: str, *, option: str = "--mx-device", present: bool = True) -> str:
    """Return `cpu` or `cuda`; for `auto`, `cuda` if it is available. `present` False: a named device may be
    missing.

    Raises:
        ValueError: another name; `cuda` is not available.
    """
    choose(option, name, DEVICES)
    import torch

    available = torch.cuda.is_available()
    if name == "cuda" and present and not available:
        raise ValueError(f"no CUDA device here; use {option}=cpu or auto")
    if name != "auto":
        return name
    return "cuda" if available else "cpu"
