"""Faults of the conversion: the quantized modules, their casts, repetitions, and undo."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import MappingProxyType

from validation.faults.fault import Fault, Setting, rewrite
from validation.faults.fault_place import (
    argument,
    assignment,
    call,
    condition,
    constant,
    function,
    loop,
    mention,
    statement,
    value,
)

_LINEAR = "mxcheck.models.conversion.linear:ConvertedLinear"
_CASTS = "mxcheck.models.conversion.casts"
_CONVERT = "mxcheck.models.conversion.convert:_convert_linears"
_PRODUCT = "mxcheck.models.conversion.product_hooks:LinearCast.__torch_function__"
_fault = partial(Fault, group="conversion", formats=())


FAULTS: tuple[Fault, ...] = (
    _fault(
        name="layer_skipped",
        what="All modules of layer 1 are left out by a word that was to skip something else.",
        source="transformers' llm_int8_skip_modules matches prefixes and patterns: layer 1 takes 10 along",
        changes=rewrite(_CONVERT, value("chosen"), condition("roles"), to="it and '.1.' not in name"),
    ),
    _fault(
        name="last_module_skipped",
        what="The last module of the model is not converted.",
        source="a porter's slip: a range that ends one too early",
        changes=rewrite(_CONVERT, call("ConvertedLinear"), loop(), to="list(it)[:-1]"),
    ),
    _fault(
        name="router_quantized",
        what="The router of a mixture of experts is quantized as a part of its MLP.",
        source="rules by the words of a path: a Mixtral router lies under `mlp`",
        changes=rewrite(
            "mxcheck.models.conversion.classify:classify", call("_role"), to="it.replace('router', 'mlp')"
        ),
    ),
    _fault(
        name="head_quantized",
        what="The output embedding is quantized in a tier that leaves it alone.",
        source="filters that take every nn.Linear (torchao's quantize_ by default) take the head too",
        changes=rewrite("mxcheck.models.conversion.classify:classify", constant("lm_head"), to="'mlp'"),
    ),
    _fault(
        name="tied_embedding_quantized",
        what="Weights are quantized in place, so that a tied input embedding changes with the head.",
        source="a porter's slip: weight.data.copy_() on a shared parameter; only ref-neo is tied",
        changes=(
            *rewrite(
                f"{_LINEAR}.activate",
                assignment("self.module._parameters"),
                to="for key, value in self._quantized.items():\n"
                "    own = self._originals[key]\n"
                "    own.data, value.data = value.data, own.data\n"
                "    self._states[key] = state_of(own)\n"
                "it",
            ),
            *rewrite(
                f"{_LINEAR}.revert",
                call("setattr"),
                statement(),
                to="cast = self._quantized[key]\nvalue.data, cast.data = cast.data, value.data",
            ),
        ),
        # the only reference model whose embedding is the output layer too
        options=("--mx-all-linears", "--mx-models", "ref-neo"),
    ),
    _fault(
        name="bias_dropped",
        what="A quantized linear layer forgets its bias (of the reference models only ref-neo has any).",
        source="a porter's slip: a replacement that is built with bias=False",
        changes=rewrite(
            _PRODUCT,
            condition("_wide"),
            statement(),
            to="call.args = [*call.args[:2], *[None for _ in call.args[2:]]]\nit",
        ),
    ),
    _fault(
        name="bias_quantized",
        what="The bias is cast as the activation is (of the reference models only ref-neo has any).",
        source="microxcaling's Linear rounds the bias too, to its element-wise format",
        changes=rewrite(
            _PRODUCT,
            condition("_wide"),
            statement(),
            to="biases = [b if b is None else self._cast(b) for b in call.args[2:]]\n"
            "call.args = [*call.args[:2], *biases]\n"
            "it",
        ),
    ),
    _fault(
        name="weights_quantized_twice",
        what="A weight is quantized along its output axis, and the result again along its reduction axis.",
        source="a transposed copy made of the quantized weight, not of the original",
        changes=rewrite(
            f"{_CASTS}:cast_weight",
            assignment("quantized"),
            to="other = operand.spec(axis=-2 if axis == -1 else -1)\n"
            "weight = fake_quantize_with(weight, other, resolve_kernel(kernel)[1])\n"
            "it",
        ),
    ),
    _fault(
        name="weights_left_unquantized",
        what="Codes and scales of the weights are made, and the products go on with the original weights.",
        source="a porter's slip: the quantized copy is kept and never put in place",
        changes=rewrite(
            f"{_LINEAR}.__init__", call("Parameter"), argument(1), to="original.detach().clone()"
        ),
    ),
    _fault(
        name="weights_along_the_wrong_axis",
        what="Blocks of a weight run along its first axis in place of the one that the product sums over.",
        source="a porter's slip: [in, out] (Conv1D, JAX) taken for [out, in]",
        changes=rewrite(f"{_CASTS}:cast_weight", value("spec"), argument("axis"), to="0"),
    ),
    _fault(
        name="weights_from_a_stale_cache",
        what="A weight that was cast once is kept, and the next recipe gets it, whatever its format.",
        source="a porter's slip: a cache of quantized weights whose key lacks the format",
        changes=rewrite(
            f"{_LINEAR}.__init__",
            assignment("cast"),
            to="it\ncast = module.__dict__.setdefault(f'_cached_{key}', cast)",
        ),
    ),
    _fault(
        name="activations_skipped",
        what="Weights are quantized and activations are not.",
        source="vLLM falls back to weight-only kernels (Marlin) for FP4 on GPUs without FP4 products",
        changes=rewrite(f"{_LINEAR}.__init__", value("self.cast"), argument(1), to="None"),
    ),
    _fault(
        name="activations_of_the_first_call_only",
        what="Activations are cast when a module is first called, and never again.",
        source="a porter's slip: an `initialized` flag that guards the cast and not only the set-up",
        changes=rewrite(
            f"{_LINEAR}.activate", function("forward"), call("cast"), to="x if self.calls else it"
        ),
    ),
    _fault(
        name="stale_activation_scale",
        what="What a later activation has beyond the largest magnitude of a module's first call saturates.",
        source="delayed scaling (Transformer Engine): the scale comes from earlier calls",
        changes=(
            *rewrite(f"{_CASTS}:activation_cast", to="history: list[Tensor] = []\nit"),
            *rewrite(
                f"{_CASTS}:activation_cast",
                function("cast"),
                call("fake_quantize_with"),
                statement(),
                to="history.append(x.abs().amax())\nx = x.clamp(-history[0], history[0])\nit",
            ),
        ),
    ),
    _fault(
        name="late_tokens_not_cast",
        what="Activations of a sequence's tokens after the 256th are not cast.",
        source="a porter's slip: a grid that covers the rows of the shapes it was tried on",
        changes=rewrite(
            _PRODUCT,
            call("_cast"),
            to="(lambda q, x: torch.cat([q[:, :256], x[:, 256:]], 1) if x.ndim == 3 else q)"
            "(it, call.get(places.first))",
        ),
        # the reference model with a longer text
        options=("--mx-models", "long-llama"),
    ),
    _fault(
        name="outputs_not_cast",
        what="Results of linear products stay as they are where the recipe asks for their cast.",
        source="a porter's slip: the option is read and not handed on",
        changes=rewrite(f"{_LINEAR}.__init__", value("self.result"), to="None"),
        options=("--mx-quantize-outputs",),
    ),
    _fault(
        name="roles_swapped",
        what="In a mixed tier attention gets the MLP's format and the MLP gets attention's.",
        source="a porter's slip: two positional arguments of one type",
        changes=rewrite(
            _CONVERT,
            call("ConvertedLinear"),
            argument(3),
            to="recipe.roles['attention' if role == 'mlp' else 'mlp']",
        ),
        precisions=("mixed",),
    ),
    _fault(
        name="bf16_stage_in_fp16",
        what="The precision bf16 casts the model to float16.",
        source="model.half() for `sixteen bits`, as of many scripts written before bf16",
        changes=rewrite(
            "mxcheck.models.conversion.convert:Conversion._activate", mention("bfloat16"), to="torch.float16"
        ),
    ),
    _fault(
        name="products_in_bf16",
        what="Cast operands, exact in bf16, are multiplied in bf16, so that results are rounded to 8 bits.",
        source="emulations that dequantize to the model's bf16 and call its matrix product",
        changes=rewrite(
            _PRODUCT,
            assignment("result"),
            to="call.args = [a.bfloat16() if isinstance(a, Tensor) else a for a in call.args]\nit",
        ),
    ),
    _fault(
        name="undo_keeps_the_quantized_weights",
        what="Undoing a conversion leaves the quantized weights, from which the next case starts.",
        source="a porter's slip: one model for many recipes, restored from the wrong copy",
        changes=rewrite(f"{_LINEAR}.revert", mention("_originals"), to="self._quantized"),
    ),
    _fault(
        name="undo_leaves_the_forward",
        what="Undoing a conversion leaves the casting forward, and the next one wraps it again.",
        source="a porter's slip: hooks that are registered per run and never removed",
        changes=rewrite(f"{_LINEAR}.revert", call("restore"), statement(), to="pass"),
    ),
    *(
        _fault(
            name=f"{option}_ignored",
            what=f"Weights are cast by the format's own {words}, whatever the recipe says.",
            source="a porter's slip: an option that reaches the activations and not the weights",
            changes=rewrite(
                f"{_CASTS}:cast_weight",
                assignment("spec"),
                to="from dataclasses import replace\n\n"
                f"spec = replace(operand, {option}={own!r}).spec(axis=axis)",
            ),
            options=(f"--mx-{option.replace('_', '-')}", given),
        )
        for option, given, own, words in (
            ("scale_rule", "rceil", None, "scale rule"),
            ("rounding", "away", "even", "rounding"),
            ("block_size", "16", None, "block size"),
        )
    ),
    _fault(
        name="library_without_outliers",
        what="bitsandbytes is told the threshold 0, which takes no outlier column out of the int8 product.",
        source="Linear8bitLt's own default is 0.0, where transformers' configuration says 6.0",
        changes=(
            Setting(
                target="mxcheck.models.backends.backend:LADDER",
                value=lambda ladder: MappingProxyType(
                    {**ladder, "bnb_int8": replace(ladder["bnb_int8"], settings={"threshold": 0.0})}
                ),
            ),
        ),
        precisions=("bnb_int8",),
    ),
)
