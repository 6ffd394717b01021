"""Faults of layout: packed codes, padded and swizzled scales, operands for both products, decoding.

A model run uses only the decoding and the count of bytes: it neither packs nor swizzles.
"""

from __future__ import annotations

from functools import partial

from validation.faults.fault import Fault, rewrite
from validation.faults.fault_place import argument, call, condition, mention, returned, statement, value

_fault = partial(Fault, group="layout")
_PACK = "mxcheck.kernels.quantized:pack"
_UNPACK = "mxcheck.kernels.quantized:unpack"
_TENSOR = "mxcheck.kernels.quantized:QuantizedTensor"
_SWIZZLE = "mxcheck.kernels.layouts:swizzle_scales"
#: The order of a group's codes in their word, for packing and unpacking.
_CODES_PACKED = (value("word"), call("_shifted"), argument(3))
_CODES_UNPACKED = (value("codes"), call("_shifted"), argument(3))
_REVERSED_FP4 = "it[:: -1 if element.bits == 4 else 1]"
_REVERSED_FP6 = "it[:: -1 if element.bits == 6 else 1]"


FAULTS: tuple[Fault, ...] = (
    _fault(
        name="first_nibble_high",
        what="Of two 4-bit codes in a byte the first lies in the high bits; packing and unpacking agree.",
        source="torchao issue 2939: FP4 was packed with the second element in the low bits.",
        changes=(
            *rewrite(_PACK, *_CODES_PACKED, to=_REVERSED_FP4),
            *rewrite(_UNPACK, *_CODES_UNPACKED, to=_REVERSED_FP4),
        ),
        formats=("fp4_e2m1",),
        precisions=("mxfp4_e2m1",),
    ),
    _fault(
        name="nibbles_swapped_by_unpack",
        what="Unpacking takes the first of two 4-bit codes from the high bits, where packing has put the"
        " second.",
        source="OpenVINO pull request 32144: two paths with different orders of 4-bit values.",
        changes=rewrite(_UNPACK, *_CODES_UNPACKED, to=_REVERSED_FP4),
        formats=("fp4_e2m1",),
        precisions=("mxfp4_e2m1",),
    ),
    _fault(
        name="six_bit_codes_in_reverse",
        what="Of four 6-bit codes in three bytes the first lies in the highest bits; packing and unpacking"
        " agree.",
        source="a porter's slip: the order of nibbles above, for FP6.",
        changes=(
            *rewrite(_PACK, *_CODES_PACKED, to=_REVERSED_FP6),
            *rewrite(_UNPACK, *_CODES_UNPACKED, to=_REVERSED_FP6),
        ),
        formats=("fp6_e3m2",),
        precisions=("mxfp6_e3m2",),
    ),
    _fault(
        name="six_bit_bytes_big_endian",
        what="The three bytes of four 6-bit codes are written highest byte first.",
        source="a porter's slip: a 24-bit word stored by shifts from the top.",
        changes=rewrite(_PACK, value("packed"), call("_shifted"), argument(3), to="it[::-1]"),
        formats=("fp6_e2m3",),
        precisions=("mxfp6_e2m3",),
    ),
    _fault(
        name="packed_along_memory",
        what="Codes are packed along the last axis of memory, whatever axis is to be packed.",
        source="a porter's slip: reshape for movedim, right in every test whose axis is the last one.",
        changes=rewrite(_PACK, value("rows"), to="codes.reshape(it.shape)"),
        formats=("fp4_e2m1",),
        precisions=("mxfp4_e2m1",),
    ),
    _fault(
        name="last_group_filled_at_the_front",
        what="Where codes do not fill the last byte, zero codes are put before the first, not after the"
        " last.",
        source="a porter's slip: the order of the two numbers of torch's pad.",
        changes=rewrite(_PACK, call("pad"), argument(2), to="(missing, 0)"),
        formats=("fp4_e2m1",),
        precisions=("mxfp4_e2m1",),
    ),
    _fault(
        name="nbytes_without_the_last_group",
        what="The count of bytes leaves out a last group of codes that is not full.",
        source="a porter's slip: // for a division rounded up.",
        changes=rewrite(f"{_TENSOR}.nbytes", value("packed_length"), to="length // per_group * group_bytes"),
        formats=("fp4_e2m1",),
        precisions=("mxfp4_e2m1",),
    ),
    _fault(
        name="scales_tiled_not_repeated",
        what="Decoding spreads scales by repeat, so that neighbouring elements get the scales of different"
        " blocks.",
        source="a porter's slip: torch's repeat is numpy's tile, and its repeat_interleave numpy's repeat.",
        changes=rewrite(
            f"{_TENSOR}._spread",
            call("repeat_interleave"),
            to="torch.cat([scales] * self.spec.block_size, axis)",
        ),
        formats=("fp8_e4m3",),
        precisions=("mxfp8_e4m3",),
    ),
    _fault(
        name="scale_bias_of_128",
        what="Decoding takes an E8M0 code for 2^(code - 128).",
        source="tinygrad pull request 14849: GGML stores FP4 values doubled, and scales for them halved;"
        " whoever mixes the two is off by 2.",
        changes=rewrite(
            f"{_TENSOR}.dequantize",
            condition("E8M0"),
            statement(),
            mention("scales"),
            to="it.clamp(min=1) - 1",
        ),
        formats=("fp4_e2m1",),
        precisions=("mxfp4_e2m1",),
    ),
    _fault(
        name="rows_of_a_tile_in_order",
        what="Swizzled scales of a tile keep the order of its 128 rows: rows 32 apart are not neighbours.",
        source="cuBLAS, 1D block scaling factors layout; cudnn-frontend issues 221 and 237 ask for it: plain"
        " tiles of 128 x 4 are the first guess.",
        changes=rewrite(_SWIZZLE, call("permute"), to="quarters.permute(0, 3, 1, 2, 4)"),
        formats=("fp8_e4m3",),
        precisions=("mxfp8_e4m3",),
    ),
    _fault(
        name="tiles_along_the_outer_axis",
        what="Tiles of swizzled scales follow each other along the outer axis first, not along the inner"
        " one.",
        source="a porter's slip: column-major tiles, which shows only where there is more than one each way.",
        changes=rewrite(_SWIZZLE, call("permute"), to="quarters.permute(3, 0, 2, 1, 4)"),
        formats=("fp8_e4m3",),
        precisions=("mxfp8_e4m3",),
    ),
    _fault(
        name="columnwise_scales_not_transposed",
        what="Columnwise scales are given the shape of their transpose without being transposed.",
        source="a porter's slip: view for .T; burn issue 5278 reads a transposed quantized tensor so.",
        changes=rewrite(_SWIZZLE, mention("T"), to="padded.reshape(padded.shape[::-1])"),
        formats=("fp8_e4m3",),
        precisions=("mxfp8_e4m3",),
    ),
    _fault(
        name="columnwise_from_rowwise",
        what="The columnwise quantization of an operand is made from the rowwise one, not from the input.",
        source="a porter's slip: the input is no longer kept when the backward pass wants its transpose, and"
        " the quantized one is taken for it.",
        changes=rewrite(
            "mxcheck.kernels.layouts:quantize_operand",
            argument("columnwise"),
            call("quantize"),
            argument(1),
            to="quantize(x, format, axis=-1, **options).dequantize(x.dtype)",
        ),
        formats=("fp8_e4m3",),
        precisions=("mxfp8_e4m3",),
    ),
    _fault(
        name="padding_is_nan",
        what="Scales are filled up to whole tiles with FF, which is NaN, whatever was asked for.",
        source="Transformer Engine pull request 3070: padded E8M0 bytes went into the GEMM and made NaN.",
        changes=rewrite("mxcheck.kernels.layouts:pad_scales", call("new_full"), argument(2), to="0xFF"),
        formats=("fp8_e4m3",),
        precisions=("mxfp8_e4m3",),
    ),
    _fault(
        name="padded_scales_read_unpadded",
        what="Scales are taken out of padded ones with the row length that they had before.",
        source="MSLK pull request 339 and ROCm aiter pull request 2900: the logical number of scales in a row"
        " for the padded one.",
        changes=rewrite(
            "mxcheck.kernels.layouts:unpad_scales",
            returned(),
            to="padded.flatten()[: shape[0] * shape[1]].reshape(shape)",
        ),
        formats=("fp8_e4m3",),
        precisions=("mxfp8_e4m3",),
    ),
)
