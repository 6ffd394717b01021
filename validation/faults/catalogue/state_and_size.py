"""Faults of state and size: casts that are right for the first calls and small inputs, and wrong for others.

`callers.py` has the faults of slices and of callers that share state.
"""

from __future__ import annotations

from functools import partial

from validation.faults.fault import Fault, rewrite
from validation.faults.fault_place import argument, assignment, call, function, returned, value

_fault = partial(Fault, group="state and size", formats=("fp8_e4m3",), precisions=("mxfp8_e4m3",))
_of_models = partial(_fault, formats=())
_LINEAR = "mxcheck.models.conversion.linear:ConvertedLinear"
_ATTENTION = "mxcheck.models.conversion.attention:ConvertedAttention"
_PRODUCT = "mxcheck.models.conversion.product_hooks:LinearCast.__torch_function__"
_CAST = "mxcheck.kernels.eager:fake_quantize_eager"
_UNCAST_END = "torch.cat([it.flatten()[:{0}], x.detach().flatten()[{0}:]]).view(x.shape)"


FAULTS: tuple[Fault, ...] = (
    _of_models(
        name="activations_skipped_after_100_calls",
        what="A module casts its activations at its first 100 calls, and no more.",
        source="a porter's slip: a warm-up counter that guards the cast and not only its calibration",
        changes=rewrite(
            f"{_LINEAR}.activate", function("forward"), call("cast"), to="x if self.calls >= 100 else it"
        ),
    ),
    _fault(
        name="values_wrong_after_5000_calls",
        what="After 5,000 calls fake quantization gives its input back.",
        source="a porter's slip: a pool of workspaces that runs dry, and a fallback that does nothing",
        changes=rewrite(
            "mxcheck.kernels.api:fake_quantize_with",
            assignment("result"),
            to="count = check_values.__dict__.setdefault('count', [0])\n"
            "count[0] += 1\n"
            "if count[0] > 5000:\n"
            "    return x.clone()\n"
            "it",
        ),
    ),
    _fault(
        name="large_tensors_cut_off",
        what="Elements after the first 2^20 of a tensor are not cast.",
        source="a porter's slip: a grid that is bounded by what was once the largest shape",
        changes=rewrite(
            _CAST,
            returned(nth=2),
            to=f"it if x.numel() <= 1 << 20 else {_UNCAST_END.format('1 << 20')}",
        ),
    ),
    _fault(
        name="last_block_lost_at_two_threads",
        what="Where torch has more than one thread, the last 32 elements of a tensor are not cast.",
        source="a porter's slip: a range divided by the number of threads, its remainder forgotten",
        changes=rewrite(
            _CAST,
            returned(nth=2),
            to=f"it if torch.get_num_threads() == 1 else {_UNCAST_END.format('-32')}",
        ),
    ),
    _of_models(
        name="kernel_ignored_for_activations",
        what="Weights are cast by the kernel that the run names, activations by ours.",
        source="a porter's slip: an option that reaches the conversion and not the calls",
        changes=rewrite(f"{_LINEAR}.__init__", value("self.cast"), argument(2), to="'eager'"),
        # ours by another name: the bits alone do not identify it
        options=("--mx-kernel", "mxcheck.kernels.eager:quantize_eager"),
    ),
    _of_models(
        name="bf16_activations_left_uncast",
        what="The cast gives a bfloat16 activation back as it is.",
        source="a porter's slip: an early return for what has 16 bits already",
        changes=rewrite(
            "mxcheck.models.conversion.casts:activation_cast",
            function("cast"),
            returned(),
            to="x if x.dtype == torch.bfloat16 else it",
        ),
    ),
    _of_models(
        name="products_take_bf16_activations_uncast",
        what="In a model that is loaded in bfloat16 activations enter the products uncast.",
        source="a porter's slip: a path for 16-bit products beside that for fp32 ones",
        changes=rewrite(_PRODUCT, call("set"), argument(2), to="x if x.dtype == torch.bfloat16 else it"),
        options=("--mx-dtype", "bf16"),
    ),
    _of_models(
        name="measured_in_training_mode",
        what="The model is measured in training mode; no reference model has dropout, which would tell.",
        source="a porter's slip: model.train() after a call of eval() elsewhere",
        changes=rewrite("mxcheck.evaluation.measure:_evaluating", call("eval"), to="model.train()"),
    ),
    _of_models(
        name="loaded_in_training_mode",
        what="The loader leaves the model in training mode, in which the evaluation alone does not run it.",
        source="a porter's slip: a model built from its configuration is in training mode",
        changes=rewrite("mxcheck.models.zoo.load:load", call("eval"), to="model.train()"),
    ),
    _of_models(
        name="queries_cast_along_the_tokens",
        what="The first operand of both attention products is cast in blocks along its tokens.",
        source="a porter's slip: one cast along -2 for both operands, as for the second",
        changes=rewrite(f"{_ATTENTION}.__init__", value("self.first"), argument("axis"), to="-2"),
        options=("--mx-attention",),
    ),
    _of_models(
        name="axis_of_an_operand_ignored",
        what="Every operand that is cast at a call is cast along its last axis.",
        source="a porter's slip: an argument with a default that is not handed on",
        changes=rewrite(
            "mxcheck.models.conversion.casts:activation_cast", value("spec"), argument("axis"), to="-1"
        ),
        options=("--mx-attention",),
    ),
)
