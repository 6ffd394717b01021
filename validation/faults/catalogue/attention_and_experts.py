"""Faults of attention, masks, routers and experts: of the conversion, and of the model's own code."""

from __future__ import annotations

from functools import partial

from validation.faults.fault import Fault, Rewrite, rewrite
from validation.faults.fault_place import (
    Step,
    argument,
    call,
    choice,
    condition,
    function,
    loop,
    mention,
    statement,
    value,
)

_fault = partial(Fault, group="attention and experts", formats=())
_ATTENTION = ("--mx-attention",)
_LLAMA = "transformers.models.llama.modeling_llama"
_MIXTRAL = "transformers.models.mixtral.modeling_mixtral"


def _in_both(name: str, *at: Step, to: str) -> tuple[Rewrite, ...]:
    """Change both models that have the function in the same way."""
    return tuple(Rewrite(target=f"{module}:{name}", at=at, to=to) for module in (_LLAMA, _MIXTRAL))


def _in_the_product(new: str) -> tuple[Rewrite]:
    """Change the cast of an operand (`x`, the first or second `place` of product 1 or 2)."""
    return rewrite(
        "mxcheck.models.conversion.product_hooks:AttentionCast.__torch_function__",
        call("set"),
        statement(),
        to=f"x = call.get(place)\ncall.set(place, {new})",
    )


