"""Faults of the scale, written before any run searched for them."""

from __future__ import annotations

from functools import partial

from validation.faults.fault import Fault, rewrite
from validation.faults.fault_place import argument, assignment, call, mention, returned, value

_fault = partial(Fault, group="scale", unseen=True)
_BLOCKS = "mxcheck.kernels.eager:_cast_blocks"
_REAL = "mxcheck.kernels.real_scaled:_scales"

FAULTS: tuple[Fault, ...] = (
    _fault(
        name="ceil_of_a_power_of_two",
        what="The rule ceil gives an amax that is a power of two the next exponent too.",
        source="a porter's slip: floor(log2(amax)) + 1 for ceil(log2(amax))",
        changes=rewrite("mxcheck.kernels.rules:_ceil", returned(), to="_floor(amax, element) + 1"),
        formats=("fp8_e4m3",),
        options=("--mx-scale-rule", "ceil"),
        precisions=("mxfp8_e4m3",),
    ),
    _fault(
        name="subnormal_amax_as_normal",
        what="Rules that round up read the significand of a subnormal amax as if it were a normal one's.",
        source="a porter's slip: bits of the fraction compared without a look at the exponent field",
        changes=rewrite(
            "mxcheck.kernels.rules:_above", returned(), to="lambda amax: (amax & _FRACTION) > normal"
        ),
        formats=("mxint8",),
        options=("--mx-scale-rule", "ceil"),
        precisions=("mxint8",),
    ),
    _fault(
        name="scale_code_00_never_used",
        what="The smallest scale is 2^-126, the code 01.",
        source="hardware and libraries without fp32 subnormals, which 2^-127 is one of",
        changes=rewrite("mxcheck.kernels.eager:scale_codes_of", call("clamp_"), argument(1), to="1"),
    ),
    _fault(
        name="nvfp4_tensor_scale_for_256",
        what="NVFP4's scale of the tensor leaves block scales up to 256, not up to E4M3's 448.",
        source="recipes that choose between the maxima 4 and 6 of a block divide by 256 * 6",
        changes=rewrite(_REAL, value("tensor_scale"), argument(2), mention("max_value", nth=1), to="256.0"),
        formats=("nvfp4",),
        precisions=("nvfp4",),
    ),
    _fault(
        name="amax_at_least_epsilon",
        what="Where the scale is an fp32 number, amax is taken for 1e-6 at least.",
        source="clamp(min=1e-12) or 1e-10 in many libraries' per-token scales, written when inputs were fp32",
        changes=rewrite(
            "mxcheck.kernels.real_scaled:fp32_quotient",
            value("quotient", nth=1),
            call("float"),
            to="it.clamp(min=1e-6)",
        ),
        formats=("e4m3_tensor", "e4m3_row", "nvfp4"),
        precisions=("fp8_tensor_e4m3", "nvfp4"),
    ),
    _fault(
        name="tensor_amax_of_the_first_piece",
        what="Of a large tensor with one scale, amax is that of the first 2^18 elements; what lies beyond"
        " saturates.",
        source="a porter's slip: a reduction in two passes whose second one reads the first partial result",
        changes=rewrite(
            _REAL, value("amax", nth=1), call("amax", nth=1), to="size.flatten()[: 1 << 18].amax()"
        ),
        formats=("e4m3_tensor",),
        options=("--mx-models", "long-llama"),
        precisions=("fp8_tensor_e4m3",),
    ),
    _fault(
        name="scale_of_a_single_row",
        what="An input of one row gets one scale for all of its blocks.",
        source="aprender issue 2810: the decode path quantizes by tensor, all other paths by row",
        changes=rewrite(
            _BLOCKS,
            assignment("amax"),
            to="it\nif x.shape[0] == 1:\n    amax = amax.amax(1, keepdim=True).expand_as(amax).contiguous()",
        ),
    ),
    _fault(
        name="few_elements_not_scaled",
        what="What has fewer elements than one block gets the scale 1.",
        source="FBGEMM pull request 2919: no scaling where the elements are fewer than a block",
        changes=rewrite(
            _BLOCKS,
            assignment("scale_codes"),
            to="it\nif x.numel() < (spec.block_size or 0):\n    scale_codes.fill_(127)",
        ),
    ),
)
