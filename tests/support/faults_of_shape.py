"""Right casts with a fault that depends on shape, rows, dtype, batch, layout or threads: what fast paths get
wrong. Each is right on all that the other groups ask."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mxcheck.formats.spec import CastSpec, resolve_axis
from mxcheck.kernels.eager import quantize_eager

Parts = tuple[Tensor, ...]
Cast = Callable[[Tensor, CastSpec], Parts]


def _by_rows(x: Tensor, spec: CastSpec, part: Tensor) -> Tensor:
    """A part of a result as a matrix whose rows run along the block axis, in the same memory where x is a
    matrix."""
    return part.movedim(resolve_axis(x.dim(), spec.axis), -1)


def _rows(x: Tensor, spec: CastSpec) -> int:
    return x.numel() // x.shape[resolve_axis(x.dim(), spec.axis)]


def _columns(x: Tensor, spec: CastSpec) -> int:
    return x.shape[resolve_axis(x.dim(), spec.axis)]


def _last_axis(x: Tensor, spec: CastSpec) -> bool:
    return resolve_axis(x.dim(), spec.axis) == x.dim() - 1


def _where(condition: Callable[[Tensor, CastSpec], bool], spoil: Callable[[Tensor, Tensor], None]) -> Cast:
    """The house kernel, of whose codes and scales (rows first) something is spoiled under a condition."""

    def cast(x: Tensor, spec: CastSpec) -> Parts:
        codes, scales, *tensor_scale = quantize_eager(x, spec)
        codes, scales = codes.clone(), scales.clone()
        if x.dim() == 2 and condition(x, spec):
            spoil(_by_rows(x, spec, codes), _by_rows(x, spec, scales))
        return codes, scales, *tensor_scale

    return cast


# What is spoiled


def last_code(codes: Tensor, _: Tensor) -> None:
    codes[-1, -1] ^= 1


def last_row(codes: Tensor, _: Tensor) -> None:
    codes[-1] ^= 1


def first_scale(_: Tensor, scales: Tensor) -> None:
    scales[0, 0] = 0


def scales_zeroed(_: Tensor, scales: Tensor) -> None:
    scales.zero_()


def codes_zeroed(codes: Tensor, _: Tensor) -> None:
    codes.zero_()


def second_scale_is_the_first(_: Tensor, scales: Tensor) -> None:
    scales[:, 1:2] = scales[:, :1]


def rows_behind_128(codes: Tensor, _: Tensor) -> None:
    codes[128:] = codes[128:].flip(0)


def pairs_of_rows(_: Tensor, scales: Tensor) -> None:
    """The larger scale of two rows for both."""
    even = scales.shape[0] // 2 * 2
    both = scales[:even].view(-1, 2, scales.shape[1]) if scales.is_contiguous() else None
    if both is not None:
        both.copy_(both.amax(1, keepdim=True).expand_as(both).clone())


def columns_behind_4096(codes: Tensor, _: Tensor) -> None:
    codes[:, 4096:] ^= 1


def middle_block(codes: Tensor, _: Tensor) -> None:
    codes[:, 32:64] ^= 1


def rows_behind_the_grid(codes: Tensor, _: Tensor) -> None:
    codes[65_535:] = 0


def third_tile(codes: Tensor, _: Tensor) -> None:
    codes[256:] ^= 1


BF16, FP16 = torch.bfloat16, torch.float16

FAULTS: dict[str, Cast] = {
    "second_scale_in_whole_tiles": _where(
        lambda x, s: _rows(x, s) % 128 == 0 and _columns(x, s) % 128 == 0, second_scale_is_the_first
    ),
    "single_row_without_scales": _where(lambda x, s: _rows(x, s) == 1 and _last_axis(x, s), scales_zeroed),
    "single_row_of_bf16": _where(lambda x, s: _rows(x, s) == 1 and x.dtype == BF16, last_code),
    "single_row_of_fp16_with_a_tail": _where(
        lambda x, s: _rows(x, s) == 1 and x.dtype == FP16 and _columns(x, s) % 32 != 0, last_code
    ),
    "single_row_of_many_blocks": _where(lambda x, s: _rows(x, s) == 1 and _columns(x, s) > 256, last_code),
    "single_column_of_blocks": _where(lambda x, s: _rows(x, s) == 1 and not _last_axis(x, s), last_code),
    "second_of_two_rows": _where(lambda x, s: _rows(x, s) == 2 and _columns(x, s) in (32, 256), last_row),
    "rows_behind_a_tile": _where(lambda x, s: 128 < _rows(x, s) < 256, rows_behind_128),
    "one_row_more_than_a_warp": _where(lambda x, s: _rows(x, s) % 32 == 1 and _rows(x, s) > 32, last_row),
    "one_row_less_than_a_warp": _where(lambda x, s: _rows(x, s) % 32 == 31, last_row),
    "many_rows": _where(lambda x, s: _rows(x, s) >= 4096, last_row),
    "rows_behind_the_grid": _where(lambda x, s: _rows(x, s) > 65_535, rows_behind_the_grid),
    "long_rows": _where(lambda x, s: _rows(x, s) > 4 and _columns(x, s) > 4096, columns_behind_4096),
    "odd_number_of_blocks": _where(lambda x, s: _rows(x, s) >= 32 and _columns(x, s) == 96, middle_block),
    "tail_in_whole_rows_of_tiles": _where(
        lambda x, s: _rows(x, s) % 128 == 0 and _columns(x, s) % 32 != 0, last_code
    ),
    "bf16_tiles": _where(
        lambda x, s: x.dtype == BF16 and _rows(x, s) % 128 == 0 and _columns(x, s) >= 256, first_scale
    ),
    "fp16_single_blocks": _where(
        lambda x, s: x.dtype == FP16 and _columns(x, s) == 32 and _rows(x, s) in (127, 129), last_code
    ),
    "first_axis_in_whole_tiles": _where(
        lambda x, s: not _last_axis(x, s) and _rows(x, s) % 128 == 0, last_code
    ),
    "transposed_matrix": _where(
        lambda x, s: not x.is_contiguous() and x.T.is_contiguous() and _rows(x, s) >= 32, last_code
    ),
    "rows_apart": _where(
        lambda x, s: x.stride(-1) == 1 and x.shape[0] > 1 and x.stride(0) > x.shape[1] and _rows(x, s) > 8,
        last_row,
    ),
    "misaligned_tiles": _where(
        lambda x, s: x.storage_offset() * x.element_size() % 16 != 0 and _rows(x, s) == 128, first_scale
    ),
    "sliced_matrix": _where(lambda x, s: x.stride(-1) == 2 and _rows(x, s) >= 31, last_code),
    "pairs_of_rows_share_a_scale": _where(
        lambda x, s: _rows(x, s) >= 16 and _rows(x, s) % 2 == 0 and _last_axis(x, s), pairs_of_rows
    ),
    "third_tile": _where(lambda x, s: _rows(x, s) == 384, third_tile),
    "more_than_a_million": _where(lambda x, _: x.numel() > 1 << 20, last_code),
    "two_threads": _where(lambda *_: torch.get_num_threads() > 1, first_scale),
    "half_a_tile_of_columns": _where(
        lambda x, s: _columns(x, s) == 64 and _rows(x, s) in (256, 384), last_code
    ),
    "rows_by_columns": _where(lambda x, s: _rows(x, s) == 256 and _columns(x, s) == 256, last_row),
    "weights_without_codes": _where(lambda x, s: _rows(x, s) >= 256 and _columns(x, s) >= 512, codes_zeroed),
    "bf16_rows_of_512": _where(lambda x, s: x.dtype == BF16 and _columns(x, s) % 512 == 0, first_scale),
    "rows_of_4096": _where(lambda x, s: _columns(x, s) == 4096 and _rows(x, s) == 128, last_row),
    "sixty_four_rows": _where(lambda x, s: _rows(x, s) == 64, last_row),
    "aligned_rows_of_a_wider_matrix": _where(
        lambda x, _: x.stride(-1) == 1 and x.stride(0) > x.shape[1] and x.stride(0) % 16 == 0, last_code
    ),
    "blocks_of_16_beyond_three": _where(lambda x, s: s.block_size == 16 and _columns(x, s) > 48, last_code),
    "blocks_of_64_in_bf16_matrices": _where(
        lambda x, s: s.block_size == 64 and x.dtype == BF16 and _rows(x, s) >= 32, last_code
    ),
    "batches_of_128": _where(lambda x, s: _rows(x, s) == 128 and x.dtype == torch.float32, first_scale),
}
