"""Faults of blocks and their axis, written before any run searched for them."""

from __future__ import annotations

from functools import partial

from validation.faults.fault import Fault, rewrite
from validation.faults.fault_place import assignment, returned, statement, value

_fault = partial(Fault, group="block and axis", unseen=True)
_EAGER = "mxcheck.kernels.eager"
_BLOCKS = f"{_EAGER}:_cast_blocks"

FAULTS: tuple[Fault, ...] = (
    _fault(
        name="amax_of_32_lanes",
        what="Of a block of more than 32 elements, amax is that of the first 32.",
        source="a porter's slip: a reduction over the lanes of one warp, where a block takes several",
        changes=rewrite(_BLOCKS, value("amax"), to="bits[:, :, :32].amax(2, keepdim=True)"),
        options=("--mx-block-size", "64"),
    ),
    _fault(
        name="rows_left_over_not_cast",
        what="Where the rows are no multiple of 32, those after the last whole 32 come out uncast.",
        source="MLX issue 3856: wrong results of a quantized product where the length is no multiple of 32",
        changes=rewrite(
            f"{_EAGER}:fake_quantize_eager",
            returned(nth=2),
            statement(),
            to="left = rows(x, spec).shape[0] % 32\n"
            "if left and spec.axis == -1:\n"
            "    rows(result, spec)[-left:] = rows(x, spec)[-left:]\n"
            "it",
        ),
    ),
    _fault(
        name="tail_amax_with_the_next_row",
        what="A ragged tail has the larger amax of its own and of the next row's tail.",
        source="onnxruntime issue 32663: blocks by a flat index, which crosses rows where a row is ragged",
        changes=rewrite(
            _BLOCKS,
            assignment("amax"),
            to="it\n"
            "if x.shape[2] < (spec.block_size or 0):\n"
            "    amax = torch.maximum(amax, amax.roll(-1, 0))",
        ),
    ),
)
