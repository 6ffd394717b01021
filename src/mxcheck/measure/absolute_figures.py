"""Measure what is known of a case without a baseline: its operands by the oracle, its errors with random
signs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from mxcheck.gate.absolute_checks import Absolute
from mxcheck.gate.case import Case
from mxcheck.measure.model_session import ModelSession

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from mxcheck.models.conversion.convert import Conversion
    from mxcheck.models.conversion.linear import ConvertedLinear
    from mxcheck.models.conversion.product_hooks import Cast
    from mxcheck.models.recipes.recipe import Operand, Recipe

#: Seeds of the random signs.
SEEDS = (0, 1, 2, 3, 4)
#: Compared rows of each weight, evenly spaced, besides the one with the largest value.
ROWS = 32
#: Positions of a batch whose operands are computed; their compared rows are chosen in the same way, so that
#: faults of only some rows, or only the last ones, are found.
POSITIONS = 512
OPERAND_ROWS = 128
#: Tokens for the test whether a model sees later ones.
CAUSAL = 64


def absolute(session: ModelSession, case: Case) -> Absolute:
    """Measure what a first acceptance asserts. Loads the case's model unless it is resident.

    Raises as `measure_case` does.
    """
    from mxcheck.evaluation.logits import vocabulary_of
    from mxcheck.evaluation.measure import evaluate
    from mxcheck.kernels.grown import growing
    from mxcheck.measure.memory_choice import memory_of
    from mxcheck.models.conversion.convert import convert

    recipe = session.measuring.recipe_of(case)
    resident = session.resident(case.model)
    tokens, reference = resident.text.tokens, resident.reference
    vocabulary = vocabulary_of(resident.loaded.model)
    uniform = math.log(vocabulary)
    known = Absolute(
        of_uniform=reference.entropy / uniform if uniform else 0.0,
        uniform=uniform or math.inf,
        sees_later=sees_later(resident.loaded.model, tokens),
        zeros=zero_matrices(resident.loaded.model),
    )
    if (unknown := _unknown(recipe)) is not None:
        return replace(known, unknown=unknown)
    together = recipe.sequences_a_pass or session.measuring.batch_size_of(case.model)
    conversion = convert(
        resident.loaded.model,
        recipe,
        memory=memory_of(session.measuring.memory, resident.loaded.model, recipe),
    )
    try:
        with growing():  # the pass has few positions
            compared, wrong = compared_with_the_oracle(conversion, tokens[:together])
        signed = []
        for seed in () if wrong else SEEDS:
            progress = session.progress(f"{case.id} signs {seed}", tokens, together)
            with random_signs(conversion, seed):
                found = evaluate(
                    resident.loaded.model, tokens, reference=reference, batch_size=together, progress=progress
                )
            assert found.kl is not None
            signed.append(found.kl)
    finally:
        conversion.undo()
    return replace(known, signed=tuple(signed), compared=compared, wrong=wrong)


def sees_later(model: PreTrainedModel, tokens: Tensor) -> float:
    """Return how far the second half of a sequence's first `CAUSAL` tokens moves the logits of the first
    half, in standard deviations of the logits. A text this short is within every model's original
    positions."""
    import torch

    ids = tokens[:1, :CAUSAL].to(next(model.parameters()).device)
    half = ids.shape[1] // 2
    with torch.inference_mode():
        whole, first = (
            model(input_ids=part, use_cache=False).logits[0, :half].float() for part in (ids, ids[:, :half])
        )
    spread = float(whole.std())
    return float((whole - first).abs().amax()) / spread if spread > 0 else 0.0


def zero_matrices(model: PreTrainedModel) -> tuple[str, ...]:
    """Return the parameters of two or more dimensions whose elements are all zero."""
    return tuple(name for name, value in model.named_parameters() if value.dim() > 1 and not value.any())


def _unknown(recipe: Recipe) -> str | None:
    """Return why mxcheck does not know the errors of a recipe; None if it does."""
    if recipe.library is not None:
        return f"{recipe.library} casts"
    if not recipe.operands:
        return "the recipe has no casts of operands"
    return None


@contextmanager
def _replaced_casts(
    conversion: Conversion, replacement: Callable[[Cast, str, Operand | None, int], Cast]
) -> Iterator[None]:
    from mxcheck.models.conversion.call_casts import call_casts

    before = []
    for one in call_casts(conversion):
        cast = getattr(one.part, one.attribute)
        before.append((one.part, one.attribute, cast))
        setattr(one.part, one.attribute, replacement(cast, one.words, one.operand, one.axis))
    try:
        yield
    finally:
        for part, attribute, cast in before:
            setattr(part, attribute, cast)


@contextmanager
def random_signs(conversion: Conversion, seed: int) -> Iterator[None]:
    """Replace each operand x of the converted model by x + s (q(x) - x) within the context. q is the recipe's
    cast by mxcheck's own code, whatever the conversion uses; s = ±1 for each element.

    Linear modules meanwhile compute their own products, not the conversion's, whose faults are not part of
    this measure. Experts, attention and element-wise operations have no other place for the cast.
    """
    import torch

    from mxcheck.models.conversion.casts import activation_cast
    from mxcheck.models.conversion.linear import ConvertedLinear

    device = next(conversion.model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)

    def turned(x: Tensor, values: Tensor) -> Tensor:
        signs = torch.randint(0, 2, x.shape, generator=generator, device=x.device, dtype=torch.int8)
        return x + (2 * signs.to(values.dtype) - 1) * (values - x)

    def replacement(_cast: Cast, _words: str, operand: Operand | None, axis: int) -> Cast:
        cast = activation_cast(operand, "eager", axis=axis)
        return lambda x: turned(x, cast(x))

    def weights(cast: Cast) -> Callable[[str, Tensor], Tensor]:
        drawn: dict[str, Tensor] = {}  # the generator's state before a weight's signs

        def turned_weight(key: str, original: Tensor) -> Tensor:
            now = generator.get_state()
            generator.set_state(drawn.setdefault(key, now))
            values = turned(original, cast(original))
            if drawn[key] is not now:
                generator.set_state(now)
            return values

        return turned_weight

    with ExitStack() as undo, _replaced_casts(conversion, replacement):
        for name, module in conversion.modules.items():
            assert isinstance(module, ConvertedLinear)
            operand = conversion.recipe.roles[conversion.replaced[name]].weights
            cast = activation_cast(operand, "eager", axis=module.axis)
            undo.enter_context(module.with_weights(weights(cast), own_product=module.is_plain))
            if module.is_plain:
                undo.enter_context(_casting(module))
        yield


@contextmanager
def _casting(module: ConvertedLinear) -> Iterator[None]:
    """Restore a linear module within the context, except that its casts are applied to its input and
    result."""

    def before(
        _: object, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]
    ) -> tuple[tuple[Tensor], dict[str, Tensor]]:
        (x,) = (*args, *kwargs.values())  # called `input` by nn.Linear, `x` by Conv1D
        return (module.cast(x),), {}

    hooks = [module.module.register_forward_pre_hook(before, with_kwargs=True)]
    if module.result is not None:
        hooks.append(module.module.register_forward_hook(lambda _, __, y: module.result(y)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def compared_with_the_oracle(conversion: Conversion, tokens: Tensor) -> tuple[int, dict[str, str]]:
    """Compare operands of a converted model with the oracle: of each weight `ROWS` rows and the one with the
    largest value; of each operand of one pass over `tokens` [sequences, length], at most `POSITIONS` of each
    sequence, `OPERAND_ROWS` rows and that one.

    Returns the number of values compared, and what is wrong by operand.
    """
    import torch

    from mxcheck.evaluation.layer_states import run
    from mxcheck.models.conversion.call_casts import call_casts
    from mxcheck.models.conversion.linear import ConvertedLinear
    from mxcheck.models.conversion.product_hooks import undisturbed

    compared, wrong, met = 0, dict[str, str](), set[str]()

    def compare(words: str, x: Tensor, values: Tensor, operand: Operand | None, axis: int) -> None:
        nonlocal compared
        compared += x.numel()
        met.add(words)
        if words not in wrong and (found := _difference(x, values, operand, axis)):
            wrong[words] = found

    def replacement(cast: Cast, words: str, operand: Operand | None, axis: int) -> Cast:
        def comparing(x: Tensor) -> Tensor:
            values = cast(x)
            with undisturbed("cast"):
                chosen = _rows(x, axis, OPERAND_ROWS)
                before, after = (one.movedim(axis, -1).flatten(0, -2)[chosen] for one in (x, values))
                compare(words, before, after, operand, -1)
            return values

        return comparing

    for name, module in conversion.modules.items():
        assert isinstance(module, ConvertedLinear)
        operand = conversion.recipe.roles[conversion.replaced[name]].weights
        for _, original, quantized in module.weights():
            chosen = _rows(original, module.axis, ROWS)
            before, after = (
                one.movedim(module.axis, -1).flatten(0, -2)[chosen] for one in (original, quantized)
            )
            compare(f"weights of {name}", before, after, operand, -1)
    called: set[str] = set()
    with ExitStack() as hooks, torch.inference_mode(), _replaced_casts(conversion, replacement):
        for name, module in conversion.modules.items():
            note = module.module.register_forward_pre_hook(lambda *_, name=name: called.add(name))
            hooks.callback(note.remove)
        run(conversion.model, tokens[:, :POSITIONS])
    # a model may read a module's weights itself: a module that it does not call has no activations
    idle = {
        f"{what} of {name}"
        for name in conversion.modules.keys() - called
        for what in ("activations", "results")
    }
    expected = {one.words for one in call_casts(conversion)} - idle
    wrong |= dict.fromkeys(sorted(expected - met), "never cast")
    return compared, wrong


def _rows(x: Tensor, axis: int, most: int) -> list[int]:
    """Return the rows along `axis` to compare: evenly spaced, including the first and the last, as a kernel's
    last tile is the most likely to be wrong; and the row with the largest value, which alone has it where one
    scale spans the tensor."""
    sizes = x.movedim(axis, -1).flatten(0, -2).abs().amax(-1)
    steps = max(min(most, len(sizes)) - 1, 1)
    return sorted({*(row * (len(sizes) - 1) // steps for row in range(steps + 1)), int(sizes.argmax())})


def _difference(x: Tensor, values: Tensor, operand: Operand | None, axis: int) -> str:
    """Return how the `values` of a cast differ from the oracle's cast of `x`; empty if they do not."""
    import torch

    expected = by_the_oracle(x, operand, axis).to(values.dtype)
    apart = ~((values == expected) | (values.isnan() & expected.isnan()))
    if not apart.any():
        return ""
    first = tuple(int(index[0]) for index in torch.nonzero(apart, as_tuple=True))
    return (
        f"{int(apart.sum()):,} of {apart.numel():,} values differ; the first: {float(x[first])!r} became "
        f"{float(values[first])!r}, the oracle makes it {float(expected[first])!r}"
    )


def by_the_oracle(x: Tensor, operand: Operand | None, axis: int) -> Tensor:
    """Cast x (any shape, fp32 or 16 bits) along `axis` as `operand` does, by `mxcheck.formats` alone, in
    float32 on x's device."""
    import torch

    from mxcheck.formats.oracle import dequantize_array, quantize_array
    from mxcheck.models.recipes.ladder import BF16

    if operand is None:
        return x.float()
    if operand.format == BF16:
        return x.to(torch.bfloat16).float()
    spec = operand.spec(axis=axis)
    codes, scales, *tensor_scale = quantize_array(x.detach().float().cpu().numpy(), spec)
    values = dequantize_array(codes, scales, spec, *tensor_scale)
    return torch.from_numpy(values).float().to(x.device)
