"""microxcaling's cast, in its own dtype and on any axis; it gives values, not codes.

Source: https://github.com/microsoft/microxcaling (the package `mx`, which is on no index): the Python path of
`mx.mx_ops._quantize_mx`, which all of the library's layers call. Its `nearest` breaks ties away from zero,
and its `floor` truncates magnitudes. Its stochastic rounding, `dither`, draws its own numbers.
"""

from __future__ import annotations

import warnings
from types import MappingProxyType

from torch import Tensor

from mxcheck.formats.spec import CastSpec
from mxcheck.kernels.domain import domain

# our element -> its elem_format
_ELEMENTS = MappingProxyType(
    {
        "fp8_e4m3": "fp8_e4m3",
        "fp8_e5m2": "fp8_e5m2",
        "fp6_e3m2": "fp6_e3m2",
        "fp6_e2m3": "fp6_e2m3",
        "fp4_e2m1": "fp4_e2m1",
        "mxint8": "int8",
    }
)
_ROUNDINGS = MappingProxyType({"even": "even", "away": "nearest", "zero": "floor"})


@domain(
    formats=tuple(_ELEMENTS),
    scale_rules=("floor",),
    roundings=tuple(_ROUNDINGS),
    ragged=True,  # it pads the last block with zeros
    nonfinite=("block",),
)
def quantize(x: Tensor, spec: CastSpec) -> Tensor:
    """Return values by microxcaling, of x's shape and dtype.

    Raises:
        ModuleNotFoundError: the package `mx` is not on sys.path.
    """
    from mx.mx_ops import _quantize_mx

    with warnings.catch_warnings():
        # It removes its padding by indexing with a list, which torch still takes as a tuple, with a warning.
        warnings.filterwarnings("ignore", message="Using a non-tuple sequence", category=UserWarning)
        values: Tensor = _quantize_mx(
            x.contiguous(),
            scale_bits=8,
            elem_format=_ELEMENTS[spec.format],
            shared_exp_method="max",
            axes=[spec.axis],
            block_size=spec.block_size,
            round=_ROUNDINGS[spec.rounding],
            flush_fp32_subnorms=False,
            custom_cuda=False,
        )
    return values
