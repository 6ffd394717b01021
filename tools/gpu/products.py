"""torch's scaled product by tensor, row and block: whether it runs, whether it is right, what it costs.

The operands are random E4M3 codes under random powers of two, so that the exact product is known and a scale
that is read from the wrong place is off by a factor. Which layout a block's scales need differs from version
to version of torch: the documented ones are tried in turn, and the first that is right is recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import ScalingType, SwizzleType, scaled_mm

import mxcheck
from gpu.timing import in_turns, ratio

#: bf16 rounds a result by at most 2^-9 of it; a scale from the wrong place is off by a factor of 2 or more.
BOUND = 2**-6
_SIZES = {False: (512, 768, 1024), True: (128, 256, 512)}  # M, N, K; K // 128 needs no padding
_TIMED = {False: 4096, True: 128}
_SEED = 20251129


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One operand: codes [rows, K], and its scales by the blocks that share one."""

    codes: Tensor
    scales: Tensor
    values: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of scaled product.

    Attributes:
        scaling: of both operands.
        blocks: rows and columns that share a scale, of both; 0: all of them.
        layouts: how the scales of both can lie in memory, by name; tried in turn.
        swizzled: whether the scales are in the tiles of 32 by 4 by 4 that tensor cores read.
        required: whether it is red where this is refused.
    """

    scaling: tuple[ScalingType, ScalingType]
    blocks: tuple[tuple[int, int], tuple[int, int]]
    layouts: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]]
    dtypes: tuple[torch.dtype, ...] = (torch.bfloat16,)
    swizzled: bool = False
    required: bool = False


def _plain(scales: Tensor) -> Tensor:
    return scales


def _one(scales: Tensor) -> Tensor:
    return scales.reshape(1)


def _turned(scales: Tensor) -> Tensor:
    return scales.t()


def _columns_first(scales: Tensor) -> Tensor:
    """The same shape, with the rows of a column beside each other."""
    return scales.t().contiguous().t()


def _turned_copy(scales: Tensor) -> Tensor:
    return scales.t().contiguous()


def _tiled(scales: Tensor) -> Tensor:
    codes = torch.log2(scales).add(127).to(torch.uint8)  # exact: the scales are powers of two near one
    return mxcheck.swizzle_scales(mxcheck.pad_scales(codes)).view(torch.float8_e8m0fnu).flatten()


_TENSOR, _ROW = ScalingType.TensorWise, ScalingType.RowWise
_BY_128, _BY_128_SQUARE = ScalingType.BlockWise1x128, ScalingType.BlockWise128x128
_MX = ScalingType.BlockWise1x32

KINDS = {
    "tensor": Kind(
        scaling=(_TENSOR, _TENSOR),
        blocks=((0, 0), (0, 0)),
        layouts={"one number": (_one, _one)},
        dtypes=(torch.float32, torch.bfloat16),
        required=True,
    ),
    "row": Kind(
        scaling=(_ROW, _ROW),
        blocks=((1, 0), (1, 0)),
        layouts={"[M, 1] and [1, N]": (_plain, _turned)},
        dtypes=(torch.float32, torch.bfloat16),
        required=True,
    ),
    "block 1x128, 128x128": Kind(
        scaling=(_BY_128, _BY_128_SQUARE),
        blocks=((1, 128), (128, 128)),
        layouts={
            "columns first and turned": (_columns_first, _turned),
            "columns first and plain": (_columns_first, _plain),
            "columns first and turned, copied": (_columns_first, _turned_copy),
        },
    ),
    "block 1x128, 1x128": Kind(
        scaling=(_BY_128, _BY_128),
        blocks=((1, 128), (1, 128)),
        layouts={"columns first": (_columns_first, _columns_first), "turned": (_columns_first, _turned)},
    ),
    "block 1x32 (MXFP8)": Kind(
        scaling=(_MX, _MX),
        blocks=((1, 32), (1, 32)),
        layouts={"tiles": (_tiled, _tiled)},
        swizzled=True,
    ),
}


def measure(device: str, *, short: bool) -> tuple[dict[str, Any], list[str]]:
    """By kind and dtype of the result: the layout that was right, its error, its time beside bf16's; or why
    not. And what is wrong."""
    rows, wrong = [], []
    for name, kind in KINDS.items():
        for dtype in kind.dtypes:
            row = _row(name, kind, dtype, device, short=short)
            rows.append(row)
            fails = row["error"] is not None and row["error"] > BOUND
            # Either dtype will do: which one a device's row-wise kernel gives differs.
            refused = kind.required and dtype == torch.bfloat16 and row["refused"] and device != "cpu"
            if fails or refused:
                why = row["refused"] or f"error {row['error']:.2g}, bound {BOUND:.2g}"
                wrong.append(f"{name}, {row['dtype']}: {why}")
    return {"products": rows}, wrong


def _row(name: str, kind: Kind, dtype: torch.dtype, device: str, *, short: bool) -> dict[str, Any]:
    m, n, k = _SIZES[short]
    source = torch.Generator().manual_seed(_SEED)
    a, b = (_side(rows, k, *blocks, source, device) for rows, blocks in zip((m, n), kind.blocks, strict=True))
    exact = a.values.double() @ b.values.double().t()
    tried: dict[str, str] = {}
    best: tuple[float, str] | None = None
    for layout in kind.layouts:
        try:
            result = _product(a, b, kind, layout, dtype)()
        except (NotImplementedError, RuntimeError, ValueError) as error:
            tried[layout] = " ".join(str(error).split())[:300]
            continue
        apart = float((result.double() - exact).norm() / exact.norm())
        tried[layout] = f"error {apart:.2g}"
        if best is None or not best[0] <= apart:  # a NaN is never the best
            best = apart, layout
        if apart <= BOUND:
            break
    row: dict[str, Any] = {
        "kind": name,
        "dtype": str(dtype).removeprefix("torch."),
        "tried": tried,
        "layout": None if best is None else best[1],
        "error": None if best is None else best[0],
        "refused": "; ".join(dict.fromkeys(tried.values())) if best is None else None,
        "ratio_to_bf16": None,
    }
    if best is not None and best[0] <= BOUND:
        row["ratio_to_bf16"] = _ratio(kind, best[1], dtype, device, short=short)
    return row


def _ratio(kind: Kind, layout: str, dtype: torch.dtype, device: str, *, short: bool) -> float:
    """Its time over a bf16 product's of the same square size."""
    size = _TIMED[short]
    source = torch.Generator().manual_seed(_SEED)
    a, b = (_side(size, size, *blocks, source, device) for blocks in kind.blocks)
    left, right = (side.values.bfloat16() for side in (a, b))
    times = in_turns(
        {"bf16": lambda: left @ right.t(), "scaled": _product(a, b, kind, layout, dtype)},
        device,
        rounds=3 if short else 30,
    )
    return ratio(times, "scaled", "bf16")


