"""ml_dtypes' casts: elements only, with mxcheck's scale.

Source: ml_dtypes 0.6, a library of number formats without blocks. The adapter takes the scale of `floor` from
the bits of amax, divides by it exactly, and clamps, as ml_dtypes overflows E4M3 to NaN; the rounding and the
code are the library's.
"""

from __future__ import annotations

from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn.functional import pad

from mxcheck.formats.codes import E8M0_BIAS, E8M0_NAN
from mxcheck.formats.spec import CastSpec
from mxcheck.kernels.domain import domain
from mxcheck.kernels.rows import as_rows, from_rows

# our element -> the type in ml_dtypes
_ELEMENTS = MappingProxyType(
    {
        "fp8_e4m3": "float8_e4m3fn",
        "fp8_e5m2": "float8_e5m2",
        "fp6_e3m2": "float6_e3m2fn",
        "fp6_e2m3": "float6_e2m3fn",
        "fp4_e2m1": "float4_e2m1fn",
    }
)


@domain(formats=tuple(_ELEMENTS), scale_rules=("floor",), roundings=("even",), nonfinite=("block",))
def quantize(x: Tensor, spec: CastSpec) -> tuple[Tensor, Tensor]:
    """Return codes by ml_dtypes, and scales by the definition of `floor` (OCP MX v1.0, section 6.3).

    Raises:
        ModuleNotFoundError: ml_dtypes is not installed.
    """
    import ml_dtypes

    rows = as_rows(x, spec.axis)
    scales = _floor_scales(rows.float(), spec)
    assert spec.block_size is not None
    exponents = scales.repeat_interleave(spec.block_size, -1)[:, : rows.shape[1]] - E8M0_BIAS
    largest = spec.element.max_value
    # float64 holds every quotient exactly, and fp32 every bit that rounding depends on
    scaled = torch.ldexp(rows.double(), -exponents).clamp(-largest, largest).float()
    if x.dtype == torch.bfloat16:  # a power of two keeps its 8 bits: ml_dtypes gets bf16
        bits = scaled.to(torch.bfloat16).view(torch.int16).numpy()
        array = bits.view(ml_dtypes.bfloat16)
    else:  # fp16 is too narrow for the quotients, so it is passed as fp32
        array = scaled.numpy()
    poisoned = exponents == E8M0_NAN - E8M0_BIAS
    array[poisoned.numpy()] = 0  # codes of such a block are meaningless, and three formats have no NaN
    codes = torch.from_numpy(array.astype(getattr(ml_dtypes, _ELEMENTS[spec.format])).view("uint8"))
    return from_rows(codes, x.shape, spec.axis), from_rows(scales.to(torch.uint8), x.shape, spec.axis)


def _floor_scales(rows: Tensor, spec: CastSpec) -> Tensor:
    """Return E8M0 codes, as int64 [rows, blocks], of fp32 [rows, n]."""
    assert spec.block_size is not None
    filled = pad(rows, (0, -rows.shape[1] % spec.block_size))
    magnitude = filled.view(torch.int32).view(rows.shape[0], -1, spec.block_size) & 0x7FFF_FFFF
    # fp32 and E8M0 have the same bias, so the exponent field minus emax is the code. Subnormals have field 0
    # and always code 0.
    field = magnitude.amax(-1).long() >> 23
    return torch.where(field == E8M0_NAN, E8M0_NAN, (field - spec.element.emax).clamp(min=0))
