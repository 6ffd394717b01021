"""Faults of attention and experts, written before any run searched for them."""

from __future__ import annotations

from functools import partial

from validation.faults.fault import Fault, rewrite
from validation.faults.fault_place import (
    assignment,
    call,
    choice,
    condition,
    statement,
)

_fault = partial(Fault, group="attention and experts", formats=(), unseen=True)
_ATTENTION = ("--mx-attention",)
_PRODUCT = "mxcheck.models.conversion.product_hooks:AttentionCast.__torch_function__"


FAULTS: tuple[Fault, ...] = (
    _fault(
        name="experts_share_the_first_scales",
        what="All experts are decoded with the block scales of the first.",
        source="neuronx-distributed-inference pull request 35: one scale for stacked experts",
        changes=rewrite(
            "mxcheck.models.conversion.casts:cast_weight",
            assignment("quantized"),
            to="it\n"
            "if weight.dim() == 3:\n"
            "    quantized.scales.copy_(quantized.scales[:1].expand_as(quantized.scales).clone())",
        ),
    ),
    _fault(
        name="ragged_attention_not_cast",
        what="Where the length is no multiple of 32, attention weights and values are not cast.",
        source="kernels that take whole blocks alone, and fall back to 16 bits",
        changes=rewrite(
            _PRODUCT,
            call("set"),
            statement(),
            to="if call.get(places.second).shape[-2] % 32 == 0:\n    it",
        ),
        options=("--mx-attention", "--mx-sequence-length", "200"),
    ),
    _fault(
        name="every_other_head_cast",
        what="Attention's operands are cast in heads 0, 2 and so on, and stay as they are in the others.",
        source="a porter's slip: a grid over groups of heads in place of heads",
        changes=rewrite(
            _PRODUCT,
            call("set"),
            statement(),
            to="whole = call.get(place)\n"
            "it\n"
            "odd = torch.arange(whole.shape[1]) % 2 == 1\n"
            "call.get(place)[:, odd] = whole[:, odd]",
        ),
        options=_ATTENTION,
    ),
    _fault(
        name="attention_products_take_the_mlp_format",
        what="In a mixed tier attention's products take the MLP's format.",
        source="a porter's slip: one format for what has no weights",
        changes=rewrite(
            "mxcheck.models.recipes.recipe:recipe",
            choice("attention"),
            to="roles['mlp'].activations if attention else None",
        ),
        options=_ATTENTION,
        precisions=("mixed",),
    ),
    _fault(
        name="keys_lag_by_one_position",
        what="A key is rotated by the angles of the position before its own.",
        source="a porter's slip: positions of a key-value cache counted from its length before the step",
        changes=tuple(
            one
            for module in ("llama.modeling_llama", "mixtral.modeling_mixtral")
            for one in rewrite(
                f"transformers.models.{module}:apply_rotary_pos_emb",
                assignment("k_embed"),
                to="turns = (torch.cat((one[..., :1, :], one[..., :-1, :]), -2) for one in (cos, sin))\n"
                "lag_cos, lag_sin = turns\n"
                "k_embed = (k * lag_cos) + (rotate_half(k) * lag_sin)",
            )
        ),
    ),
    _fault(
        name="chosen_experts_weigh_alike",
        what="The chosen experts of a token have equal weights.",
        source="a porter's slip: a mean over experts in place of a weighted sum",
        changes=rewrite(
            "transformers.models.mixtral.modeling_mixtral:MixtralTopKRouter.forward",
            assignment("router_scores"),
            to="router_scores = torch.full_like(router_top_value, 1 / self.top_k)",
        ),
    ),
    _fault(
        name="last_expert_left_out",
        what="What the last expert would add is left out.",
        source="transformers pull request 43154: experts counted by another number than that of experts",
        changes=rewrite(
            "transformers.models.mixtral.modeling_mixtral:MixtralExperts.forward",
            condition("expert_idx"),
            to="expert_idx >= self.num_experts - 1",
        ),
    ),
    _fault(
        name="rows_of_both_expert_products",
        what="The count of an expert's rows takes in those of its second product.",
        source="a porter's slip: a hook on every product, where the first was meant",
        changes=rewrite(
            "mxcheck.models.conversion.linear:ConvertedLinear._note_expert",
            condition("expert_rows"),
            to="not self.expert_rows",
        ),
    ),
    _fault(
        name="key_groups_of_the_last_layer_swapped",
        what="In the last layer query heads take the keys of the next group.",
        source="a porter's slip: heads counted from one, in one of several code paths",
        changes=rewrite(
            "transformers.models.llama.modeling_llama:eager_attention_forward",
            assignment("key_states"),
            to="it\n"
            "if module.layer_idx == module.config.num_hidden_layers - 1:\n"
            "    key_states = key_states.roll(module.num_key_value_groups, 1)",
        ),
    ),
)
