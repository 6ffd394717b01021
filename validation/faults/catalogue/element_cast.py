"""Faults of the element cast: rounding, saturation, subnormals, NaN and the signs of zeros."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from validation.faults.fault import Fault, Setting, rewrite
from validation.faults.fault_place import (
    argument,
    call,
    condition,
    mention,
    operation,
    returned,
    statement,
    value,
)

_fault = partial(Fault, group="element cast")
_ROUND = "mxcheck.kernels.element_codes:round_elements"
#: The statement that saturates, before the one that keeps subnormals; and the one that rounds.
_CLAMP = (call("clamp_", nth=1), statement())
_APPLY = (call("ROUNDINGS"), statement())
_BLOCKS = "mxcheck.kernels.eager:_cast_blocks"


def _even_as(other: str) -> Setting:
    """Replace the rounding `even` by another one of the table."""

    def value(table: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**table, "even": table[other]}

    return Setting(target="mxcheck.kernels.element_codes:ROUNDINGS", value=value)


def _ieee_e4m3(slot: Any) -> property:
    """Return `ElementFormat.nan_magnitudes` with E4M3's whole top binade."""

    def read(element: Any) -> frozenset[int]:
        return frozenset(range(0x78, 0x80)) if element.name == "fp8_e4m3" else slot.__get__(element)

    return property(read, slot.__set__)


