"""Accept codes in torch's own dtypes of 8 bits and fewer: those of the same format as bytes."""

from __future__ import annotations

import torch
from torch import Tensor

#: dtype -> element formats and kinds of scale that have the same codes.
_SAME_CODES: dict[torch.dtype, tuple[str, ...]] = {
    torch.float8_e4m3fn: ("fp8_e4m3", "e4m3"),
    torch.float8_e5m2: ("fp8_e5m2",),
    torch.float8_e8m0fnu: ("e8m0",),
}
_TWO_A_BYTE = torch.float4_e2m1fn_x2
#: Dtypes that numpy lacks.
TORCH_CODES = (*_SAME_CODES, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, _TWO_A_BYTE)


def as_codes(kernel: str, what: str, part: Tensor, codes: str) -> Tensor:
    """Return a part of a result as codes of an element format or kind of scale: the bytes of torch's own
    dtype for it; parts of no dtype in `TORCH_CODES` unchanged.

    Raises:
        TypeError: a dtype of other codes, or with two codes a byte; one line.
    """
    if part.dtype not in TORCH_CODES:
        return part
    if codes in _SAME_CODES.get(part.dtype, ()):
        return part.view(torch.uint8)
    own = next((dtype for dtype, same in _SAME_CODES.items() if codes in same), None)
    allowed = f"torch.uint8{'' if own is None else f' or {own}'}"
    if part.dtype == _TWO_A_BYTE:
        raise TypeError(
            f"kernel {kernel} returned {what} as {part.dtype}, which has two codes a byte; return {allowed}, "
            f"one code a byte: mxcheck.unpack_fp4(packed.view(torch.uint8))"
        )
    raise TypeError(
        f"kernel {kernel} returned {what} as {part.dtype}, which has other codes than {codes}; "
        f"return {allowed}"
    )
