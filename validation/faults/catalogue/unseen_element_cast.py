"""Faults of the element cast, written before any run searched for them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from validation.faults.fault import Fault, Rewrite, Setting, rewrite
from validation.faults.fault_place import argument, assignment, call, mention, returned, statement

_fault = partial(Fault, group="element cast", unseen=True)
_EAGER = "mxcheck.kernels.eager"
_BLOCKS = f"{_EAGER}:_cast_blocks"


def _downwards(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the roundings with `zero` rounding towards minus infinity."""

    def floor(values: Any, binade: Any, mantissa_bits: int, random: Any) -> None:
        del random
        step = binade * 2.0**-mantissa_bits
        values.div_(step).floor_().mul_(step)

    return {**table, "zero": floor}


FAULTS: tuple[Fault, ...] = (
    _fault(
        name="fp16_subnormals_flushed",
        what="A subnormal of an fp16 input counts as zero.",
        source="a porter's slip: a conversion from fp16 built with flush-to-zero, where fp32's is not",
        changes=tuple(
            Rewrite(
                target=f"{_EAGER}:{function}",
                at=(call("_cast_blocks"), argument(1)),
                to="it.masked_fill_(it.abs() < 2.0**-14, 0.0) if x.dtype == torch.float16 else it",
            )
            for function in ("quantize_eager", "fake_quantize_eager")
        ),
    ),
    _fault(
        name="nvfp4_values_truncated_to_bf16",
        what="Values whose scale is no power of two are cut to bf16, not rounded, where the input is bf16.",
        source="a porter's slip: a cast to bf16 by a shift of 16 bits, harmless while low bits are zero",
        changes=rewrite(
            "mxcheck.kernels.real_scaled:fake_quantize_real_scaled",
            call("copy_"),
            argument(1),
            to="(it.view(torch.int32) & -65536).view(torch.float32) if x.dtype == torch.bfloat16 else it",
        ),
        formats=("nvfp4", "e4m3_tensor", "e4m3_row"),
        options=("--mx-dtype", "bf16"),
        precisions=("nvfp4",),
    ),
    _fault(
        name="tail_elements_truncated",
        what="Elements of a ragged tail are rounded towards zero, all others to nearest.",
        source="a porter's slip: a vector loop that rounds, and a scalar one for the rest that casts",
        changes=rewrite(
            _BLOCKS,
            call("round_elements"),
            argument(3),
            to="'zero' if it == 'even' and x.shape[2] < (spec.block_size or 0) else it",
        ),
    ),
    _fault(
        name="toward_zero_rounds_down",
        what="Rounding towards zero takes a negative element to the next larger magnitude.",
        source="a porter's slip: floor, or a shift of a two's complement number, for truncation",
        changes=(Setting(target="mxcheck.kernels.element_codes:ROUNDINGS", value=_downwards),),
        options=("--mx-rounding", "zero"),
    ),
    _fault(
        name="stochastic_by_the_low_bits",
        what="Stochastic rounding compares with the low 16 bits of a random integer, not with all 32.",
        source="hardware takes 16 random bits or fewer an element; which ones of a word differs",
        changes=rewrite(
            "mxcheck.kernels.rules:_by_chance", returned(), mention("random"), to="((it & 0xFFFF) << 16)"
        ),
    ),
    _fault(
        name="mxint8_ties_upwards",
        what="An MXINT8 element halfway between two codes goes to the larger one, whatever its sign.",
        source="a porter's slip: floor(x + 0.5) for integers, where floating-point formats use the hardware",
        changes=rewrite(
            "mxcheck.kernels.element_codes:round_elements",
            call("ROUNDINGS"),
            statement(),
            to="if element.twos_complement and rounding == 'even':\n"
            "    steps = 2.0**element.mantissa_bits\n"
            "    values.mul_(steps).add_(0.5).floor_().div_(steps)\n"
            "else:\n"
            "    it",
        ),
        formats=("mxint8",),
        precisions=("mxint8",),
    ),
    _fault(
        name="infinities_clamped_first",
        what="An infinity counts as the largest fp32 number, so that its block is finite.",
        source="a porter's slip: a guard (nan_to_num, clamp to finfo) before the cast, which keeps NaN alone",
        changes=rewrite(
            _BLOCKS,
            assignment("bits"),
            to="limit = torch.finfo(torch.float32).max\nx = x.clamp(-limit, limit)\nit",
        ),
    ),
)
