"""Try a compiled kernel on small inputs before `auto` takes it: does it give eager's bits?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from mxcheck.formats.blocks import BLOCK_FORMATS, E8M0
from mxcheck.formats.spec import NONFINITE, ROUNDINGS, CastSpec
from mxcheck.kernels.block_views import DTYPES
from mxcheck.kernels.eager import fake_quantize_eager, quantize_eager
from mxcheck.kernels.usual_settings import usual_settings


@contextmanager
def probing() -> Iterator[None]:
    """Compute as torch usually does, with subnormal numbers, whatever this process has set."""
    with usual_settings(), torch.no_grad():
        torch.set_flush_denormal(False)
        yield


def all_casts() -> Iterator[CastSpec]:
    """Yield every format, with each scale rule, rounding and policy that it has."""
    for block in BLOCK_FORMATS.values():
        rest = (ROUNDINGS, NONFINITE if block.element.nan_magnitudes else NONFINITE[:1])
        for rule in block.scale_rules:
            for rounding, nonfinite in (
                [(one, other) for one in rest[0] for other in rest[1]]
                if block.scale == E8M0
                else [("even", "block")]
            ):
                yield CastSpec(
                    format=block.name,
                    block_size=block.block_size,
                    scale_rule=rule,
                    rounding=rounding,
                    nonfinite=nonfinite,
                )


def any_bits(rows: int, columns: int, device: torch.device | str = "cpu") -> Tensor:
    """Return fp32 numbers of every sign and exponent; the same at each call."""
    return _patterns(rows, columns).int().view(torch.float32).to(device)


def near_ties(rows: int, columns: int, device: torch.device | str = "cpu") -> Tensor:
    """Return fp32 numbers of at most 12 significand bits, in rows of different sizes; fp16 holds them all."""
    patterns = _patterns(rows, columns)
    power = ((patterns[:, :1] % 20 + (127 - 16)) << 23).int().view(torch.float32)
    return ((patterns % 8191 - 4095).float() * power).to(device)


def drawn(x: Tensor, spec: CastSpec, axis: int) -> CastSpec:
    """Return a cast along an axis, with random integers where it rounds by them."""
    if spec.rounding != "stochastic":
        return replace(spec, axis=axis)
    random = (_patterns(x.shape[0], x.shape[1]) + (1 << 31)).to(x.device)
    return replace(spec, axis=axis, random=random)


def _patterns(rows: int, columns: int) -> Tensor:
    made = torch.Generator().manual_seed(18)
    return torch.randint(
        -(1 << 31), 1 << 31, (rows, columns), generator=made, dtype=torch.int64, device="cpu"
    )


def difference(x: Tensor, spec: CastSpec, found: tuple[Tensor, ...]) -> str:
    """Return the cast in words where `found`, its parts and then its values, are not eager's; else an empty
    text."""
    expected = *quantize_eager(x, spec), fake_quantize_eager(x, spec)
    if all(alike(*pair) for pair in zip(found, expected, strict=True)):
        return ""
    return f"{spec.format}, {spec.scale_rule}, {spec.rounding}, {str(x.dtype)[6:]}"


def overwrite(*results: Tensor) -> None:
    """Fill results before they are written: memory that is used again may hold what an earlier cast wrote."""
    for result in results:
        result.view(-1).view(torch.uint8).fill_(0xA5)


def inputs(device: torch.device | str = "cpu") -> Iterator[tuple[Tensor, int]]:
    """Yield small matrices in each dtype, whose last block is not full, and the axis of their blocks."""
    for axis in (0, 1):
        yield any_bits(18, 70, device), axis
    for axis, dtype in enumerate(DTYPES):
        yield near_ties(18, 40, device).to(dtype), axis % 2


def alike(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors have the same bits, but for those of a NaN."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    integers = {4: torch.int32, 2: torch.int16, 1: torch.uint8}[one.element_size()]
    same = one.view(integers) == other.view(integers)
    return bool(same.all() or (same | (one.isnan() & other.isnan())).all())