FAULTS: tuple[Fault, ...] = (
    _fault(
        name="mask_lost",
        what="Attention leaves its mask out, so that every token sees the future.",
        source="transformers 5.23: an attention function without a mask function of its name gets no mask",
        changes=_in_both("eager_attention_forward", condition("attention_mask"), to="False"),
    ),
    _fault(
        name="mask_lost_where_converted",
        what="Attention whose operands are cast runs without a mask, the reference with it.",
        source="as mask_lost, of a quantized attention function that takes the place of the eager one",
        changes=rewrite(
            "mxcheck.models.conversion.attention:ConvertedAttention.activate",
            function("forward"),
            call("original"),
            argument("**"),
            to="it | {'attention_mask': None}",
        ),
        options=_ATTENTION,
    ),
    _fault(
        name="mask_shows_the_next_token",
        what="The causal mask is shifted by one: a token sees the one that it has to predict.",
        source="a porter's slip: triu(diagonal=2) for 1, or <= for < with shifted positions",
        changes=rewrite("transformers.masking_utils:causal_mask_function", mention("q_idx"), to="it + 1"),
    ),
    _fault(
        name="softmax_in_bf16",
        what="The softmax of attention is computed in bf16 in place of fp32.",
        source="a porter's slip: the upcast that every eager attention of transformers has is lost",
        changes=_in_both("eager_attention_forward", call("softmax"), argument("dtype"), to="torch.bfloat16"),
    ),
    _fault(
        name="key_heads_tiled",
        what="Grouped keys and values are tiled over the query heads, not repeated one by one.",
        source="a porter's slip: repeat() for repeat_interleave() in grouped-query attention",
        changes=_in_both("repeat_kv", to="return hidden_states.repeat(1, n_rep, 1, 1)"),
    ),
    _fault(
        name="values_cast_along_the_head",
        what="The second operand of both attention products is cast in blocks along its last axis.",
        source="a porter's slip: one cast along -1 for both operands, as for a linear layer",
        changes=rewrite(
            "mxcheck.models.conversion.attention:ConvertedAttention.__init__",
            value("self.second"),
            argument("axis"),
            to="-1",
        ),
        options=_ATTENTION,
    ),
    _fault(
        name="value_blocks_misaligned",
        what="Blocks of the values start one key late, the first key being put at the end.",
        source="a porter's slip: a key-value cache as a ring buffer, or with a sink token before the blocks",
        changes=_in_the_product(
            "cast(x.roll(-1, -2)).roll(1, -2) if place is places.second and self.products == 2 else cast(x)"
        ),
        options=_ATTENTION,
    ),
    _fault(
        name="only_the_first_product_cast",
        what="Queries and keys are cast, attention weights and values are not.",
        source="a porter's slip; some FP8 kernels keep the second product in 16 bits on purpose",
        changes=_in_the_product("cast(x) if self.products == 1 else x"),
        options=_ATTENTION,
    ),
    _fault(
        name="keys_not_cast",
        what="Keys enter the product as they are, queries, attention weights and values are cast.",
        source="a porter's slip: keys taken from a cache that somebody else was thought to quantize",
        changes=_in_the_product("x if place is places.second and self.products == 1 else cast(x)"),
        options=_ATTENTION,
    ),
    _fault(
        name="attention_weights_not_cast",
        what="The result of the softmax enters the second product uncast.",
        source="a porter's slip: a fused kernel never writes it out, so nothing outside can cast it",
        changes=_in_the_product("x if place is places.first and self.products == 2 else cast(x)"),
        options=_ATTENTION,
    ),
    _fault(
        name="attention_of_one_layer",
        what="The attention products of the first layer alone are cast.",
        source="a porter's slip: a return inside the loop over layers",
        changes=rewrite(
            "mxcheck.models.conversion.convert:convert", call("ConvertedAttention"), loop(), to="list(it)[:1]"
        ),
        options=_ATTENTION,
    ),
    _fault(
        name="experts_skipped",
        what="Experts stored as 3-D parameters are no linear modules and stay unquantized.",
        source="bitsandbytes issue 1849: fused experts of transformers 5 are silently left as they are",
        changes=rewrite(
            "mxcheck.models.conversion.classify:_is_linear_like",
            condition("expert_parameters"),
            to="isinstance(module, (nn.Linear, Conv1D))",
        ),
    ),
    _fault(
        name="experts_along_the_wrong_axis",
        what="Blocks of expert weights run along the outputs.",
        source="gpt-oss stores experts [experts, in, out], Mixtral [experts, out, in]: one taken for another",
        changes=(
            *rewrite(
                "mxcheck.models.conversion.classify:reduction_axis",
                choice("is_transposed"),
                to="-1 if module.is_transposed else -2",
            ),
            # The probe reads the width of an activation, which stays the same.
            *rewrite(
                "mxcheck.models.conversion.probe:_arguments",
                value("experts"),
                call("reduction_axis"),
                to="-1",
            ),
        ),
    ),
    _fault(
        name="only_the_first_expert_quantized",
        what="Of stacked expert weights the first expert is quantized, the others are not.",
        source="a porter's slip: a loop over experts that writes to a copy after the first",
        changes=rewrite(
            "mxcheck.models.conversion.linear:ConvertedLinear.__init__",
            call("Parameter"),
            statement(),
            to="values = cast.values.clone()\n"
            "if values.dim() == 3:\n"
            "    values[1:] = original.detach()[1:]\n"
            "self._quantized[key] = nn.Parameter(values, requires_grad=False)",
        ),
    ),
    _fault(
        name="down_projection_of_experts_not_cast",
        what="An expert's input is cast, the activation before its second product is not.",
        source="a porter's slip: a hook before a fused module sees the first input alone",
        changes=rewrite(
            "mxcheck.models.conversion.product_hooks:LinearCast.__torch_function__",
            call("set"),
            argument(2),
            to="it if self.products % 2 else call.get(places.first)",
        ),
    ),
    _fault(
        name="router_in_bf16",
        what="The router scores experts in bf16.",
        source="a porter's slip: a router that is not among the modules kept in fp32",
        changes=rewrite(
            f"{_MIXTRAL}:MixtralTopKRouter.forward",
            call("linear"),
            to="F.linear(hidden_states.bfloat16(), self.weight.bfloat16())",
        ),
    ),
    _fault(
        name="router_weights_not_normalized",
        what="The weights of the chosen experts are not divided by their sum.",
        source="norm_topk_prob, which some mixtures of experts set and others do not",
        changes=rewrite(f"{_MIXTRAL}:MixtralTopKRouter.forward", call("sum"), statement(), to="pass"),
    ),
)
