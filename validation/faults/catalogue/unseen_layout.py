"""Faults of layout, written before any run searched for them."""

from __future__ import annotations

from functools import partial

from validation.faults.fault import Fault, rewrite
from validation.faults.fault_place import argument, call, choice, mention, returned

_fault = partial(Fault, group="layout", unseen=True)
_TENSOR = "mxcheck.kernels.quantized:QuantizedTensor"

FAULTS: tuple[Fault, ...] = (
    _fault(
        name="six_bit_codes_counted_as_bytes",
        what="The count of bytes takes a 6-bit code for a byte.",
        source="runtimes that keep FP6 unpacked, while their model cards count packed bits",
        changes=rewrite(f"{_TENSOR}.nbytes", mention("_GROUPS"), to="{**it, 6: (1, 1)}"),
        formats=("fp6_e3m2",),
        precisions=("mxfp6_e3m2",),
    ),
    _fault(
        name="scale_in_the_type_of_the_result",
        what="Decoding to fp16 or bf16 takes the scale to that type before it is multiplied, so that in fp16"
        " scales below 2^-24 are zero.",
        source="a porter's slip: both factors cast to the result's type to spare an fp32 intermediate",
        changes=rewrite(
            f"{_TENSOR}.dequantize",
            returned(nth=1),
            to="elements.to(dtype).mul_(self._spread(_look_up(scale_values(), self.scales)).to(dtype))",
        ),
        options=("--mx-dtype", "fp16"),
    ),
    _fault(
        name="scales_spread_from_the_end",
        what="Where a row ends in a ragged tail, decoding lays the spread scales at the row's end, so that"
        " elements before a block's border get the scale of the block before.",
        source="a porter's slip: the padding of the last block put before the first",
        changes=rewrite(
            f"{_TENSOR}._spread",
            call("narrow"),
            argument(2),
            to="-self.codes.shape[axis] % self.spec.block_size",
        ),
    ),
    _fault(
        name="columnwise_unswizzled_by_reshape",
        what="Columnwise scales taken out of their swizzled order are reshaped, not transposed.",
        source="a porter's slip: reshape makes the right shape of anything",
        changes=rewrite(
            "mxcheck.kernels.layouts:unswizzle_scales",
            returned(),
            choice("direction"),
            to="scales if direction == 'rowwise' else scales.reshape(padded_shape)",
        ),
    ),
)
