"""Check that a model stays inside the domain of its kernel, as far as that is known before it is loaded.

Formats, rules, roundings and block sizes are the recipe's; the dtype is that in which the model is loaded;
the shapes of weights follow from its configuration, and those of activations also from the number of
sequences and the length of the text. What only a pass can tell (the rows of an expert, or of a head that is
multiplied piece by piece; the shapes within attention) is passed to the kernel, which may refuse it then. A
learned domain is only a hint: the kernel is called with such an input to confirm it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from mxcheck.gate.case import Case
from mxcheck.kernels.registry import OWN
from mxcheck.measure.evaluation_tokens import has_own_tokens, own_tokens_path
from mxcheck.measure.kernel_check import check_named, model_kernel
from mxcheck.measure.made_for import made_for, other_options, says_no
from mxcheck.models.zoo.footprint import text_shape
from mxcheck.models.zoo.known_models import model_source
from mxcheck.run.measurement_settings import DEFAULT_LENGTH, Measuring

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from mxcheck.kernels.api import Kernel
    from mxcheck.kernels.domain import Domain
    from mxcheck.models.recipes.recipe import Operand, Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """An input that a kernel will get. `rows_known`: whether its leading sizes are the case's."""

    what: str
    shape: tuple[int, ...]
    dtype: str
    operand: Operand
    axis: int = -1
    rows_known: bool = True


def check_kernel_domain(measuring: Measuring, case: Case, recipe: Recipe, device: str = "cpu") -> None:
    """Refuse a case whose casts or shapes lie outside the domain that its kernel declares; or, if it declares
    none, outside the learned domain, and the kernel itself refuses them.

    Raises:
        ValueError: it is refused; with the kernel, the case, the module, the input and the domain.
    """
    from mxcheck.kernels.domain import domain_of
    from mxcheck.models.recipes.ladder import BF16

    operands = [one for one in recipe.operands if one.format != BF16]
    check_named(recipe)
    if not operands or recipe.kernel in OWN:
        return
    kernel = model_kernel(recipe)
    declared = domain_of(kernel)
    limits = {one: made_for(kernel, one.spec(axis=-1), device) for one in operands}
    for operand in operands:
        if declared is not None and (why := declared.refuses_cast(operand.spec(axis=-1))):
            way_out = other_options(kernel, operand.spec(axis=-1), device)
            raise ValueError(
                f"kernel {recipe.kernel} is not made for {case.precision}: it has {why}; it is made for "
                f"{declared.words}; {way_out or 'name the cases that it does with --mx-precision'}"
            )
    source = model_source(measuring.name_of(case.model))
    dtype = measuring.dtype or source.dtype
    dtypes = {dtype, *(_dtype_at_a_call(one, dtype) for one in operands)}
    if all(_takes_any_shape(one, dtypes) for one in limits.values()):
        return
    model = _unloaded(source.name, dtype, case.model in measuring.trusted)
    for one in _asked(measuring, case, recipe, model, dtype):
        if one.operand.format == BF16 or not (why := _refusal(limits[one.operand], one)):
            continue
        verb = "has" if why.startswith("no ") else "needs"
        learned = ""
        if declared is None:
            if not (said := _own_word(kernel, limits[one.operand], one, device)):
                continue
            learned = (
                f" (learned; here it says {said}); name models that it takes with --mx-models, and declare "
                f"what it is made for: {limits[one.operand].decorator}"
            )
        raise ValueError(
            f"kernel {recipe.kernel} is not made for {case.model}: {one.what} are {one.dtype} "
            f"{[*one.shape]}, cast along axis {one.axis}; it {verb} {why}{learned}"
        )


@lru_cache(maxsize=1)
def _unloaded(name: str, dtype: str, trusted: bool) -> PreTrainedModel:
    from mxcheck.models.zoo.load import unloaded

    return unloaded(name, dtype=dtype, trust_remote_code=trusted)


def _dtype_at_a_call(operand: Operand, dtype: str) -> str:
    """Return the dtype of what is cast at a call in a model of `dtype`: fp32 where 16 bits do not hold the
    result."""
    return dtype if operand.is_exact_in_16_bits else "float32"


def _takes_any_shape(limits: Domain, dtypes: set[str]) -> bool:
    """Return whether nothing need be checked for a model whose operands have these dtypes."""
    from mxcheck.kernels.domain import DTYPES, Domain

    casts = replace(limits, formats=None, scale_rules=None, roundings=None, nonfinite=None, block_sizes=None)
    of_all = all(DTYPES[dtype] in limits.dtypes for dtype in dtypes)
    return of_all and replace(casts, dtypes=Domain().dtypes) == Domain()


