"""Faults of blocks: the elements that share a scale, their axis, ragged tails, strides and pieces."""

from __future__ import annotations

from functools import partial
from typing import Any

from validation.faults.fault import Fault, Setting, rewrite
from validation.faults.fault_place import argument, assignment, call, condition, returned, statement, value

_fault = partial(Fault, group="block and axis")
_BLOCKS = "mxcheck.kernels.eager:_cast_blocks"
_VALUES = "mxcheck.kernels.eager:fake_quantize_eager"
_ROWS = "mxcheck.kernels.block_views:rows"
_SECTIONS = "mxcheck.kernels.block_views:sections"


def _nvfp4_by_32(slot: Any) -> property:
    """Return `BlockFormat.block_size` with 32 for NVFP4."""

    def read(block: Any) -> int | None:
        size: int | None = 32 if block.name == "nvfp4" else slot.__get__(block)
        return size

    return property(read, slot.__set__)


FAULTS: tuple[Fault, ...] = (
    _fault(
        name="axis_moved_by_a_view",
        what="Where blocks run along another axis than the last one, memory is read as if it were the last.",
        source="a porter's slip: view for transpose, right in every test whose axis is the last one.",
        changes=rewrite(
            _ROWS,
            returned(),
            statement(),
            to="outer, length, inner = shape\n"
            "return x.detach().contiguous().view(outer, inner, length).transpose(1, 2)",
        ),
        formats=("fp8_e4m3",),
        precisions=("mxfp8_e4m3",),
    ),
    _fault(
        name="rows_flattened_into_blocks",
        what="Blocks are cut from the flattened tensor, so that where a row is no whole number of blocks"
        " one block holds the end of a row and the start of the next.",
        source="bitsandbytes pull request 1628: A.reshape(-1, blocksize), the rest left over at the end.",
        changes=rewrite(
            _ROWS,
            returned(),
            statement(),
            to="if axis == x.dim() - 1:\n    return x.detach().contiguous().view(1, -1, 1)\nit",
        ),
        formats=("fp8_e4m3",),
        precisions=("mxfp8_e4m3",),
    ),
    _fault(
        name="activation_blocks_over_tokens",
        what="Fake-quantized activations have blocks along the last axis but one, tokens, not along"
        " features.",
        source="a porter's slip: the axis of a transposed weight used for both operands of a product.",
        changes=rewrite(
            _VALUES,
            call("check_input"),
            statement(),
            to="it\n"
            "if x.dim() > 1 and spec.axis == -1:\n"
            "    from dataclasses import replace\n"
            "\n"
            "    spec = replace(spec, axis=-2)",
        ),
        formats=("fp4_e2m1",),
        precisions=("mxfp4_e2m1",),
    ),
    _fault(
        name="tail_not_written",
        what="A ragged tail is left out, so that the result there is what the buffer held before.",
        source="a porter's slip: a loop over length // block_size blocks; bitsandbytes pull request 1884"
        " mends kernels that took the length for a multiple of the block size.",
        changes=rewrite(_SECTIONS, condition("tail"), to="False"),
        formats=("fp8_e4m3",),
        precisions=("mxfp8_e4m3",),
    ),
    _fault(
        name="tail_joins_the_block_before",
        what="A ragged tail shares amax and scale with the last whole block.",
        source="a porter's slip: the last piece of a split takes what is left over.",
        changes=rewrite(
            _SECTIONS,
            condition("whole"),
            statement(),
            to="if whole and tail:\n"
            "    last = end - block_size\n"
            "    if last:\n"
            "        shape = (outer, whole - 1, block_size, inner)\n"
            "        yield slice(0, whole - 1), [one[:, :last].view(shape) for one in tensors]\n"
            "    yield slice(whole - 1, whole + 1), [one[:, last:].unsqueeze(1) for one in tensors]\n"
            "    return\n"
            "it",
        ),
        formats=("fp8_e4m3",),
        precisions=("mxfp8_e4m3",),
    ),
    _fault(
        name="tail_as_a_shifted_whole_block",
        what="A ragged tail is cast as the last block_size elements of the row, again, with amax of them"
        " all.",
        source="a porter's slip: how vector code deals with a remainder, which is right only where elements"
        " do not depend on each other.",
        changes=rewrite(
            _SECTIONS,
            condition("tail"),
            statement(),
            to="if tail:\n"
            "    first = max(0, length - block_size)\n"
            "    yield slice(whole, whole + 1), [one[:, first:].unsqueeze(1) for one in tensors]",
        ),
        formats=("fp4_e2m1",),
        precisions=("mxfp4_e2m1",),
    ),
    _fault(
        name="activations_in_blocks_of_16",
        what="Fake-quantized activations have blocks of 16, NVFP4's, not of 32.",
        source="a porter's slip: the group size of NVFP4 kept for MXFP4.",
        changes=rewrite(_VALUES, call("sections"), argument(1), to="16"),
        formats=("fp4_e2m1",),
        precisions=("mxfp4_e2m1",),
    ),
    _fault(
        name="blocks_of_64_share_amax",
        what="Two neighbouring blocks of 32 share amax, so that blocks have 64 elements.",
        source="a porter's slip: a reduction over 64 lanes where the kernel was written for 32.",
        changes=rewrite(
            _BLOCKS,
            assignment("amax"),
            to="it\n"
            "pairs = amax[:, : amax.shape[1] // 2 * 2].unflatten(1, (amax.shape[1] // 2, 2))\n"
            "pairs.copy_(pairs.amax(2, keepdim=True))",
        ),
        formats=("fp8_e4m3",),
        precisions=("mxfp8_e4m3", "mxfp4_e2m1"),
    ),
    _fault(
        name="block_size_asked_for_ignored",
        what="Fake-quantized activations have blocks of 32 whatever block size was asked for.",
        source="bitsandbytes issue 565 and pull request 1160: block sizes other than the tested one went"
        " wrong.",
        changes=rewrite(_VALUES, call("sections"), argument(1), to="32"),
        formats=("fp4_e2m1",),
        options=("--mx-block-size", "16"),
        precisions=("mxfp4_e2m1",),
    ),
    _fault(
        name="amax_window_shifted_by_one",
        what="amax is taken of a block's elements but the first, and of the first one of the next block.",
        source="a porter's slip: an index off by one at the start of the loop.",
        changes=rewrite(
            _BLOCKS, value("amax"), to="bits.flatten(1, 2).roll(-1, 1).view(bits.shape).amax(2, keepdim=True)"
        ),
        formats=("fp4_e2m1",),
        precisions=("mxfp4_e2m1",),
    ),
    _fault(
        name="amax_of_the_whole_tensor",
        what="Every block gets the scale of all blocks that are worked on together.",
        source="a porter's slip: amax() without an axis.",
        changes=rewrite(
            _BLOCKS,
            assignment("amax"),
            to="outer, blocks, _, inner = bits.shape\n"
            "amax = bits.amax().expand(outer, blocks, 1, inner).contiguous()",
        ),
        formats=("fp8_e5m2",),
        precisions=("mxfp8_e5m2", "mxfp4_e2m1"),
    ),
    _fault(
        name="strides_ignored",
        what="An input that is not contiguous is read as if it were.",
        source="FBGEMM pull request 2919, vLLM pull request 21961, burn issue 4491.",
        changes=rewrite(
            _ROWS, returned(), to="x.detach().as_strided(shape, (shape[1] * shape[2], shape[2], 1))"
        ),
        formats=("fp8_e4m3",),
        precisions=("mxfp8_e4m3",),
    ),
    _fault(
        name="last_piece_skipped",
        what="Of a tensor that is worked on in pieces, the last one is left out where it is shorter.",
        source="a porter's slip: a grid of numel // piece programs; bitsandbytes pull request 2043 mends the"
        " reverse, a grid that goes past the end.",
        changes=rewrite(
            "mxcheck.kernels.block_views:chunks",
            call("split"),
            to="[one for one in it if one.shape[dim] == step]",
        ),
        formats=("fp4_e2m1",),
        precisions=("mxfp4_e2m1",),
    ),
    _fault(
        name="input_scaled_in_place",
        what="The division by the scale is done in the input, which whoever uses it next gets scaled.",
        source="bitsandbytes issue 1587: a call changed the tensor that it was given; a porter's mul_ for"
        " mul.",
        changes=rewrite(_BLOCKS, value("values"), to="x.mul_(_look_up(inverse_of, scale_codes))"),
        formats=("fp8_e4m3",),
        precisions=("mxfp8_e4m3",),
    ),
    _fault(
        name="nvfp4_in_blocks_of_32",
        what="The table of formats gives NVFP4 blocks of 32; oracle and kernel read the same table, and"
        " only foreign implementations or stored results can tell.",
        source="a porter's slip: the block size of the MX formats left in a new row of the table.",
        changes=(Setting(target="mxcheck.formats.blocks:BlockFormat.block_size", value=_nvfp4_by_32),),
        formats=("nvfp4",),
        precisions=("nvfp4",),
    ),
)
