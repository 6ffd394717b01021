"""Faults of loading: the model differs from the requested one, or from its configuration."""

from __future__ import annotations

from functools import partial

from validation.faults.fault import Fault, Rewrite, rewrite
from validation.faults.fault_place import argument, assignment, call, condition, mention, statement, value

_fault = partial(Fault, group="loading", formats=())
_LLAMA = "transformers.models.llama.modeling_llama"
_MIXTRAL = "transformers.models.mixtral.modeling_mixtral"
_LOADING = "mxcheck.models.zoo.load:_from_pretrained"


def _after_loading(*lines: str) -> tuple[Rewrite]:
    """Run statements on the loaded `model` before its fingerprint is taken."""
    return rewrite(
        "mxcheck.models.zoo.load:load", call("check_finite"), statement(), to="\n".join(("it", *lines))
    )


FAULTS: tuple[Fault, ...] = (
    _fault(
        name="checkpoint_dtype",
        what="The model is loaded in the checkpoint's bfloat16 where float32 was asked for.",
        source="transformers 5 loads in the checkpoint's dtype by default, transformers 4 in float32",
        changes=rewrite(_LOADING, call("from_pretrained"), argument("dtype"), to="torch.bfloat16"),
    ),
    _fault(
        name="rotary_frequencies_in_bf16",
        what="The rotary frequencies were rounded to bfloat16 on the way, with a cast of the whole model.",
        source="transformers issue 25681, sglang-jax issue 1472: the buffer is cast with the model",
        changes=_after_loading("model.bfloat16().float()"),
    ),
    _fault(
        name="tensor_left_at_random",
        what="One weight matrix keeps its random initialisation.",
        source="`Some weights were newly initialized`: a key of another name, and a warning unread",
        changes=_after_loading(
            "name = sorted(name for name, value in model.named_parameters() if value.dim() > 1)[-1]",
            "seeded = torch.Generator().manual_seed(0)",
            "nn.init.normal_(model.get_parameter(name), std=0.05, generator=seeded)",
        ),
    ),
    _fault(
        name="norm_left_at_one",
        what="One norm keeps the weight 1 that it is initialised with.",
        source="`gamma` for `weight`: keys that loaders rename in some models and not in others",
        changes=_after_loading(
            "name = sorted(name for name, value in model.named_parameters() if 'norm.weight' in name)[-1]",
            "model.get_parameter(name).fill_(1)",
        ),
    ),
    _fault(
        name="untied_weights_tied",
        what="The output embedding is tied to the input embedding against the configuration.",
        source="tie_word_embeddings defaults to True in some configurations and to False in others",
        changes=_after_loading("model.get_output_embeddings().weight = model.get_input_embeddings().weight"),
    ),
    _fault(
        name="layers_in_the_wrong_order",
        what="Two layers have each other's weights.",
        source="a porter's slip: names sorted as text put layer 10 before layer 2",
        changes=_after_loading(
            "layers = next(module for module in model.modules() if isinstance(module, nn.ModuleList))",
            "layers[0], layers[1] = layers[1], layers[0]",
        ),
    ),
    _fault(
        name="square_weights_transposed",
        what="Weights of linear layers are transposed, which square ones do not resent.",
        source="a porter's slip: Conv1D and JAX checkpoints store [in, out]",
        changes=_after_loading(
            "for value in model.parameters():",
            "    if value.dim() == 2 and value.shape[0] == value.shape[1]:",
            "        value.data = value.data.t().contiguous()",
        ),
    ),
    _fault(
        name="gate_and_up_swapped",
        what="The gate of an MLP or expert takes the part of its up projection, and the other way round.",
        source="fused gate_up weights are stored in either order: Mixtral's w1 and w3",
        changes=(
            *rewrite(
                f"{_LLAMA}:LlamaMLP.forward",
                call("down_proj"),
                argument(1),
                to="self.act_fn(self.up_proj(x)) * self.gate_proj(x)",
            ),
            *rewrite(f"{_MIXTRAL}:MixtralExperts.forward", assignment("gate"), to="it\ngate, up = up, gate"),
        ),
    ),
    _fault(
        name="rope_theta_forgotten",
        what="The base of the rotary frequencies is 10,000, not the configuration's (ref-moe: 1,000,000).",
        source="vLLM pull request 998 (CodeLlama); the key moved into rope_parameters in transformers 5",
        changes=tuple(
            change
            for module in (f"{_LLAMA}:Llama", f"{_MIXTRAL}:Mixtral")
            for change in rewrite(
                f"{module}RotaryEmbedding.compute_default_rope_parameters", value("base"), to="10000.0"
            )
        ),
    ),
    _fault(
        name="norm_epsilon",
        what="The norm's epsilon is 1e-5 in place of the configuration's 1e-6 (ref-llama's).",
        source="Llama 1 has 1e-6 and Llama 2 has 1e-5: ports that fix one of them",
        changes=rewrite(f"{_LLAMA}:LlamaRMSNorm.forward", mention("variance_epsilon"), to="1e-5"),
    ),
    _fault(
        name="another_attention_implementation",
        what="The model is loaded with torch's fused attention in place of eager attention.",
        source="sdpa is what transformers chooses where nothing is said",
        changes=rewrite(_LOADING, call("from_pretrained"), argument("attn_implementation"), to="'sdpa'"),
        options=("--mx-attention",),
    ),
    _fault(
        name="another_experts_implementation",
        what="Experts run as grouped products, which gather the weights and show no plain linear call.",
        source="grouped_mm is what transformers 5 chooses where nothing is said",
        changes=rewrite(
            "mxcheck.models.zoo.load:load", call("set_experts_implementation"), argument(1), to="'grouped_mm'"
        ),
    ),
    _fault(
        name="outliers_forgotten",
        what="The model with outliers comes without (of the reference models outlier-llama has any).",
        source="a porter's slip: a rewrite of the weights that a new loading path leaves out",
        changes=rewrite("mxcheck.models.zoo.load:load", condition("outliers"), to="False"),
    ),
    _fault(
        name="tokenizer_of_another_version",
        what="The tokenizer's file is another one: it was written anew, with another order of its keys.",
        source="save_pretrained rewrites tokenizer.json in the layout of the day's tokenizers library",
        changes=rewrite(
            "mxcheck.models.zoo.tokenizer_files:tokenizer_fingerprint",
            value("data"),
            to="json.dumps(json.loads(it), sort_keys=True).encode()",
        ),
    ),
    _fault(
        name="tokens_of_another_model",
        what="Every model is measured on the text that was sampled from ref-llama.",
        source="a porter's slip: one cached token file for all models of one vocabulary size",
        changes=rewrite(
            "mxcheck.measure.evaluation_tokens:own_tokens_path",
            call("model_source"),
            argument(1),
            to="'ref-llama'",
        ),
    ),
    _fault(
        name="tokens_cut_short",
        what="The last token of every sequence is cut off.",
        source="a porter's slip: a length that was counted with BOS and cut without it",
        changes=rewrite(
            "mxcheck.measure.evaluation_tokens:_own", call("contiguous"), to="it[:, :-1].contiguous()"
        ),
    ),
)