def _own_word(kernel: Kernel, limits: Domain, one: _Asked, device: str) -> str:
    """Return the refusal, by a kernel without a declared domain, of an input outside of its learned one;
    empty if it accepts it."""
    from mxcheck.conformance.cases.inside import rows_of

    shape = one.shape if one.rows_known else (rows_of(1, limits), one.shape[one.axis])
    spec = one.operand.spec(axis=one.axis if one.rows_known else -1)
    return says_no(kernel, shape, one.dtype, spec, device)


def _of_any_rows(limits: Domain) -> Domain:
    return replace(limits, least_rows=1, most_rows=None, rows_multiple=1, ranks=None)


def _refusal(limits: Domain, one: _Asked) -> str:
    import torch

    from mxcheck.kernels.domain import DTYPES

    x = torch.empty(one.shape, dtype=DTYPES[one.dtype], device="meta")
    within = limits if one.rows_known else _of_any_rows(limits)
    return within.refuses(x, one.operand.spec(axis=one.axis))


def _asked(
    measuring: Measuring, case: Case, recipe: Recipe, model: PreTrainedModel, dtype: str
) -> Iterator[_Asked]:
    """Yield, module by module, the inputs: its weights, and its activations in each batch."""
    from mxcheck.models.conversion.classify import (
        classify,
        expert_parameters,
        reduction_axis,
        weight_parameters,
    )

    batches = list(_batches(measuring, case, recipe, model))
    modules = dict(model.named_modules())
    for name, role in classify(model).items():
        if role not in recipe.roles:
            continue
        module, casts = modules[name], recipe.roles[role]
        axis = reduction_axis(module)
        shapes = [tuple(module.get_parameter(key).shape) for key in weight_parameters(module)]
        for shape in shapes:
            if casts.weights is not None:
                yield _Asked(
                    what=f"weights of {name}", shape=shape, dtype=dtype, operand=casts.weights, axis=axis
                )
        if casts.activations is None:
            continue
        # an expert gets the rows routed to it; a head may be multiplied with a part of the text at a time
        known = role in ("mlp", "attention", "other") and not expert_parameters(module)
        for batch in batches:
            for shape in shapes:
                widths = {"activations": shape[axis]}
                if recipe.outputs:
                    widths["results"] = shape[-3 - axis]
                for what, width in widths.items():
                    yield _Asked(
                        what=f"{what} of {name}",
                        shape=(*batch, width),
                        dtype=_dtype_at_a_call(casts.activations, dtype),
                        operand=casts.activations,
                        rows_known=known,
                    )
    if recipe.elementwise is not None:
        width = int(model.config.get_text_config().hidden_size)
        for batch in batches:
            yield _Asked(
                what="results of norms", shape=(*batch, width), dtype=dtype, operand=recipe.elementwise
            )


def _batches(
    measuring: Measuring, case: Case, recipe: Recipe, model: PreTrainedModel
) -> Iterator[tuple[int, int]]:
    """Yield [sequences, length] of the passes over the text; of the last one too where it is known."""
    together = recipe.sequences_a_pass or measuring.batch_size_of(case.model)
    sequences, length = _text_of(measuring, case.model, model)
    if sequences is None:
        yield together, length
        return
    yield min(together, sequences), length
    if sequences > together and sequences % together:
        yield sequences % together, length


def _text_of(measuring: Measuring, label: str, model: PreTrainedModel) -> tuple[int | None, int]:
    """Return the number of sequences of the text, where known, and the tokens of each."""
    from mxcheck.models.zoo.load import positions

    source = model_source(measuring.name_of(label))
    if has_own_tokens(measuring, label):
        there = text_shape(own_tokens_path(measuring, label))
        if there is not None:
            return min(there[0], measuring.max_samples), measuring.sequence_length or there[1]
    limit, usual, sequences = positions(model.config.get_text_config()), DEFAULT_LENGTH, None
    if measuring.corpus.is_self and source.text is not None:
        usual, sequences = source.text.length, min(source.text.sequences, measuring.max_samples)
    elif source.card is not None:
        usual = source.card.sequence_length
    return sequences, measuring.sequence_length or min(limit or usual, usual)
