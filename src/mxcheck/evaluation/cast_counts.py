"""Count what the casts of a converted model do: weights, activations in one small pass, rows of experts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

from torch import Tensor

from mxcheck.formats.spec import CastSpec
from mxcheck.gate.counters import Absent, Counters, OperandCounts, Operands
from mxcheck.kernels.api import Kernel, cast_with, resolve_kernel
from mxcheck.kernels.counts import CastCounts, count_cast, total
from mxcheck.kernels.standing_for import house_cast, stand_for
from mxcheck.models.conversion.convert import Conversion
from mxcheck.models.conversion.linear import Converted, ConvertedLinear
from mxcheck.models.conversion.product_hooks import Cast, undisturbed
from mxcheck.models.recipes.ladder import BF16
from mxcheck.models.recipes.recipe import Operand

_Found: TypeAlias = dict[str, dict[str, OperandCounts | Absent]]
#: Counts of each cast of an operand, or the reason why it could not be counted.
_Seen: TypeAlias = list[CastCounts | Absent]

_NO_CODES = Absent(reason="the scale is an fp32 number, which has no code")
_NOT_CALLED = Absent(reason="the pass did not call it")
_OTHER_VALUES = Absent(reason="the cast gave other values than the recipe's codes stand for")
#: Operands of attention's two products, in the order of its casts.
_FIRST, _SECOND = ("queries", "probabilities"), ("keys", "values")


@contextmanager
def counting(conversion: Conversion) -> Iterator[_Found]:
    """Count the effects of each cast of an activation, and of each cast in attention, within the context.

    The model's results do not change. Counting casts a second time, for the codes, so it is for a pass over
    few tokens. An operand whose cast gave other values than its codes is not counted.

    Args:
        conversion: active, and not suspended until the context ends.

    Yields:
        module -> operand -> its counts, or why there are none: filled when the context ends without error.

    Raises:
        TypeError, ValueError: in the forward pass, where the recipe's kernel returns what it must not.
    """
    found: _Found = {}
    seen: dict[tuple[str, str], _Seen] = {}
    before: list[tuple[object, str, Cast]] = []

    def watch(part: object, attribute: str, name: str, operands: tuple[str, ...], operand: Operand) -> None:
        cast: Cast = getattr(part, attribute)
        before.append((part, attribute, cast))
        axis = -2 if attribute == "second" else -1
        lists = [seen.setdefault((name, key), []) for key in operands]
        setattr(part, attribute, _counted(cast, operand.spec(axis=axis), conversion.recipe.kernel, lists))

    for name, module in conversion.modules.items():
        casts = conversion.recipe.roles.get(conversion.replaced[name])
        operand = None if casts is None else casts.activations
        if (absent := _uncounted(conversion, module, operand)) is not None:
            found[name] = {"activations": absent}
        else:
            assert operand is not None
            watch(module, "cast", name, ("activations",), operand)
    for name, attention in conversion.attention.items():
        operand = conversion.recipe.attention
        assert operand is not None
        if operand.format == BF16:
            found[name] = dict.fromkeys((*_FIRST, *_SECOND), _rounded())
            continue
        watch(attention, "first", name, _FIRST, operand)
        watch(attention, "second", name, _SECOND, operand)
    try:
        yield found
    finally:
        for part, attribute, cast in before:
            setattr(part, attribute, cast)
    for (name, key), counts in seen.items():
        found.setdefault(name, {})[key] = _together(counts)


def weight_counters(conversion: Conversion) -> _Found:
    """Return module -> `weights` -> the counts made at conversion, or why there are none."""
    found: _Found = {}
    for name, module in conversion.modules.items():
        casts = conversion.recipe.roles.get(conversion.replaced[name])
        absent = _uncounted(conversion, module, None if casts is None else casts.weights)
        if absent is None:
            assert isinstance(module, ConvertedLinear)
            counts = module.weight_counts
            absent_or_counts = _OTHER_VALUES if counts is None else _plain(counts)
        found[name] = {"weights": absent_or_counts if absent is None else absent}
    return found


def expert_rows(conversion: Conversion) -> dict[str, tuple[int, ...]]:
    """Return experts module -> rows that entered the first product of each expert in all forward passes so
    far.

    Read it before any other passes than those meant: the fixed probe sends rows of its own.
    """
    return {
        name: tuple(module.expert_rows)
        for name, module in conversion.modules.items()
        if isinstance(module, ConvertedLinear) and module.expert_rows
    }


def counters(conversion: Conversion, activations: Operands, rows: dict[str, tuple[int, ...]]) -> Counters:
    """Return the counters of a case: of its weights now, and the earlier results of `counting` and
    `expert_rows`."""
    operands: dict[str, dict[str, OperandCounts | Absent]] = defaultdict(dict)
    for part in (weight_counters(conversion), activations):
        for name, found in part.items():
            operands[name].update(found)
    return Counters(operands=dict(operands), expert_rows=rows)


def _counted(cast: Cast, spec: CastSpec, kernel: str, lists: list[_Seen]) -> Cast:
    """Return `cast` with its calls counted, in turn, in each of the `lists`."""
    function: Kernel = resolve_kernel(kernel)[0]
    calls = 0

    def counted(x: Tensor) -> Tensor:
        nonlocal calls
        values = cast(x)
        with undisturbed("cast"):
            lists[calls % len(lists)].append(_count(x, values, spec, function))
        calls += 1
        return values

    return counted


def _count(x: Tensor, values: Tensor, spec: CastSpec, function: Kernel) -> CastCounts | Absent:
    result = cast_with(x, spec, function)
    quantized = house_cast(x, spec) if isinstance(result, Tensor) else result
    return count_cast(x, quantized) if stand_for(quantized, values) else _OTHER_VALUES


def _uncounted(conversion: Conversion, module: Converted, operand: Operand | None) -> Absent | None:
    """Return why an operand of a linear module is not counted; None if it is."""
    if not isinstance(module, ConvertedLinear):
        return Absent(reason=f"{conversion.recipe.library} casts it, and gives no codes")
    if operand is None:
        return Absent(reason="the recipe leaves it as it is")
    return _rounded() if operand.format == BF16 else None


def _rounded() -> Absent:
    return Absent(reason="bf16 rounds each element: it has no scales and no codes")


def _together(seen: _Seen) -> OperandCounts | Absent:
    absent = next((one for one in seen if isinstance(one, Absent)), None)
    if absent is not None or not seen:
        return absent or _NOT_CALLED
    return _plain(total(one for one in seen if isinstance(one, CastCounts)))


def _plain(counts: CastCounts) -> OperandCounts:
    return OperandCounts(
        elements=counts.elements,
        saturated=counts.saturated,
        flushed=counts.flushed,
        top=counts.top,
        nan=counts.nan,
        inf=counts.inf,
        zero_blocks=counts.zero_blocks,
        scales=_NO_CODES if counts.scales is None else counts.scales,
    )
