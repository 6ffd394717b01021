"""Bits that are equal on every machine: the operands of every quantized product in a fixed probe.

The probe is sent through each converted module, and the operands are read where they enter the product, after
every place that could omit a cast. Later products of one module (an expert's down projection) read the result
of earlier ones, which depends on how the machine multiplies; so the probe replaces the activation at every
cast. The digests are therefore equal on every machine, and a cast that moves one bit is detected however
small its effect on the loss.

A weight's codes and scales are digested when it is cast. Here its values are digested at the product that
reads them: only this proves that the product uses them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mxcheck.kernels.digest import MOST_GROUPS, Digest, digest, text_digest
from mxcheck.kernels.digest_thread import begin
from mxcheck.models.conversion.attention import ConvertedAttention
from mxcheck.models.conversion.call_casts import ELEMENTWISE
from mxcheck.models.conversion.classify import expert_parameters, owned_weight, reduction_axis
from mxcheck.models.conversion.convert import Conversion
from mxcheck.models.conversion.linear import Converted, ConvertedLinear, LibraryLinear
from mxcheck.models.conversion.product_hooks import PRODUCTS, Cast, casting
from mxcheck.models.zoo.load import positions

ROWS = 32
#: Tokens of the forward pass that applies the probe to the attention products: two blocks of 32 keys.
ATTENTION_LENGTH = 64
#: Factor on the probe for libraries: it must also cover values above bitsandbytes' threshold of 6, which use
#: another code path.
LIBRARY_FACTOR = 8


def probe(rows: int, columns: int) -> torch.Tensor:
    """Return a fixed fp32 matrix [rows, columns]: 8-bit significands (so that ties are common) times powers
    of two over 16 octaves, and zeros. It is computed from integers, so it is the same on every machine."""
    return torch.tensor(_probe(rows, columns))  # a copy: a cast that writes over it spoils no other


@lru_cache(maxsize=64)  # a model has few shapes
def _probe(rows: int, columns: int) -> NDArray[np.float32]:
    source = np.random.Generator(np.random.PCG64(20251121))
    significand = source.integers(-255, 256, size=(rows, columns))
    exponent = source.integers(-15, 1, size=(rows, columns))
    return np.ldexp(significand.astype(np.float64), exponent - 8).astype(np.float32)


def probe_like(x: Tensor) -> Tensor:
    """Return the probe in x's shape, dtype and device."""
    return probe(x.numel() // x.shape[-1], x.shape[-1]).view(x.shape).to(x.device, x.dtype)


#: Observes an activation as it enters a product, given the module's name and the axis of the blocks. Returns
#: its digest if known, else None.
See = Callable[[str, Tensor, int], str | None]


def _unseen(_name: str, _activation: Tensor, _axis: int) -> None:
    """Ignore the activation."""


def whole_digest(operand: Tensor) -> str:
    """Return one digest of all rows."""
    return digest(operand, most_groups=1).groups[0]


class Operands(TorchFunctionMode):
    """Observe the tensors that enter each product, in the order of the calls and of their arguments:
    `activation` receives the first operand, `other` the rest, and may return a function that is called after
    the product."""

    def __init__(
        self, activation: Callable[[Tensor], None], other: Callable[[Tensor], Callable[[], None] | None]
    ) -> None:
        super().__init__()
        self._activation, self._other = activation, other

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        places = PRODUCTS.get(func)
        afterwards: list[Callable[[], None]] = []
        if places is not None and not casting():  # a kernel may multiply internally
            position, keyword = places.first
            for key, operand in (*enumerate(args), *(kwargs or {}).items()):
                if not isinstance(operand, torch.Tensor):
                    continue
                if key in (position, keyword):
                    self._activation(operand)
                elif (after := self._other(operand)) is not None:
                    afterwards.append(after)
        result = func(*args, **(kwargs or {}))
        for after in afterwards:  # before anything may write to the operands
            after()
        return result


def _of_probe(cast: Cast) -> Cast:
    return lambda x: cast(probe_like(x))


@contextmanager
def _probe_at_every_cast(converted: ConvertedLinear) -> Iterator[None]:
    cast = converted.cast
    converted.cast = _of_probe(cast)
    try:
        yield
    finally:
        converted.cast = cast


def _arguments(module: nn.Module) -> tuple[torch.Tensor, ...]:
    parameter = next(module.parameters(recurse=False))
    names = expert_parameters(module)
    if not names:
        width = owned_weight(module).shape[reduction_axis(module)]
        return (probe(ROWS, width).to(parameter.device, parameter.dtype),)
    weight = owned_weight(module, names[0])
    experts, width = weight.shape[0], weight.shape[reduction_axis(module)]
    rows = ROWS * experts
    chosen = torch.arange(rows, device=parameter.device).unsqueeze(-1) % experts  # every expert, 32 rows each
    weights = torch.ones(rows, 1, device=parameter.device, dtype=parameter.dtype)
    return probe(rows, width).to(parameter.device, parameter.dtype), chosen, weights


def _operands(name: str, converted: Converted, see: See) -> Digest:
    if isinstance(converted, LibraryLinear):
        return converted.operand_digest(LIBRARY_FACTOR * _arguments(converted.module)[0])
    assert isinstance(converted, ConvertedLinear)
    found: list[str] = []

    def activation(operand: Tensor) -> None:
        found.append(see(name, operand, -1) or whole_digest(operand))

    def other(operand: Tensor) -> Callable[[], None]:
        place, digest_of = len(found), begin(whole_digest, operand)
        found.append("")
        return lambda: found.__setitem__(place, digest_of())

    recorder = Operands(activation, other)
    with torch.no_grad(), _probe_at_every_cast(converted), recorder:
        converted.module(*_arguments(converted.module))
    return _grouped(found)


def _grouped(operands: list[str]) -> Digest:
    """Return one digest for each operand; where there are too many (experts compute hundreds of products),
    one for each group of neighbours."""
    size = max(1, -(-len(operands) // MOST_GROUPS))
    groups = [operands[start : start + size] for start in range(0, len(operands), size)]
    return Digest(
        rows=len(operands),
        groups=tuple(group[0] if size == 1 else text_digest(" ".join(group)) for group in groups),
    )


@contextmanager
def _watched(converted: ConvertedAttention, found: list[str], see: See) -> Iterator[None]:
    before = converted.first, converted.second, converted.observe
    converted.first, converted.second = _of_probe(before[0]), _of_probe(before[1])

    def observe(operand: Tensor) -> None:
        axis = -2 if len(found) % 2 else -1
        found.append(see(converted.name, operand, axis) or whole_digest(operand))

    converted.observe = observe  # type: ignore[method-assign]
    try:
        yield
    finally:
        converted.first, converted.second = before[:2]
        del converted.observe


def _of_attention(conversion: Conversion, see: See) -> dict[str, Digest]:
    """Return the digests of all attention modules from one forward pass of the model, since their arguments
    vary."""
    model = conversion.model
    device = next(model.parameters()).device
    found: dict[str, list[str]] = {name: [] for name in conversion.attention}
    config: Any = model.config
    text = config.get_text_config()
    length = min(ATTENTION_LENGTH, positions(text) or ATTENTION_LENGTH)
    tokens = (torch.arange(length, device=device) % text.vocab_size).unsqueeze(0)
    with torch.no_grad(), ExitStack() as stack:
        for name, converted in conversion.attention.items():
            stack.enter_context(_watched(converted, found[name], see))
        model(input_ids=tokens, use_cache=False)
    return {name: _grouped(operands) for name, operands in found.items()}


@contextmanager
def unnoted(conversion: Conversion) -> Iterator[None]:
    """Restore a conversion's records of its calls (`calls`, `expert_rows`, `counts`) when the context ends:
    they describe the text, not a probe."""
    modules = list(conversion.modules.values())
    calls = [module.calls for module in modules]
    experts = [module for module in modules if isinstance(module, ConvertedLinear)]
    rows = [[*module.expert_rows] for module in experts]
    counts = None if conversion.elementwise is None else conversion.elementwise.counts.copy()
    try:
        yield
    finally:
        for module, number in zip(modules, calls, strict=True):
            module.calls = number
        for expert, numbers in zip(experts, rows, strict=True):
            expert.expert_rows[:] = numbers
        if conversion.elementwise is not None and counts is not None:
            conversion.elementwise.counts = counts


def digests(conversion: Conversion, see: See = _unseen) -> dict[str, dict[str, Digest]]:
    """Return the digests by module: of its weights' `codes` and `scales`, one for each row group, and of the
    `operands` that the probe brings to its products, one for each operand (or for several neighbours, where
    there are more than 8). For a whole-model precision they are by parameter: `codes` are its elements as
    converted.

    `see` also observes each activation: the cast of a probe of its shape. The conversion's records of its
    calls are preserved.
    """
    found: dict[str, dict[str, Digest]]
    with unnoted(conversion):
        if conversion.modules:
            found = {
                name: {**_of_weights(module), "operands": _operands(name, module, see)}
                for name, module in conversion.modules.items()
            }
        else:
            parameters = sorted(conversion.model.named_parameters())
            found = {name: {"codes": digest(parameter)} for name, parameter in parameters}
        for name, operands in (_of_attention(conversion, see) if conversion.attention else {}).items():
            found[name] = {"operands": operands}
        if conversion.elementwise is not None:
            result = conversion.elementwise.cast(probe(ROWS, 4 * ROWS))
            see(ELEMENTWISE, result, -1)
            found[ELEMENTWISE] = {"operands": digest(result)}
    return found


def _of_weights(module: Converted) -> dict[str, Digest]:
    """Return the digests of a module's weights, or none where a kernel's values have no codes: the multiplied
    values are digested at the product."""
    made = module.weight_digest
    if made is None:
        return {}
    return {"codes": made.codes} if made.scales is None else {"codes": made.codes, "scales": made.scales}
