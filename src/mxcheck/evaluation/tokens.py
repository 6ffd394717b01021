"""The file of evaluation tokens: safetensors, one int32 tensor [sequences, length]."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors.torch import load_file, save

from mxcheck.files.printed import one_line, some_of, told
from mxcheck.files.write import write_whole
from mxcheck.models.zoo.refusal import reading

__all__ = ["fingerprint", "load_tokens", "save_tokens"]

_KEY = "tokens"
_INTEGERS = (torch.int32, torch.int64)


def save_tokens(tokens: torch.Tensor, path: str | Path) -> None:
    """Write token ids [sequences, length], int32 or int64, to `path` as int32 under the key "tokens"."""
    _check(tokens, path, allowed=_INTEGERS)
    if int(tokens.max()) > torch.iinfo(torch.int32).max:
        raise ValueError(f"{path}: token ids must fit int32, got {int(tokens.max())}")
    write_whole(Path(path), save({_KEY: tokens.to("cpu", torch.int32).contiguous()}))


def load_tokens(path: str | Path) -> torch.Tensor:
    """Read a tokens file: token ids, int64 [sequences, length], on the CPU.

    Raises ValueError, in one line that names the file, if there is no such file, it is damaged, or it holds
    no table of token ids.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such tokens file; write one with save_tokens")
    with reading(
        lambda error: ValueError(
            one_line(f"{path}: not a readable safetensors file ({told(error)}); restore or resample it")
        )
    ):
        tensors = load_file(path)
    if _KEY not in tensors:
        names = some_of(sorted(tensors))
        raise ValueError(one_line(f'{path}: must hold a tensor "{_KEY}", got {names}'))
    tokens = tensors[_KEY]
    _check(tokens, path, allowed=(torch.int32,))
    return tokens.to(torch.int64)


def _check(tokens: torch.Tensor, path: str | Path, *, allowed: tuple[torch.dtype, ...]) -> None:
    if tokens.dtype not in allowed:
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
        raise ValueError(f"{path}: tokens must be {names}, got {str(tokens.dtype).removeprefix('torch.')}")
    if tokens.dim() != 2 or tokens.numel() == 0:
        raise ValueError(
            f"{path}: tokens must be a non-empty [sequences, length], got shape {list(tokens.shape)}"
        )
    if int(tokens.min()) < 0:
        raise ValueError(f"{path}: token ids must be 0 or more, got {int(tokens.min())}")


def fingerprint(tokens: torch.Tensor) -> str:
    """Return the SHA-256 of shape and ids of tokens [sequences, length], whatever their integer dtype."""
    ids = tokens.to("cpu", torch.int64).contiguous()
    return hashlib.sha256(f"{tuple(ids.shape)}:".encode() + ids.numpy().tobytes()).hexdigest()
