"""Faults of layout: packed codes, padded and swizzled scales, operands for both products, decoding.

A model run reaches the decoding and the count of bytes alone: it neither packs nor swizzles.
"""

from __future__ import annotations

from functools import partial

from mxcheck.sensitivity.fault import Edit, Fault

_fault = partial(Fault, group="layout")
_PACK = "mxcheck.kernels.quantized:pack"
_UNPACK = "mxcheck.kernels.quantized:unpack"
_TENSOR = "mxcheck.kernels.quantized:QuantizedTensor"
_SWIZZLE = "mxcheck.kernels.layouts:swizzle_scales"
_PERMUTED = "quarters.permute(0, 3, 2, 1, 4)"
_PACK_CODES = "_shifted(groups, element.bits, range(per_group), left=True)"
_UNPACK_CODES = "_shifted(word, element.bits, range(per_group), left=False)"


def _edit(target: str, old: str, new: str) -> tuple[Edit]:
    return (Edit(target=target, old=old, new=new),)


FAULTS: tuple[Fault, ...] = (
    _fault(
        name="first_nibble_high",
        what="Of two 4-bit codes in a byte the first lies in the high bits; packing and unpacking agree.",
        source="torchao issue 2939: FP4 was packed with the second element in the low bits.",
        changes=tuple(
            Edit(
                target=target,
                old=old,
                new=old.replace("range(per_group)", "range(per_group)[:: -1 if element.bits == 4 else 1]"),
            )
            for target, old in ((_PACK, _PACK_CODES), (_UNPACK, _UNPACK_CODES))
        ),
        formats=("fp4_e2m1",),
        precisions=("fp4_e2m1",),
    ),
    _fault(
        name="nibbles_swapped_by_unpack",
        what="Unpacking takes the first of two 4-bit codes from the high bits, where packing has put the"
        " second.",
        source="OpenVINO pull request 32144: two paths with different orders of 4-bit values.",
        changes=_edit(
            _UNPACK,
            _UNPACK_CODES,
            _UNPACK_CODES.replace("range(per_group)", "range(per_group)[:: -1 if element.bits == 4 else 1]"),
        ),
        formats=("fp4_e2m1",),
        precisions=("fp4_e2m1",),
    ),
    _fault(
        name="six_bit_codes_in_reverse",
        what="Of four 6-bit codes in three bytes the first lies in the highest bits; packing and unpacking"
        " agree.",
        source="a porter's slip: the order of nibbles above, for FP6.",
        changes=tuple(
            Edit(
                target=target,
                old=old,
                new=old.replace("range(per_group)", "range(per_group)[:: -1 if element.bits == 6 else 1]"),
            )
            for target, old in ((_PACK, _PACK_CODES), (_UNPACK, _UNPACK_CODES))
        ),
        formats=("fp6_e3m2",),
        precisions=("fp6_e3m2",),
    ),
    _fault(
        name="six_bit_bytes_big_endian",
        what="The three bytes of four 6-bit codes are written highest byte first.",
        source="a porter's slip: a 24-bit word stored by shifts from the top.",
        changes=_edit(
            _PACK,
            "_shifted(word, 8, range(group_bytes), left=False)",
            "_shifted(word, 8, range(group_bytes)[::-1], left=False)",
        ),
        formats=("fp6_e2m3",),
        precisions=("fp6_e2m3",),
    ),
    _fault(
        name="packed_along_memory",
        what="Codes are packed along the last axis of memory, whatever axis is to be packed.",
        source="a porter's slip: reshape for movedim, right in every test whose axis is the last one.",
        changes=_edit(
            _PACK, "rows = codes.movedim(axis, -1)", "rows = codes.reshape(codes.movedim(axis, -1).shape)"
        ),
        formats=("fp4_e2m1",),
        precisions=("fp4_e2m1",),
    ),
    _fault(
        name="last_group_filled_at_the_front",
        what="Where codes do not fill the last byte, zero codes are put before the first, not after the"
        " last.",
        source="a porter's slip: the order of the two numbers of torch's pad.",
        changes=_edit(_PACK, "(0, missing)", "(missing, 0)"),
        formats=("fp4_e2m1",),
        precisions=("fp4_e2m1",),
    ),
    _fault(
        name="nbytes_without_the_last_group",
        what="The count of bytes leaves out a last group of codes that is not full.",
        source="a porter's slip: // for a division rounded up.",
        changes=_edit(
            f"{_TENSOR}.nbytes", "-(-length // per_group) * group_bytes", "length // per_group * group_bytes"
        ),
        formats=("fp4_e2m1",),
        precisions=("fp4_e2m1",),
    ),
    _fault(
        name="scales_tiled_not_repeated",
        what="Decoding spreads scales by repeat, so that neighbouring elements get the scales of different"
        " blocks.",
        source="a porter's slip: torch's repeat is numpy's tile, and its repeat_interleave numpy's repeat.",
        changes=_edit(
            f"{_TENSOR}._spread",
            "scales.repeat_interleave(self.spec.block_size, axis)",
            "torch.cat([scales] * self.spec.block_size, axis)",
        ),
        formats=("fp8_e4m3",),
        precisions=("fp8_e4m3",),
    ),
    _fault(
        name="scale_bias_of_128",
        what="Decoding takes an E8M0 code for 2^(code - 128).",
        source="tinygrad pull request 14849: GGML stores FP4 values doubled, and scales for them halved;"
        " whoever mixes the two is off by 2.",
        changes=_edit(
            f"{_TENSOR}.dequantize",
            "_look_up(scale_values(), self.scales)",
            "_look_up(scale_values(), self.scales.clamp(min=1) - 1)",
        ),
        formats=("fp4_e2m1",),
        precisions=("fp4_e2m1",),
    ),
    _fault(
        name="rows_of_a_tile_in_order",
        what="Swizzled scales of a tile keep the order of its 128 rows: rows 32 apart are not neighbours.",
        source="cuBLAS, 1D block scaling factors layout; cudnn-frontend issues 221 and 237 ask for it: plain"
        " tiles of 128 x 4 are the first guess.",
        changes=_edit(_SWIZZLE, _PERMUTED, "quarters.permute(0, 3, 1, 2, 4)"),
        formats=("fp8_e4m3",),
        precisions=("fp8_e4m3",),
    ),
    _fault(
        name="tiles_along_the_outer_axis",
        what="Tiles of swizzled scales follow each other along the outer axis first, not along the inner"
        " one.",
        source="a porter's slip: column-major tiles, which shows only where there is more than one each way.",
        changes=_edit(_SWIZZLE, _PERMUTED, "quarters.permute(3, 0, 2, 1, 4)"),
        formats=("fp8_e4m3",),
        precisions=("fp8_e4m3",),
    ),
    _fault(
        name="columnwise_scales_not_transposed",
        what="Columnwise scales are given the shape of their transpose without being transposed.",
        source="a porter's slip: view for .T; burn issue 5278 reads a transposed quantized tensor so.",
        changes=_edit(_SWIZZLE, "padded.T", "padded.reshape(padded.shape[::-1])"),
        formats=("fp8_e4m3",),
        precisions=("fp8_e4m3",),
    ),
    _fault(
        name="columnwise_from_rowwise",
        what="The columnwise quantization of an operand is made from the rowwise one, not from the input.",
        source="a porter's slip: the input is no longer kept when the backward pass wants its transpose, and"
        " the quantized one is taken for it.",
        changes=_edit(
            "mxcheck.kernels.layouts:quantize_operand",
            "columnwise=quantize(x, format, axis=0, **options)",
            "columnwise=quantize(quantize(x, format, axis=-1, **options).dequantize(x.dtype), format,"
            " axis=0, **options)",
        ),
        formats=("fp8_e4m3",),
        precisions=("fp8_e4m3",),
    ),
    _fault(
        name="padding_is_nan",
        what="Scales are filled up to whole tiles with FF, which is NaN, whatever was asked for.",
        source="Transformer Engine pull request 3070: padded E8M0 bytes went into the GEMM and made NaN.",
        changes=_edit(
            "mxcheck.kernels.layouts:pad_scales",
            "scales.new_full(shape, fill)",
            "scales.new_full(shape, 0xFF)",
        ),
        formats=("fp8_e4m3",),
        precisions=("fp8_e4m3",),
    ),
    _fault(
        name="padded_scales_read_unpadded",
        what="Scales are taken out of padded ones with the row length that they had before.",
        source="MSLK pull request 339 and ROCm aiter pull request 2900: the logical number of scales in a row"
        " for the padded one.",
        changes=_edit(
            "mxcheck.kernels.layouts:unpad_scales",
            "padded[: shape[0], : shape[1]].contiguous()",
            "padded.flatten()[: shape[0] * shape[1]].reshape(shape)",
        ),
        formats=("fp8_e4m3",),
        precisions=("fp8_e4m3",),
    ),
)
