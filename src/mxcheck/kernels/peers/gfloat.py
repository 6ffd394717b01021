"""gfloat's casts: its scale for each block, and its vectorized rounding and encoding of elements.

Source: gfloat 0.5: the steps of `quantize_block` for one block (`compute_scale_amax`, division, rounding and
encoding), with `round_ndarray` and `encode_ndarray` in place of their scalar twins. Scales are computed in a
loop, as `compute_scale_amax` takes one block.
"""

from __future__ import annotations

from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mxcheck.formats.spec import RANDOM_BITS, CastSpec
from mxcheck.kernels.domain import NotSupported, domain
from mxcheck.kernels.rows import as_rows, from_rows

# our element -> gfloat's FormatInfo
_ELEMENTS = MappingProxyType(
    {
        "fp8_e4m3": "format_info_ocp_e4m3",
        "fp8_e5m2": "format_info_ocp_e5m2",
        "fp6_e3m2": "format_info_ocp_e3m2",
        "fp6_e2m3": "format_info_ocp_e2m3",
        "fp4_e2m1": "format_info_ocp_e2m1",
        "mxint8": "format_info_ocp_int8",
    }
)
# our rounding -> gfloat's RoundMode. Among its stochastic modes only this one tests remainder / step + r /
# 2^32 >= 1; `Stochastic` rounds the remainder to 32 bits first, `StochasticFast` adds half a unit to r.
_ROUNDINGS = MappingProxyType(
    {"even": "TiesToEven", "away": "TiesToAway", "zero": "TowardZero", "stochastic": "StochasticFastest"}
)


@domain(
    formats=tuple(_ELEMENTS),
    scale_rules=("floor",),
    roundings=tuple(_ROUNDINGS),
    # It computes in the dtype of its input: in fp16, scales below 2^-24 would be 0. numpy has no bf16, so
    # bf16 is passed as fp32.
    dtypes=(torch.float32, torch.bfloat16),
    ragged=True,  # a block is an array of any length
    nonfinite=("block",),
)
def quantize(x: Tensor, spec: CastSpec) -> tuple[Tensor, Tensor]:
    """Return codes and scales by gfloat.

    Raises:
        NotSupported: gfloat does not support it.
        ModuleNotFoundError: gfloat is not installed.
    """
    if not spec.element.nan_magnitudes and x.isnan().any():
        raise NotSupported(f"gfloat refuses a NaN in {spec.format}, which has no NaN")
    from gfloat import RoundMode, compute_scale_amax, encode_ndarray, round_ndarray
    from gfloat.formats import format_info_ocp_e8m0

    element, block_size = _format_info(_ELEMENTS[spec.format]), spec.block_size
    assert block_size is not None
    rows = as_rows(x, spec.axis).float().numpy()
    starts = range(0, rows.shape[1], block_size)
    known: dict[bytes, Any] = {}

    def scale(block: NDArray[np.float32]) -> Any:
        # gfloat takes one block at a time, in Python; few blocks of a large matrix are unlike all others.
        if (bits := block.tobytes()) not in known:
            known[bits] = compute_scale_amax(element.emax, block)
        return known[bits]

    # A signalling NaN raises a flag in a quotient and, without AVX-512, in numpy's log2; Inf / Inf raises one
    # too.
    with np.errstate(invalid="ignore"):
        scales = np.array(
            [[scale(row[start : start + block_size]) for start in starts] for row in rows], np.float32
        )
        scaled = rows / np.repeat(scales, block_size, axis=1)[:, : rows.shape[1]]
    random = None
    if spec.rounding == "stochastic":
        # r / 2^32 has more bits than fp32, in which gfloat would compute it
        scaled, random = scaled.astype(np.float64), as_rows(_random(x, spec), spec.axis).numpy()
    rounded = round_ndarray(
        element,
        scaled,
        rnd=RoundMode[_ROUNDINGS[spec.rounding]],
        sat=True,
        srbits=random,
        srnumbits=0 if random is None else RANDOM_BITS,
    )
    codes = encode_ndarray(element, rounded)
    return _tensor(codes, x, spec), _tensor(encode_ndarray(format_info_ocp_e8m0, scales), x, spec)


@cache
def _format_info(name: str) -> Any:
    from gfloat import formats

    return getattr(formats, name)


def _random(x: Tensor, spec: CastSpec) -> Tensor:
    random = torch.as_tensor(spec.random, dtype=torch.int64)
    if random.shape != x.shape:
        raise ValueError(
            f"stochastic rounding needs spec.random of x's shape {tuple(x.shape)}, got {tuple(random.shape)}"
        )
    return random


def _tensor(codes: NDArray[np.uint64], x: Tensor, spec: CastSpec) -> Tensor:
    return from_rows(torch.from_numpy(codes.astype(np.uint8)), x.shape, spec.axis)