def _side(rows: int, columns: int, high: int, wide: int, source: torch.Generator, device: str) -> Side:
    """Random codes with random scales 2^-3 to 2^3, one for each block of `high` by `wide` (0: for all)."""
    high, wide = high or rows, wide or columns
    codes = torch.randn(rows, columns, generator=source).to(torch.float8_e4m3fn)
    exponents = torch.randint(-3, 4, (rows // high, columns // wide), generator=source)
    scales = torch.exp2(exponents.float())
    spread = scales.repeat_interleave(high, 0).repeat_interleave(wide, 1)
    values = codes.float() * spread
    return Side(codes=codes.to(device), scales=scales.to(device), values=values.to(device))


def _product(a: Side, b: Side, kind: Kind, layout: str, dtype: torch.dtype) -> Callable[[], Tensor]:
    scales_a, scales_b = (lie(side.scales) for lie, side in zip(kind.layouts[layout], (a, b), strict=True))
    kind_a, kind_b = kind.scaling
    tiles = SwizzleType.SWIZZLE_32_4_4 if kind.swizzled else None

    def multiply() -> Tensor:
        return scaled_mm(
            a.codes,
            b.codes.t(),
            scales_a,
            kind_a,
            scales_b,
            kind_b,
            swizzle_a=tiles,
            swizzle_b=tiles,
            output_dtype=dtype,
        )

    return multiply
