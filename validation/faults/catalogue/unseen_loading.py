"""Faults of loading, written before any run searched for them."""

from __future__ import annotations

from functools import partial

from validation.faults.fault import Fault, Rewrite, rewrite
from validation.faults.fault_place import argument, call, mention, statement, value

_fault = partial(Fault, group="loading", formats=(), unseen=True)
_NEO = ("--mx-models", "ref-neo")


def _after_loading(*lines: str) -> tuple[Rewrite]:
    """Run statements on the loaded `model` before its fingerprint is taken."""
    return rewrite(
        "mxcheck.models.zoo.load:load", call("check_finite"), statement(), to="\n".join(("it", *lines))
    )


FAULTS: tuple[Fault, ...] = (
    _fault(
        name="exact_gelu",
        what="GELU is computed by the error function where the configuration names its tanh form (ref-neo).",
        source="gelu, gelu_new and gelu_pytorch_tanh: ports that know one of them",
        changes=_after_loading(
            "for module in model.modules():",
            "    if type(module).__name__ == 'NewGELUActivation':",
            "        module.forward = nn.functional.gelu",
        ),
        options=_NEO,
    ),
    _fault(
        name="local_window_one_wider",
        what="A local attention layer sees one token more than its window has (ref-neo).",
        source="transformers issue 39408: whether a window counts the token itself",
        changes=_after_loading(
            "for module in model.modules():",
            "    if type(module).__name__ == 'GPTNeoSelfAttention' and module.attention_type == 'local':",
            "        causal = torch.ones_like(module.bias).tril()",
            "        module.bias.copy_(causal ^ causal.tril(-model.config.window_size - 1))",
        ),
        options=_NEO,
    ),
    _fault(
        name="positions_start_at_one",
        what="The learned embedding of positions is read one place on (ref-neo).",
        source="OPT's embedding of positions has an offset of 2, GPT's has none",
        changes=rewrite(
            "transformers.models.gpt_neo.modeling_gpt_neo:GPTNeoModel.forward",
            call("wpe"),
            argument(1),
            to="(it + 1).clamp(max=self.wpe.num_embeddings - 1)",
        ),
        options=_NEO,
    ),
    _fault(
        name="last_bias_not_loaded",
        what="One bias keeps the zeros that it is initialised with (ref-neo).",
        source="gpt-fast issue 108: biases of quantized layers are missing keys",
        changes=_after_loading(
            "name = sorted(name for name, value in model.named_parameters() if name.endswith('bias'))[-1:]",
            "for one in name:",
            "    model.get_parameter(one).zero_()",
        ),
        options=_NEO,
    ),
    _fault(
        name="weights_through_fp16",
        what="Weights pass through fp16, in which small ones are subnormal and lose bits.",
        source="checkpoints in bf16 that are saved again by a tool whose default is fp16",
        changes=_after_loading(
            "for value in model.parameters():",
            "    value.data = value.data.half().to(value.dtype)",
        ),
    ),
    _fault(
        name="experts_in_another_order",
        what="Two stacked experts have each other's weights, while the router keeps its order.",
        source="names sorted as text put experts.10 before experts.2 when they are stacked",
        changes=_after_loading(
            "for value in model.parameters():",
            "    if value.dim() == 3:",
            "        value.data = value.data[[1, 0, *range(2, len(value))]].contiguous()",
        ),
    ),
    _fault(
        name="loading_type_ignored",
        what="The model is loaded in float32 whatever type was asked for.",
        source="torch_dtype became dtype in transformers: the old name is passed over in places",
        changes=rewrite(
            "mxcheck.models.zoo.load:load", call("_from_pretrained"), argument(2), to="source.dtype"
        ),
        options=("--mx-dtype", "bf16"),
    ),
    _fault(
        name="outliers_left_in_the_last_reader",
        what="Outlier channels are not taken back in the last matrix that reads them (outlier-llama).",
        source="SmoothQuant's migration, in which each reader of a norm has to be found",
        changes=rewrite(
            "mxcheck.models.zoo.outliers:add_outliers",
            mention("readers"),
            to="it[: max(1, len(it) - 1)]",
        ),
        options=("--mx-models", "outlier-llama"),
    ),
    _fault(
        name="rotary_stretched_to_the_first_length",
        what="Rotary frequencies are scaled so that a pass of another length spans the angles of the first.",
        source="dynamic scaling keeps frequencies from the first call, whose length they were made for",
        changes=rewrite(
            "transformers.models.llama.modeling_llama:LlamaRotaryEmbedding.forward",
            value("freqs"),
            to="it * (self.__dict__.setdefault('first', position_ids.shape[-1]) / position_ids.shape[-1])",
        ),
    ),
    _fault(
        name="first_half_loaded_twice",
        what="The second half of key projections, and of fused gates, holds the first half again.",
        source="a porter's slip: shards of one matrix by rank, where both read the shard of rank 0",
        changes=_after_loading(
            "for name, value in model.named_parameters():",
            "    if 'gate_up' in name or name.endswith('k_proj.weight'):",
            "        half = value.shape[-2] // 2",
            "        value.data[..., half : 2 * half, :] = value.data[..., :half, :].clone()",
        ),
    ),
)
