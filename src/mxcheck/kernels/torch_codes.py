"""Codes in torch's own dtypes of 8 bits and fewer: those of the same format are taken as their bytes."""

from __future__ import annotations

import torch
from torch import Tensor

#: dtype -> what it has the codes of: element formats, and kinds of scale.
_SAME_CODES: dict[torch.dtype, tuple[str, ...]] = {
    torch.float8_e4m3fn: ("fp8_e4m3", "e4m3"),
    torch.float8_e5m2: ("fp8_e5m2",),
    torch.float8_e8m0fnu: ("e8m0",),
}
_TWO_A_BYTE = torch.float4_e2m1fn_x2
#: numpy has none of these.
TORCH_CODES = (*_SAME_CODES, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, _TWO_A_BYTE)


def as_codes(kernel: str, what: str, part: Tensor, codes: str) -> Tensor:
    """A part of a result whose codes are those of an element format or a kind of scale: the bytes of torch's
    own dtype of it; whatever is none of `TORCH_CODES` as it is.

    Raises:
        TypeError: a dtype of other codes, or of two codes a byte; in one line.
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
