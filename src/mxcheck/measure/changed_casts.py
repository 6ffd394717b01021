"""Ask the oracle which is wrong where a named kernel gives other bits than the accepted ones.

A kernel may be exact on the `quick` cells, whose inputs are limited, and wrong on a weight. So it casts the
changed operand again (the weight; for activations the fixed probe), and the oracle decides whether the kernel
or the accepted record is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from mxcheck.gate.check import Check, check, some
from mxcheck.gate.held_casts import KERNEL_OPERANDS
from mxcheck.gate.record import Record
from mxcheck.measure.model_session import ModelSession

if TYPE_CHECKING:
    from torch import Tensor

    from mxcheck.formats.spec import CastSpec
    from mxcheck.kernels.api import Kernel

#: Elements to compare while the oracle agrees; one operand is compared in any case.
MOST = 1 << 24
#: Most elements of a block that is shown.
LONGEST = 128


def changed_casts(session: ModelSession, record: Record, accepted: Record) -> Iterator[Check]:
    """Check that the kernel gives the oracle's bits for operands of the modules whose digests changed. Yields
    one check; none if no kernel was named, the weights are others, or none of these modules casts by it.

    The record's model is resident.
    """
    from mxcheck.kernels.api import resolve_kernel
    from mxcheck.kernels.grown import growing

    asked = record.asked_kernel
    same_weights = record.fingerprints["weights"] == accepted.fingerprints["weights"]
    if asked is None or asked.wrong or not same_weights or record.recipe != accepted.recipe:
        return
    kernel, compared, met = resolve_kernel(asked.name)[0], 0, list[str]()
    for words, x, spec, probed in _operands(session, record, accepted):
        if compared and compared + x.numel() > MOST:
            continue
        with growing() if probed else nullcontext():
            wrong = _wrong(asked.name, kernel, x, spec)
        if wrong:
            yield check(KERNEL_OPERANDS, False, f"the kernel {asked.name} is wrong of {words}: {wrong}")
            return
        compared, met = compared + x.numel(), [*met, words]
    if met:
        weights = any(words.startswith("weights") for words in met)
        who = "the accepted record is" if weights else "the accepted record, or another input of products, is"
        on = f"{compared:,} values of {some(met)}"
        words = f"the oracle agrees with the kernel {asked.name} on {on}: {who} wrong"
        yield check(KERNEL_OPERANDS, True, words)


def _operands(
    session: ModelSession, record: Record, accepted: Record
) -> Iterator[tuple[str, Tensor, CastSpec, bool]]:
    """Yield changed operands: in words, their values, their casts, and whether they are the probe."""
    import torch

    from mxcheck.models.conversion.classify import reduction_axis, weight_parameters
    from mxcheck.models.conversion.probe import ROWS, probe
    from mxcheck.models.recipes.ladder import BF16

    recipe = session.measuring.recipe_of(record.case)
    modules = dict(session.resident(record.case.model).loaded.model.named_modules())
    for name, now in record.digests.items():
        then = accepted.digests.get(name, {})
        changed = {kind for kind in now.keys() | then.keys() if now.get(kind) != then.get(kind)}
        if not changed or name not in modules or name not in record.replaced:
            continue
        module, casts = modules[name], recipe.roles[record.replaced[name]]
        axis = reduction_axis(module)
        for key in weight_parameters(module):
            weight = module.get_parameter(key).detach()
            if changed != {"operands"} and casts.weights is not None and casts.weights.format != BF16:
                yield f"weights of {name}", weight, casts.weights.spec(axis=axis), False
            if casts.activations is not None and casts.activations.format != BF16:
                dtype = weight.dtype if casts.activations.is_exact_in_16_bits else torch.float32
                x = probe(ROWS, weight.shape[axis]).to(weight.device, dtype)
                words = f"the fixed probe as activations of {name}"
                yield words, x, casts.activations.spec(axis=-1), True


def _wrong(name: str, kernel: Kernel, x: Tensor, spec: CastSpec) -> str:
    """Return how a kernel's codes and scales, or values, of x differ from the oracle's, with the first wrong
    block; empty if they do not."""
    from torch import Tensor

    from mxcheck.formats.oracle import dequantize_array, quantize_array
    from mxcheck.kernels.api import cast_with

    result = cast_with(x, spec, kernel)
    codes, scales, *rest = quantize_array(x.float().cpu().numpy(), spec)
    if isinstance(result, Tensor):
        values = dequantize_array(codes, scales, spec, *rest)
        return _differing("value", result, values, x, spec, name)
    parts = (("tensor scale", result.tensor_scale, rest[0] if rest else None),)
    for what, got, expected in (*parts, ("scale", result.scales, scales), ("code", result.codes, codes)):
        if got is not None and (wrong := _differing(what, got, expected, x, spec, name)):
            return wrong
    return ""


def _differing(what: str, got: Tensor, expected: object, x: Tensor, spec: CastSpec, name: str) -> str:
    import torch

    from mxcheck.formats.notation import reproduction

    right = torch.as_tensor(expected).to(got.dtype)
    found = got.detach().cpu()
    same = (found == right) & (found.signbit() == right.signbit()) | (found != found) & (right != right)
    if same.all():
        return ""
    at = tuple(int(index[0]) for index in torch.nonzero(~same, as_tuple=True))
    shown = [
        f"{int(one[at]):02x}" if one.dtype == torch.uint8 else f"{float(one[at])!r}" for one in (found, right)
    ]
    words = (
        f"{int((~same).sum()):,} of {same.numel():,} {what}s differ; the first, {[*at]}: got {shown[0]}, the "
        f"oracle has {shown[1]}"
    )
    if not at:
        return words
    axis = spec.axis % x.dim()
    row = x.movedim(axis, -1)[(*at[:axis], *at[axis + 1 :])]
    size = spec.block_size or len(row)
    place = at[axis] if what == "scale" else at[axis] // size
    block = row[place * size : (place + 1) * size].detach().float().cpu().numpy()
    if len(block) > LONGEST:
        return words
    dtype = str(x.dtype).removeprefix("torch.")
    shown_as = reproduction(block[None], replace(spec, axis=-1), dtype=dtype, kernel=name)
    return f"{words}; its block: {shown_as}"
