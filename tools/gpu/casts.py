"""The house casts on a device: equal to the CPU's to the bit, and their time beside a copy's. On CUDA both
eager's and Triton's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import mxcheck
from gpu.timing import in_turns, ratio

FORMATS = ("fp8_e4m3", "fp8_e5m2", "fp6_e2m3", "fp4_e2m1", "mxint8", "nvfp4", "e4m3_row", "e4m3_tensor")
_SHAPE = {False: (8192, 8192), True: (64, 256)}
#: Rows that the CPU casts too: half a second of it.
_COMPARED = 128


def measure(device: str, *, short: bool) -> tuple[dict[str, Any], list[str]]:
    """By format and dtype: whether codes, scales and values equal the CPU's, and times over `copy_`."""
    formats = FORMATS[:2] if short else FORMATS
    rows = [
        _row(kernel, format, dtype, device, short=short)
        for kernel in (("eager", "triton") if device == "cuda" else ("eager",))
        for dtype in (torch.bfloat16, torch.float32)
        for format in formats
    ]
    wrong = [
        f"{row['kernel']}: {row['format']} of {row['dtype']} differs from the CPU's"
        for row in rows
        if not row["equal"]
    ]
    return {"shape": list(_SHAPE[short]), "casts": rows}, wrong


def _row(kernel: str, format: str, dtype: torch.dtype, device: str, *, short: bool) -> dict[str, Any]:
    source = torch.Generator().manual_seed(20251129)
    shape = _SHAPE[short]
    # Blocks of different size: 20 octaves, so that scales and subnormal elements are all met.
    octaves = torch.randint(-10, 11, (shape[0], shape[1] // 32), generator=source).repeat_interleave(32, 1)
    x = torch.ldexp(torch.randn(shape, generator=source), octaves).to(dtype)
    there = x.to(device)
    buffer = torch.empty_like(there)
    times = in_turns(
        {
            "copy": lambda: buffer.copy_(there),
            "codes": lambda: mxcheck.quantize(there, format, axis=-1, kernel=kernel),
            "values": lambda: mxcheck.fake_quantize(there, format, axis=-1, kernel=kernel),
        },
        device,
        rounds=3 if short else 15,
    )
    return {
        "kernel": kernel,
        "format": format,
        "dtype": str(dtype).removeprefix("torch."),
        "equal": _is_equal(x[:_COMPARED], format, device, kernel),
        "codes_over_copy": ratio(times, "codes", "copy"),
        "values_over_copy": ratio(times, "values", "copy"),
    }


def _is_equal(x: Tensor, format: str, device: str, kernel: str) -> bool:
    """Codes, scales and values of a cast here, beside eager's on the CPU."""
    here, home = _parts(x.to(device), format, kernel), _parts(x, format, "eager")
    return all(torch.equal(one.cpu(), other) for one, other in zip(here, home, strict=True))


def _parts(x: Tensor, format: str, kernel: str) -> list[Tensor]:
    quantized = mxcheck.quantize(x, format, axis=-1, kernel=kernel)
    values = mxcheck.fake_quantize(x, format, axis=-1, kernel=kernel)
    # As integers: a NaN equals itself, and -0 is not 0.
    return [quantized.codes, quantized.scales.contiguous().view(torch.uint8), values.view(torch.uint8)]
