"""Faults of the scale: its rule, clamps and special codes, the domain of amax, and fp32 scales."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from validation.faults.fault import Fault, Setting, rewrite
from validation.faults.fault_place import (
    argument,
    assignment,
    call,
    choice,
    condition,
    operation,
    returned,
    value,
)

_fault = partial(Fault, group="scale")
_BLOCKS = "mxcheck.kernels.eager:_cast_blocks"
_CODES_OF = "mxcheck.kernels.eager:scale_codes_of"
_FLOOR = "mxcheck.kernels.rules:_floor"
_RCEIL = "mxcheck.kernels.rules:_rceil"
_REAL = "mxcheck.kernels.real_scaled:_scales"
_BY_RCEIL = ("--mx-scale-rule", "rceil")


def _rule_as(rule: str, other: str) -> Setting:
    """Replace one scale rule by another one of the table."""

    def value(table: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**table, rule: table[other]}

    return Setting(target="mxcheck.kernels.eager:SCALE_RULES", value=value)


FAULTS: tuple[Fault, ...] = (
    _fault(
        name="ceil_for_floor",
        what="The scale's exponent is rounded up where the rule floor rounds it down.",
        source="ROCm aiter pull request 3212 moved every kernel from one rule to the other; one that is left"
        " behind does this.",
        changes=(_rule_as("floor", "ceil"),),
        formats=("fp4_e2m1",),
        precisions=("mxfp4_e2m1",),
    ),
    _fault(
        name="floor_for_rceil",
        what="The scale's exponent is rounded down where the rule rceil rounds it up, so amax saturates.",
        source="MLX pull request 4353: two backends rounded MX scales so that amax saturated, the third up.",
        changes=(_rule_as("rceil", "floor"),),
        formats=("fp8_e4m3",),
        options=_BY_RCEIL,
        precisions=("mxfp8_e4m3",),
    ),
    _fault(
        name="scale_one_up",
        what="Every scale is twice as large as it has to be.",
        source="a porter's slip: frexp's exponent, whose significand lies in [0.5, 1), taken for that of"
        " fp32.",
        changes=rewrite(_CODES_OF, call("SCALE_RULES"), to="it + 1"),
        formats=("fp8_e4m3",),
        precisions=("mxfp8_e4m3", "mxfp4_e2m1"),
    ),
    _fault(
        name="exponent_after_division",
        what="amax is divided by the largest element before its exponent is taken, so many scales are one"
        " too low and amax saturates.",
        source="vLLM pull request 43557: floor(log2(amax / 6)) in the MXFP4 kernel.",
        changes=rewrite(
            _FLOOR,
            returned(),
            to="(amax.view(torch.float32) / element.max_value).view(torch.int32) >> FRACTION_BITS",
        ),
        formats=("fp4_e2m1",),
        precisions=("mxfp4_e2m1",),
    ),
    _fault(
        name="emax_forgotten",
        what="The scale is the power of two of amax itself: the exponent of the largest element is not"
        " taken off.",
        source="vLLM pull request 53110: floor(log2(amax)) + 127 in the MXFP8 kernel.",
        changes=rewrite(_FLOOR, returned(), to="amax >> FRACTION_BITS"),
        formats=("fp8_e4m3",),
        precisions=("mxfp8_e4m3",),
    ),
    _fault(
        name="e5m2_emax_of_the_inf_field",
        what="The table of formats counts the exponent field of Inf and NaN as E5M2's largest, so emax is"
        " 16 and the maximum 114688, for oracle and kernel alike.",
        source="musubi-tuner issue 192: a maximum of E5M2 computed without taking the Inf field off.",
        changes=rewrite(
            "mxcheck.formats.elements:ElementFormat.emax",
            returned(),
            to="(1 << self.exponent_bits) - 1 - self.bias",
        ),
        formats=("fp8_e5m2",),
        precisions=("mxfp8_e5m2",),
    ),
    _fault(
        name="float_log2",
        what="The rule floor takes floor(log2(amax)) in fp32, where an amax just below a power of two gives"
        " that power.",
        source="gfloat and microxcaling: findings gfloat-log2 and microxcaling-shared-exponent-log2 of"
        " docs/findings.md.",
        changes=rewrite(
            _FLOOR,
            returned(),
            to="amax.view(torch.float32).log2().floor().clamp(-149, 128).int() + 127 - element.emax",
        ),
        formats=("fp8_e4m3",),
        precisions=("mxfp8_e4m3",),
    ),
    _fault(
        name="rceil_by_float_log2",
        what="The rule rceil takes ceil(log2(amax / max)) in fp32, where an amax just above max * 2^k gives"
        " k.",
        source="torchao, _to_mx_rceil: finding torchao-rceil-log2 of docs/findings.md.",
        changes=rewrite(
            _RCEIL,
            returned(),
            to="(amax.view(torch.float32) / element.max_value).log2().ceil().clamp(-149, 128).int() + 127",
        ),
        formats=("fp4_e2m1",),
        options=_BY_RCEIL,
        precisions=("mxfp4_e2m1",),
    ),
    _fault(
        name="rceil_by_reciprocal",
        what="The rule rceil multiplies amax by the fp32 reciprocal of the largest element and rounds the"
        " exponent of the product up.",
        source="vLLM pull request 43557: vecMax * reciprocal_approximate_ftz(6.0f).",
        changes=rewrite(
            _RCEIL,
            to="scaled = (amax.view(torch.float32) * (1 / element.max_value)).view(torch.int32)\n"
            "return (scaled >> FRACTION_BITS) + ((scaled & _FRACTION) > 0)",
        ),
        formats=("fp8_e4m3",),
        options=_BY_RCEIL,
        precisions=("mxfp8_e4m3",),
    ),
    _fault(
        name="even_threshold_exclusive",
        what="The rule even leaves amax alone that lies just on the threshold, where the tie has to go up.",
        source="a porter's slip: > for >=.",
        changes=rewrite(
            "mxcheck.kernels.rules:_even", value("threshold"), to="2 - 2.0 ** -(element.mantissa_bits + 1)"
        ),
        formats=("fp4_e2m1",),
        precisions=("mxfp4_e2m1",),
    ),
    _fault(
        name="amax_in_bf16",
        what="amax is rounded to bf16 before its exponent is taken, which lifts some over a power of two.",
        source="torchao pull request 4725: max_abs.to(tl.bfloat16) in the MXFP8 kernel.",
        changes=rewrite(
            _BLOCKS,
            value("amax"),
            to="bits.view(torch.float32).amax(2, keepdim=True).bfloat16().float().view(torch.int32)",
        ),
        formats=("fp8_e4m3",),
        precisions=("mxfp8_e4m3",),
    ),
    _fault(
        name="amax_without_abs",
        what="The scale comes from the largest element, not from the largest magnitude.",
        source="a porter's slip: max for absmax.",
        changes=rewrite(_BLOCKS, value("amax"), to="x.amax(2, keepdim=True).clamp_(min=0).view(torch.int32)"),
        formats=("fp8_e4m3",),
        precisions=("mxfp8_e4m3", "mxfp4_e2m1"),
    ),
    _fault(
        name="amax_of_every_other_element",
        what="amax is taken of every other element of a block.",
        source="SGLang pull request 8290, found in its review: a loop over the block that adds 2.",
        changes=rewrite(_BLOCKS, value("amax"), to="bits[:, :, ::2].amax(2, keepdim=True)"),
        formats=("fp4_e2m1",),
        precisions=("mxfp4_e2m1",),
    ),
    _fault(
        name="nan_lost_in_amax",
        what="A NaN does not count in amax, so its block gets a finite scale where the block has to become"
        " NaN.",
        source="Transformer Engine issue 3550: the half-precision MXFP8 reduction lost the NaN.",
        changes=rewrite(_BLOCKS, condition("nonfinite"), to='spec.nonfinite in ("element", "block")'),
        formats=("fp8_e4m3",),
        precisions=("mxfp8_e4m3",),
    ),
    _fault(
        name="scale_wraps_below",
        what="The scale's code is not clamped at 0 but cut to its low eight bits, so that tiny and zero"
        " blocks get huge scales.",
        source="vLLM pull request 43557 cut the exponent with & 0xff; a porter who subtracts emax after it"
        " does this.",
        changes=rewrite(_CODES_OF, returned(), to="SCALE_RULES[rule](amax, element) & 0xFF"),
        formats=("fp8_e5m2",),
        precisions=("mxfp8_e5m2",),
    ),
    _fault(
        name="scale_not_clamped_above",
        what="The scale's code is not clamped at FE, so that a block of huge numbers gets FF and is NaN.",
        source="a porter's slip: only the lower end is clamped; only MXINT8, with emax 0 and the rule ceil or"
        " rceil, can reach it.",
        changes=rewrite(_CODES_OF, returned(), to="SCALE_RULES[rule](amax, element).clamp_(min=0)"),
        formats=("mxint8",),
        precisions=("mxint8",),
    ),
    _fault(
        name="code_00_divides_by_smallest_normal",
        what="A block with the scale code 00 is divided by 2^-126, not by 2^-127.",
        source="torchao, to_mx: finding torchao-scale-00-divisor of docs/findings.md.",
        changes=rewrite(_BLOCKS, call("_look_up"), argument(2), to="it.clamp(min=1)"),
        formats=("fp8_e4m3",),
        precisions=("mxfp8_e4m3",),
    ),
    _fault(
        name="nan_block_gets_fe",
        what="A block with a NaN or an Inf gets the largest finite scale, FE, and not FF.",
        source="gfloat and torchao clip it there: findings gfloat-inf-scale and torchao-rceil-inf-scale of"
        " docs/findings.md; open in OCP MX v1.0, settled by the dialect.",
        changes=rewrite(_BLOCKS, choice("nonfinite"), to="E8M0_NAN - 1"),
        formats=("fp4_e2m1",),
        precisions=("mxfp4_e2m1",),
    ),
    _fault(
        name="zero_block_gets_scale_one",
        what="A block of zeros gets the scale code 127, not 0.",
        source="MSLK pull request 339 and ROCm aiter pull request 2900 have 127 as a neutral scale; open in"
        " OCP MX v1.0, settled by the dialect.",
        changes=rewrite(
            _BLOCKS, assignment("scale_codes"), to="it\nscale_codes.masked_fill_(amax == 0, 127)"
        ),
        formats=("fp8_e4m3",),
        precisions=("mxfp8_e4m3",),
    ),
    _fault(
        name="nvfp4_tensor_scale_forgotten",
        what="NVFP4's scale of the tensor is 1, so that block scales saturate or fall among the subnormals.",
        source="kekzl/imp issue 1544: absmax / 6 encoded straight to E4M3; JAX pull request 30467.",
        changes=rewrite(_REAL, value("tensor_scale"), to="torch.ones((), device=x.device)"),
        formats=("nvfp4",),
        precisions=("nvfp4",),
    ),
    _fault(
        name="nvfp4_tensor_scale_in_bf16",
        what="NVFP4's scale of the tensor is rounded to bf16.",
        source="compressed-tensors: finding compressed-tensors-nvfp4-scale-dtype of docs/findings.md.",
        changes=rewrite(_REAL, value("tensor_scale"), to="it.bfloat16().float()"),
        formats=("nvfp4",),
        precisions=("nvfp4",),
    ),
    _fault(
        name="nvfp4_block_scale_rounded_twice",
        what="NVFP4's block scale is rounded to fp32 before it is rounded to E4M3.",
        source="Two divisions in fp32, as the formula is written in papers; 1 block in 400 of bf16 numbers.",
        changes=rewrite(
            _REAL,
            value("values"),
            to="_round(\n(amax.double() / (tensor_scale.double() * element.max_value)).float(),\n"
            "torch.ones((), dtype=torch.float64, device=x.device),\n_BLOCK_SCALE)",
        ),
        formats=("nvfp4",),
        precisions=("nvfp4",),
    ),
    _fault(
        name="nvfp4_block_scale_not_subnormal",
        what="NVFP4's block scales are raised to at least 2^-6, the smallest normal E4M3 number.",
        source="torchao, nvfp4_quantize: finding torchao-nvfp4-block-scale-clamp of docs/findings.md.",
        changes=rewrite(_REAL, value("values"), to="it.clamp_(min=2.0**-6)"),
        formats=("nvfp4",),
        precisions=("nvfp4",),
    ),
    _fault(
        name="multiplied_by_reciprocal_of_scale",
        what="Where the scale is no power of two, elements are multiplied by its fp32 reciprocal, not"
        " divided.",
        source="torchao, nvfp4_quantize: finding torchao-nvfp4-reciprocal of docs/findings.md.",
        changes=rewrite(
            "mxcheck.kernels.real_scaled:_round",
            value("quotient"),
            operation("/"),
            to="(x.float() * (1 / scale.float())).double()",
        ),
        formats=("nvfp4", "e4m3_tensor"),
        precisions=("nvfp4", "fp8_tensor_e4m3"),
    ),
    _fault(
        name="row_scale_of_the_tensor",
        what="Every row gets the scale of the whole tensor; no precision of the ladder has scales by rows"
        " through this code, so the kernel suite alone can see it.",
        source="a porter's slip: amax() without an axis.",
        changes=rewrite(_REAL, choice("whole_tensor"), to="size.amax()"),
        formats=("e4m3_row",),
        precisions=("fp8_tensor_e4m3",),
    ),
)