FAULTS: tuple[Fault, ...] = (
    _fault(
        name="ties_away_from_zero",
        what="An element halfway between two codes goes to the larger one, not to the even one.",
        source="onnx pull request 5456 (float32_to_float8e4m3) and tt-metal issue 15889 (bfp8): both added"
        " half a step.",
        changes=(_even_as("away"),),
        formats=("fp8_e4m3", "mxint8"),
        precisions=("mxfp8_e4m3", "mxint8"),
    ),
    _fault(
        name="ties_toward_zero",
        what="An element halfway between two codes goes to the smaller one, not to the even one.",
        source="ROCm aiter issue 974: -0.625 / 0.5 became -1 instead of -1.5 in MXFP4.",
        changes=rewrite(
            "mxcheck.kernels.rules:_to_even",
            call("sub_"),
            statement(),
            to="step = binade * 2.0**-mantissa_bits\n"
            "steps = (values.abs() / step - 0.5).ceil()\n"
            "values.copy_((steps * step).copysign(values) + 0.0)",
        ),
        formats=("fp4_e2m1",),
        precisions=("mxfp4_e2m1",),
    ),
    _fault(
        name="elements_truncated",
        what="Mantissa bits that do not fit are cut off, not rounded.",
        source="a porter's slip: a right shift of the bits without the rounding before it.",
        changes=(_even_as("zero"),),
        formats=("fp8_e5m2",),
        precisions=("mxfp8_e5m2",),
    ),
    _fault(
        name="away_by_adding_half_a_step",
        what="Ties away from zero are done by floor(|x| + 0.5) in fp32, which rounds just below half up to"
        " 1.",
        source="microxcaling, _round_mantissa: finding microxcaling-half-step of docs/findings.md.",
        changes=rewrite(
            _ROUND,
            *_APPLY,
            to="if rounding == 'away':\n"
            "    step = binade * 2.0**-element.mantissa_bits\n"
            "    steps = (values.abs() / step + 0.5).floor()\n"
            "    values.copy_((steps * step).copysign(values) + 0.0)\n"
            "    return\n"
            "it",
        ),
        formats=("fp4_e2m1",),
        options=("--mx-rounding", "away"),
        precisions=("mxfp4_e2m1",),
    ),
    _fault(
        name="stochastic_integers_ignored",
        what="Stochastic rounding takes 2^31 for every random integer, so it rounds to nearest.",
        source="a porter's slip: a constant left in where the random integers were to come.",
        changes=rewrite(
            "mxcheck.kernels.rules:_by_chance", returned(), mention("random"), to="1 << (RANDOM_BITS - 1)"
        ),
        formats=("fp4_e2m1",),
        precisions=("mxfp4_e2m1",),
    ),
    _fault(
        name="quotient_through_bf16",
        what="The scaled element is rounded to bf16 first and to the element format after.",
        source="Triton pull request 11753: FP32 to FP8 by way of a 16-bit float lost what tells a tie from"
        " its neighbours.",
        changes=rewrite(_BLOCKS, value("values"), to="it.bfloat16().float()"),
        formats=("fp8_e4m3",),
        precisions=("mxfp8_e4m3",),
    ),
    _fault(
        name="fp8_quotient_rounded_to_fp32",
        what="With an fp32 scale a row or tensor, x / scale is rounded to fp32 and then to fp8.",
        source="torchao and compressed-tensors: findings torchao-fp8-double-rounding and compressed-tensors-"
        " fp8-double-rounding of docs/findings.md; the order is theirs to choose, and ours is one"
        " rounding.",
        changes=rewrite(
            "mxcheck.kernels.real_scaled:_round",
            value("quotient"),
            operation("/"),
            to="(x.float() / scale.float()).double()",
        ),
        formats=("e4m3_row", "e4m3_tensor"),
        precisions=("fp8_tensor_e4m3",),
    ),
    _fault(
        name="e5m2_overflows_to_inf",
        what="An E5M2 element that rounds past 57344 becomes the code of Inf and does not saturate.",
        source="torch's own cast to float8_e5m2 gives Inf; a porter forgets the clamp before it.",
        changes=rewrite(
            _ROUND,
            *_CLAMP,
            to="limit = 2.0 ** (element.emax + 1) if element.inf_magnitudes else element.max_value\n"
            "values.clamp_(-limit, limit)",
        ),
        formats=("fp8_e5m2",),
        precisions=("mxfp8_e5m2",),
    ),
    _fault(
        name="e4m3_overflows_to_nan",
        what="An E4M3 element that rounds past 448 becomes NaN and does not saturate.",
        source="torchao issue 1912 (the cast to float8_e4m3fn did not saturate in eager mode), ml_dtypes"
        " issue 400.",
        changes=rewrite(
            _BLOCKS,
            call("round_elements"),
            statement(),
            to="over = values.abs() > 464.0\n"
            "it\n"
            "if element.name == 'fp8_e4m3':\n"
            "    values.masked_fill_(over, torch.nan)",
        ),
        formats=("fp8_e4m3",),
        precisions=("mxfp8_e4m3",),
    ),
    _fault(
        name="e4m3_saturates_at_240",
        what="E4M3 saturates at 240, the largest number of E4M3FNUZ, not at 448.",
        source="vLLM pull request 50467: kernels on OCP hardware used the FNUZ maximum for want of a macro"
        " guard.",
        changes=rewrite(
            _ROUND,
            *_CLAMP,
            to="limit = 240.0 if element.name == 'fp8_e4m3' else element.max_value\n"
            "values.clamp_(-limit, limit)",
        ),
        formats=("fp8_e4m3",),
        precisions=("mxfp8_e4m3",),
    ),
    _fault(
        name="e4m3_table_with_infinities",
        what="The table of formats gives E4M3 the NaN codes of IEEE's E4M3, 78 to 7F, so that 240 is its"
        " largest number; oracle and kernel read the same table, and only foreign tables or stored"
        " results can tell.",
        source="ml_dtypes has both float8_e4m3 (IEEE, largest 240) and float8_e4m3fn (OCP, largest 448): the"
        " name without fn is the wrong one.",
        changes=(Setting(target="mxcheck.formats.elements:ElementFormat.nan_magnitudes", value=_ieee_e4m3),),
        formats=("fp8_e4m3",),
        precisions=("mxfp8_e4m3",),
    ),
    _fault(
        name="subnormal_elements_flushed",
        what="An element below the smallest normal number of its format becomes zero.",
        source="TVM issue 20315: float8_e5m2's zero and subnormals were wrong in both directions.",
        changes=rewrite(
            _ROUND,
            *_APPLY,
            to="it\n"
            "if not element.twos_complement:\n"
            "    values.masked_fill_(values.abs() < element.min_normal, 0.0)",
        ),
        formats=("fp4_e2m1",),
        precisions=("mxfp4_e2m1", "mxfp8_e5m2"),
    ),
    _fault(
        name="subnormals_rounded_as_normals",
        what="A subnormal element is rounded with the finer step that a normal number of its size would"
        " have, and its code cuts off the rest.",
        source="pytorch pull request 107586: simulateFp8Precision did not round values that are subnormal in"
        " fp8; ROCm aiter issue 974, denormal values.",
        changes=rewrite(_ROUND, argument("min"), to="2.0**-126"),
        formats=("fp6_e2m3",),
        precisions=("mxfp6_e2m3",),
    ),
    _fault(
        name="subnormal_input_flushed",
        what="A subnormal fp32 input counts as zero.",
        source="microxcaling's option flush_fp32_subnorms; kernels built with flush-to-zero instructions"
        " (vLLM pull request 43557 has reciprocal_approximate_ftz).",
        changes=rewrite(_BLOCKS, to="x = torch.where(x.abs() < 2.0**-126, x * 0.0, x)\nit"),
        formats=("fp8_e5m2",),
        precisions=("mxfp8_e5m2",),
    ),
    _fault(
        name="nan_becomes_zero",
        what="A NaN in the input counts as zero and leaves no trace.",
        source="SGLang pull request 40581: NaN was left to what fmin and fmax of the platform do with it.",
        changes=rewrite(_BLOCKS, to="x = torch.where(x.isnan(), 0.0, x)\nit"),
        formats=("fp4_e2m1",),
        precisions=("mxfp4_e2m1",),
    ),
    _fault(
        name="nan_encoded_as_largest",
        what="Where a NaN has to stay in its element (dialect te), its code is clamped to the largest"
        " number.",
        source="a porter's slip: saturating the code by a minimum with the largest finite one, as if there"
        " were no NaN.",
        changes=rewrite("mxcheck.kernels.element_codes:encode", argument("max"), to="element.max_magnitude"),
        formats=("fp8_e4m3",),
        precisions=("mxfp8_e4m3",),
    ),
    _fault(
        name="zero_sign_lost",
        what="-0, and a negative element that rounds to zero, becomes +0.",
        source="microxcaling and compressed-tensors multiply by torch.sign: findings microxcaling-negative-"
        " zero and compressed-tensors-fp4-negative-zero of docs/findings.md.",
        changes=rewrite(_BLOCKS, condition("has_negative_zero"), to="False"),
        formats=("fp4_e2m1",),
        precisions=("mxfp4_e2m1",),
    ),
    _fault(
        name="mxint8_reaches_minus_128",
        what="MXINT8 saturates at -128/64 on the negative side, where the dialect has a symmetric range.",
        source="gfloat: finding gfloat-mxint8-minus-128 of docs/findings.md.",
        changes=rewrite(
            _ROUND,
            *_CLAMP,
            to="lowest = -2.0 if element.twos_complement else -element.max_value\n"
            "values.clamp_(lowest, element.max_value)",
        ),
        formats=("mxint8",),
        precisions=("mxint8",),
    ),
    _fault(
        name="top_binade_saturates",
        what="Every element in the format's highest binade becomes its largest number.",
        source="SGLang pull request 40581: exp8 >= kMaxExp took 256 to 448 for overflow.",
        changes=rewrite(
            _ROUND,
            *_APPLY,
            to="it\n"
            "top = torch.full_like(values, element.max_value).copysign_(values)\n"
            "values.copy_(torch.where(values.abs() >= 2.0**element.emax, top, values))",
        ),
        formats=("fp8_e4m3",),
        precisions=("mxfp8_e4m3",),
    ),
    _fault(
        name="carry_into_next_binade_lost",
        what="An element that rounds up to the next power of two stays at the largest number below it.",
        source="tt-metal issue 15889: the overflow of the mantissa in bfp8 was not carried on.",
        changes=rewrite(
            _ROUND,
            *_APPLY,
            to="it\nlargest = binade * (2 - 2.0**-element.mantissa_bits)\nvalues.clamp_(-largest, largest)",
        ),
        formats=("fp6_e3m2",),
        precisions=("mxfp6_e3m2",),
    ),
)
