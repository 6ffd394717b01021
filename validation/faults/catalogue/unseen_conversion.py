"""Faults of the conversion, written before any run searched for them."""

from __future__ import annotations

from functools import partial

from validation.faults.fault import Fault, Rewrite, rewrite
from validation.faults.fault_place import (
    argument,
    assignment,
    call,
    condition,
    function,
    returned,
    statement,
    value,
)

_fault = partial(Fault, group="conversion", formats=(), unseen=True)
_LINEAR = "mxcheck.models.conversion.linear:ConvertedLinear"
_ACTIVATION = "mxcheck.models.conversion.casts:activation_cast"
_WEIGHT = "mxcheck.models.conversion.casts:cast_weight"


FAULTS: tuple[Fault, ...] = (
    _fault(
        name="rounding_of_weights_ignored",
        what="The rounding that was asked for holds for activations; weights are rounded to even.",
        source="weights are quantized offline, by another tool with options of its own",
        changes=rewrite(
            _WEIGHT,
            assignment("spec"),
            to="from dataclasses import replace\n\nit\nspec = replace(spec, rounding='even')",
        ),
        options=("--mx-rounding", "away"),
    ),
    _fault(
        name="activations_of_odd_layers_not_cast",
        what="Activations are cast in every other decoder layer.",
        source="a porter's slip: two buffers that alternate, of which one is filled",
        changes=rewrite(
            f"{_LINEAR}.__init__",
            assignment("self.cast"),
            to="it\n"
            "layers = [int(part) for part in name.split('.') if part.isdecimal()]\n"
            "if layers and layers[0] % 2:\n"
            "    self.cast = activation_cast(None, recipe.kernel)",
        ),
    ),
    _fault(
        name="last_module_gets_its_weights_back",
        what="The last module's quantized weights are made and counted, and its own put back at once.",
        source="a porter's slip: clean-up of a loop's last item, by a variable that still names it",
        changes=rewrite(
            "mxcheck.models.conversion.convert:Conversion._activate",
            assignment("self._active"),
            to="it\n"
            "for part in list(self.modules.values())[-1:]:\n"
            "    getattr(part, '_quantized', {}).update(getattr(part, '_originals', {}))",
        ),
    ),
    _fault(
        name="cast_kept_by_its_first_elements",
        what="A cast is kept for the shape and first elements of its input, which are BOS's in every batch.",
        source="query, key and value projections share an input: caches that spare two of three casts",
        changes=(
            Rewrite(target=_ACTIVATION, at=(assignment("function"),), to="it\nkept = {}"),
            Rewrite(
                target=_ACTIVATION,
                at=(function("cast"),),
                to="key = (x.shape, x.flatten()[:8].tolist())\n"
                "if kept.get('key') != key:\n"
                "    with undisturbed('cast'):\n"
                "        kept.update(key=key, values=fake_quantize_with(x, spec, function))\n"
                "return kept['values'].clone()",
            ),
        ),
    ),
    _fault(
        name="library_bias_added_twice",
        what="The bias is added to a library's product, which has added it (of the reference models only"
        " ref-neo has any).",
        source="a porter's slip: of two libraries one takes the bias and the other does not",
        changes=rewrite(
            "mxcheck.models.conversion.linear:LibraryLinear.activate",
            function("forward"),
            call("forward"),
            to="it if self.module.bias is None else it + self.module.bias",
        ),
        options=("--mx-models", "ref-neo"),
        precisions=("bnb_int8",),
    ),
    _fault(
        name="results_cast_over_tokens",
        what="Results of linear products are cast in blocks of tokens, not of features.",
        source="a porter's slip: a result that is stored transposed, as values of a cache are",
        changes=rewrite(
            f"{_LINEAR}.__init__",
            value("self.result"),
            call("activation_cast"),
            to="activation_cast(casts.activations, recipe.kernel, axis=-2)",
        ),
        options=("--mx-quantize-outputs",),
    ),
    _fault(
        name="softmax_cast_over_queries",
        what="Where softmax is cast too, its blocks run over queries, not over keys.",
        source="a porter's slip: probabilities laid out for the second product",
        changes=rewrite(
            "mxcheck.models.conversion.elementwise:_Operations.__torch_function__",
            returned(nth=2),
            to="self._cast(result.mT).mT if func in _SOFTMAX else it",
        ),
        options=("--mx-global", "fp8_e4m3"),
    ),
    _fault(
        name="small_passes_not_cast",
        what="An activation of fewer than 32 rows is not cast.",
        source="decode paths whose matrix-vector kernels take 16-bit activations",
        changes=rewrite(
            _ACTIVATION,
            function("cast"),
            to="if x.numel() < 32 * x.shape[-1]:\n    return x\nit",
        ),
    ),
    _fault(
        name="first_token_not_cast",
        what="Activations of the first token of each sequence are not cast.",
        source="recipes that keep the attention sink in 16 bits, taken for the plain recipe",
        changes=rewrite(
            "mxcheck.models.conversion.product_hooks:LinearCast.__torch_function__",
            call("set"),
            argument(2),
            to="it if x.dim() != 3 else torch.cat((x[:, :1].to(it.dtype), it[:, 1:]), 1)",
        ),
    ),
    _fault(
        name="biases_not_counted",
        what="The bytes of the weights leave out the biases of converted modules (ref-neo's).",
        source="sizes that are computed from shapes of matrices",
        changes=rewrite(
            "mxcheck.models.conversion.convert:_weight_bytes",
            condition("quantized"),
            to="it and not (quantized and key == 'bias')",
        ),
        options=("--mx-models", "ref-neo"),
    ),
    _fault(
        name="mixed_ignores_the_block_size",
        what="A mixed tier has blocks of 32 under the name of another block size.",
        source="a porter's slip: an option handed on to one format, where a recipe has two",
        changes=rewrite(
            "mxcheck.run.ladder_cases:changed_recipe", value("chosen"), to="it and name != 'mixed'"
        ),
        options=("--mx-block-size", "16"),
        precisions=("mixed",),
    ),
    _fault(
        name="wide_weights_in_bf16",
        what="In a bf16 model the values of a weight whose scale is no power of two are rounded to bf16.",
        source="compressed checkpoints that are decoded into the model's own type",
        changes=rewrite(
            _WEIGHT,
            call("dequantize"),
            to="it if operand.is_exact_in_16_bits else quantized.dequantize(weight.dtype).float()",
        ),
        options=("--mx-dtype", "bf16"),
        precisions=("nvfp4",),
    ),
    _fault(
        name="second_conversion_from_the_first",
        what="A weight is cast from what the conversion before it left, where that was of the same module.",
        source="torchao and others: quantize_ of a model that is quantized already casts the decoded weights",
        changes=rewrite(
            f"{_LINEAR}.__init__",
            call("cast_weight"),
            statement(),
            to="before = module.__dict__.setdefault('cast_before', {})\n"
            "original = before.get(key, original)\n"
            "it\n"
            "before[key] = cast.values",
        ),
    ),
)
