"""What is known of a case without any baseline: its operands by the oracle, its errors with random signs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from mxcheck.gate.absolute import Absolute
from mxcheck.gate.case import Case
from mxcheck.measure.session import Session

if TYPE_CHECKING:
    from torch import Tensor

    from mxcheck.models.convert import Conversion
    from mxcheck.models.linear import ConvertedLinear
    from mxcheck.models.products import Cast
    from mxcheck.models.recipe import Operand, Recipe

#: Seeds of the random signs.
SEEDS = (0, 1, 2, 3, 4)
#: Rows of each weight that are compared, evenly spaced, besides the one with the largest value.
ROWS = 32
#: Positions of the first sequence whose operands are compared.
POSITIONS = 512


def absolute(session: Session, case: Case) -> Absolute:
    """Measure what a first acceptance asserts. The case's model becomes resident, if it is not.

    Raises as `measure_case` does.
    """
    from mxcheck.evaluation.logits import vocabulary_of
    from mxcheck.evaluation.measure import evaluate
    from mxcheck.models.convert import convert

    recipe = session.measuring.recipe_of(case)
    bench = session.resident(case.model)
    tokens, reference = bench.text.tokens, bench.reference
    vocabulary = vocabulary_of(bench.loaded.model)
    of_uniform = reference.entropy / math.log(vocabulary) if vocabulary > 1 else 0.0
    if (unknown := _unknown(recipe)) is not None:
        return Absolute(unknown=unknown, of_uniform=of_uniform)
    together = recipe.sequences_a_pass or session.measuring.batch_size_of(case.model)
    conversion = convert(bench.loaded.model, recipe)
    try:
        compared, wrong = compared_with_the_oracle(conversion, tokens)
        signed = []
        for seed in () if wrong else SEEDS:
            progress = session.progress(f"{case.id} signs {seed}", tokens, together)
            with random_signs(conversion, seed):
                found = evaluate(
                    bench.loaded.model, tokens, reference=reference, batch_size=together, progress=progress
                )
            assert found.kl is not None
            signed.append(found.kl)
    finally:
        conversion.undo()
    return Absolute(signed=tuple(signed), compared=compared, wrong=wrong, of_uniform=of_uniform)


def _unknown(recipe: Recipe) -> str | None:
    """Why mxcheck does not know the errors of a recipe; None: it does."""
    if recipe.library is not None:
        return f"{recipe.library} casts"
    if not recipe.operands:
        return "the recipe has no casts of operands"
    return None


def _operands(conversion: Conversion) -> Iterator[tuple[object, str, str, Operand | None, int]]:
    """Every cast at a call: the part, its attribute, the operand in words, the cast, and its axis."""
    recipe = conversion.recipe
    for name, module in conversion.modules.items():
        casts = recipe.roles[conversion.replaced[name]]
        yield module, "cast", f"activations of {name}", casts.activations, -1
        if recipe.outputs:
            yield module, "result", f"results of {name}", casts.activations, -1
    for name, attention in conversion.attention.items():
        yield attention, "first", f"queries and probabilities of {name}", recipe.attention, -1
        yield attention, "second", f"keys and values of {name}", recipe.attention, -2
    if conversion.elementwise is not None:
        yield conversion.elementwise, "cast", "results of element-wise operations", recipe.elementwise, -1


@contextmanager
def _replaced_casts(
    conversion: Conversion, replacement: Callable[[Cast, str, Operand | None, int], Cast]
) -> Iterator[None]:
    before = []
    for part, attribute, words, operand, axis in _operands(conversion):
        cast = getattr(part, attribute)
        before.append((part, attribute, cast))
        setattr(part, attribute, replacement(cast, words, operand, axis))
    try:
        yield
    finally:
        for part, attribute, cast in before:
            setattr(part, attribute, cast)


@contextmanager
def random_signs(conversion: Conversion, seed: int) -> Iterator[None]:
    """For as long as the context lasts, each operand x of the converted model is x + s (q(x) - x), with q
    the recipe's cast by mxcheck's own code, whatever the conversion has for it, and s = ±1 by element.

    Linear modules compute their own products meanwhile, not the conversion's: what is wrong of those is no
    part of the measure. Experts, attention and element-wise operations have no other place to be cast at.
    """
    import torch

    from mxcheck.models.casts import activation_cast
    from mxcheck.models.linear import ConvertedLinear

    device = next(conversion.model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)

    def turned(x: Tensor, values: Tensor) -> Tensor:
        signs = torch.randint(0, 2, x.shape, generator=generator, device=x.device, dtype=torch.int8)
        return x + (2 * signs.to(values.dtype) - 1) * (values - x)

    def replacement(_cast: Cast, _words: str, operand: Operand | None, axis: int) -> Cast:
        cast = activation_cast(operand, "eager", axis=axis)
        return lambda x: turned(x, cast(x))

    with ExitStack() as undo, _replaced_casts(conversion, replacement):
        for name, module in conversion.modules.items():
            assert isinstance(module, ConvertedLinear)
            operand = conversion.recipe.roles[conversion.replaced[name]].weights
            cast = activation_cast(operand, "eager", axis=module.axis)
            if module.is_plain:
                undo.callback(module.activate)
                module.revert()
                undo.enter_context(_casting(module))
            for key, original, weight in module.weights():
                values = turned(original, cast(original))
                if module.is_plain:
                    # a parameter of its own: an embedding may share the module's
                    setattr(module.module, key, torch.nn.Parameter(values, requires_grad=False))
                else:
                    undo.callback(weight.copy_, weight.clone())
                    weight.copy_(values)  # in place: products know a weight by its storage
        yield


@contextmanager
def _casting(module: ConvertedLinear) -> Iterator[None]:
    """A linear module as it was before, but for its input and result, which its casts are applied to."""

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
    """Compare operands of a converted model with what the oracle makes of them: of each weight `ROWS` rows
    and the one with the largest value, and every operand of one pass over the first sequence of `tokens`
    [sequences, length], `POSITIONS` of it at most.

    Returns how many values were compared, and by operand what is wrong of it.
    """
    import torch

    from mxcheck.evaluation.layer_states import run
    from mxcheck.models.linear import ConvertedLinear
    from mxcheck.models.products import undisturbed

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
                compare(words, x, values, operand, axis)
            return values

        return comparing

    for name, module in conversion.modules.items():
        assert isinstance(module, ConvertedLinear)
        operand = conversion.recipe.roles[conversion.replaced[name]].weights
        for _, original, quantized in module.weights():
            chosen = _rows(original, module.axis)
            before, after = (
                one.movedim(module.axis, -1).flatten(0, -2)[chosen] for one in (original, quantized)
            )
            compare(f"weights of {name}", before, after, operand, -1)
    called: set[str] = set()
    with ExitStack() as hooks, torch.inference_mode(), _replaced_casts(conversion, replacement):
        for name, module in conversion.modules.items():
            note = module.module.register_forward_pre_hook(lambda *_, name=name: called.add(name))
            hooks.callback(note.remove)
        run(conversion.model, tokens[:1, :POSITIONS])
    # a model may read a module's weights itself: what it does not call has no activations
    idle = {
        f"{what} of {name}"
        for name in conversion.modules.keys() - called
        for what in ("activations", "results")
    }
    expected = {words for _, _, words, _, _ in _operands(conversion)} - idle
    wrong |= dict.fromkeys(sorted(expected - met), "never cast")
    return compared, wrong


def _rows(weight: Tensor, axis: int) -> list[int]:
    """Which rows along `axis` are compared. The one with the largest value is among them: where one scale
    spans the tensor, these rows alone have it."""
    sizes = weight.movedim(axis, -1).flatten(0, -2).abs().amax(-1)
    count = min(ROWS, len(sizes))
    return sorted({*(row * len(sizes) // count for row in range(count)), int(sizes.argmax())})


def _difference(x: Tensor, values: Tensor, operand: Operand | None, axis: int) -> str:
    """How the `values` of a cast differ from what the oracle makes of `x`; empty where they do not."""
    import torch

    expected = by_the_oracle(x, operand, axis).to(values.dtype)
    apart = ~((values == expected) | (values.isnan() & expected.isnan()))
    if not apart.any():
        return ""
    first = tuple(int(index[0]) for index in torch.nonzero(apart, as_tuple=True))
    return (
        f"{int(apart.sum()):,} of {apart.numel():,} values differ, the first {float(values[first])!r} of "
        f"{float(x[first])!r}, where it has {float(expected[first])!r}"
    )


def by_the_oracle(x: Tensor, operand: Operand | None, axis: int) -> Tensor:
    """What `operand` makes of x (any shape, fp32 or 16 bits) along `axis`, by `mxcheck.formats` alone, in
    float32 on x's device."""
    import torch

    from mxcheck.formats.oracle import dequantize_array, quantize_array
    from mxcheck.models.recipe import BF16

    if operand is None:
        return x.float()
    if operand.format == BF16:
        return x.to(torch.bfloat16).float()
    spec = operand.spec(axis=axis)
    codes, scales, *tensor_scale = quantize_array(x.detach().float().cpu().numpy(), spec)
    values = dequantize_array(codes, scales, spec, *tensor_scale)
    return torch.from_numpy(values).float().to(x.device)
