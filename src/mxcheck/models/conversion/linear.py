"""One linear-like module, quantized by our casts or by a library, and restored bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import partial, update_wrapper
from typing import Any, Protocol

from torch import Tensor, nn
from torch.nn.functional import linear
from transformers.pytorch_utils import Conv1D

from mxcheck.kernels.api import is_own, resolve_kernel
from mxcheck.kernels.counts import total
from mxcheck.kernels.digest import Digest, WeightDigest
from mxcheck.models.backends.backend import Backend
from mxcheck.models.conversion.casts import (
    CastWeight,
    activation_cast,
    cast_weight,
    digest_weights,
    refuse_gradient,
    weight_values,
)
from mxcheck.models.conversion.classify import expert_parameters, reduction_axis, weight_parameters
from mxcheck.models.conversion.converted_parameters import (
    ConvertedParameters,
    State,
    reads,
    running,
    state_of,
)
from mxcheck.models.conversion.product_hooks import PRODUCTS, Cast, LinearCast, storage
from mxcheck.models.conversion.shared_cast import shared, sharing
from mxcheck.models.recipes.recipe import Casts, Recipe


class Converted(Protocol):
    """A module that a recipe converted."""

    module: nn.Module
    #: Digest of the weights' codes and scales; None where they have none.
    weight_digest: WeightDigest | None
    #: Bytes of the weights' packed codes and scales.
    weight_bytes: int
    #: Number of forward calls while converted.
    calls: int

    def activate(self) -> None:
        """Start to quantize."""

    def revert(self) -> None:
        """Restore the module."""


class Method:
    """Replace a module's method (by default its forward) and restore it. A method that was set on the
    instance before (accelerate sets one on a model spread over devices) is kept."""

    def __init__(self, module: nn.Module, name: str = "forward") -> None:
        self._module = module
        self._name = name
        self._before = module.__dict__.get(name)
        self.original: Callable[..., Any] = getattr(module, name)

    def replace(self, function: Callable[..., Any]) -> None:
        setattr(self._module, self._name, function)

    def restore(self) -> None:
        if self._before is None:
            delattr(self._module, self._name)
        else:
            setattr(self._module, self._name, self._before)


class Around:
    """The forward of a module around converted ones: weights that it reads itself are quantized."""

    def __init__(self, module: nn.Module) -> None:
        self._forward = Method(module)
        update_wrapper(self, self._forward.original)  # whoever asks for the signature gets the model's
        self._forward.replace(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with running(), sharing():
            return self._forward.original(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., Any]:
        """Return the copied module's own: the copy of a module is no part of its conversion."""
        return deepcopy(self._forward.original, memo)

    def revert(self) -> None:
        self._forward.restore()


class ConvertedLinear:
    """A linear-like module with mxcheck's casts on its operands.

    `lean`: quantize its weights at each forward, into memory that is free again at its end; else keep the
    quantized weights. Either way a forward multiplies by the weights as they are then: what their owner
    changed is cast anew (see `converted_parameters.state_of`).
    """

    def __init__(
        self, name: str, module: nn.Module, casts: Casts, recipe: Recipe, *, lean: bool = False
    ) -> None:
        self.name = name
        self.module = module
        #: Number of forward calls while converted.
        self.calls = 0
        _check_experts(name, module)
        self.cast: Cast = activation_cast(casts.activations, recipe.kernel, of=f"activations of {name}")
        self._share_casts(casts, recipe.kernel)
        of = f"results of {name}"
        #: The cast of its results, if the recipe casts them.
        self.result = activation_cast(casts.activations, recipe.kernel, of=of) if recipe.outputs else None
        self._wide = any(
            operand is not None and not operand.is_exact_in_16_bits
            for operand in (casts.weights, casts.activations)
        )
        self._forward = Method(module)
        self._originals = {key: module.get_parameter(key) for key in weight_parameters(module)}
        #: Quantized weights that are kept; none where each forward makes them.
        self._quantized: dict[str, nn.Parameter] = {}
        #: The axis along which the products sum and the weights' blocks lie.
        self.axis = reduction_axis(module)
        axis, casts_of_weights = self.axis, list[CastWeight]()
        for key, original in self._originals.items():
            cast = cast_weight(
                original.detach(), casts.weights, recipe.kernel, axis=axis, of=f"weights of {name}"
            )
            self._quantized[key] = nn.Parameter(cast.values, requires_grad=False)
            casts_of_weights.append(cast)
        self._states: dict[str, State] = {key: state_of(value) for key, value in self._originals.items()}
        #: Elements in bf16, and their scale, of kept weights whose values take fp32 in a 16-bit model: they
        #: are widened while the module runs.
        self._unscaled = {
            key: cast.unscaled
            for key, cast in zip(self._originals, casts_of_weights, strict=True)
            if cast.unscaled is not None and not lean
        }

        self._values = weight_values(casts.weights, recipe.kernel, axis=axis, of=f"weights of {name}")
        #: Other weights than the cast of the originals, if any (`with_weights`).
        self._others: Callable[[str, Tensor], Tensor] | None = None
        self.weight_bytes = sum(cast.nbytes for cast in casts_of_weights)
        self.weight_digest = digest_weights(casts_of_weights)
        #: Total counters of its weights' casts; None where one of the weights has no codes.
        counts = [cast.counts for cast in casts_of_weights if cast.counts is not None]
        self.weight_counts = total(counts) if len(counts) == len(casts_of_weights) else None
        #: For experts: rows of activations in the first product of each, while converted.
        self.expert_rows: list[int] = []
        if names := expert_parameters(module):
            self.expert_rows = [0] * len(self._originals[names[0]])
        for key in self._originals if lean else self._unscaled:
            del self._quantized[key]  # digested and counted

    def _share_casts(self, casts: Casts, kernel: str) -> None:
        """Let modules that read one input share its cast; a user's kernel is asked by each."""
        if casts.activations is not None and is_own(resolve_kernel(kernel)[0]):
            self.cast = shared(self.cast, (casts.activations, kernel))

    @property
    def is_linear(self) -> bool:
        """True if it is one product of its input: not experts or a router."""
        return isinstance(self.module, (nn.Linear, Conv1D))

    @property
    def is_plain(self) -> bool:
        """True if the unconverted module computes the same product from cast operands: it is linear, and does
        not multiply in fp32 where it is in 16 bits."""
        in_16_bits = any(original.dtype.itemsize < 4 for original in self._originals.values())
        return self.is_linear and not (self._wide and in_16_bits)

    def weights(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield each weight's name in its module, the original weight, and the current one."""
        for key, original in self._originals.items():
            yield key, original.detach(), self._current(key).detach()

    @contextmanager
    def with_weights(self, make: Callable[[str, Tensor], Tensor], *, own_product: bool) -> Iterator[None]:
        """Multiply by other weights within the context: `make` gives them by name and original. It is called
        once for each at the beginning, and if the module is lean again at each forward. With `own_product`
        the module computes its product itself, without the conversion's casts and checks."""
        kept, states, converted = {**self._quantized}, {**self._states}, self.module.forward
        self._others = make
        for key in kept:
            self._keep(key)

        def forward(*args: Any, **kwargs: Any) -> Any:
            with self._reading(self._weights_now()):
                return self._forward.original(*args, **kwargs)

        if own_product:
            self._forward.replace(forward)
        try:
            yield
        finally:
            self._others = None
            self._quantized.update(kept)
            self._states.update(states)
            self._forward.replace(converted)

    def _is_as_cast(self, key: str) -> bool:
        """Return whether a weight is known to be the one that was cast."""
        state = state_of(self._originals[key])
        return state is not None and state == self._states[key]

    def _cast_anew(self, key: str) -> nn.Parameter:
        weight = self._originals[key].detach()
        if self._others is not None:
            values = self._others(key, weight)
        elif key in self._unscaled and self._is_as_cast(key):
            elements, scale = self._unscaled[key]
            values = elements.float().mul_(scale)
        else:
            values = self._values(weight)
        return nn.Parameter(values, requires_grad=False)

    def _keep(self, key: str) -> None:
        self._quantized[key], self._states[key] = self._cast_anew(key), state_of(self._originals[key])

    def _current(self, key: str) -> nn.Parameter:
        """Return the quantized weight, cast anew unless it is kept and its owner did not change it."""
        if key not in self._quantized:
            return self._cast_anew(key)
        if not self._is_as_cast(key):
            self._keep(key)
        return self._quantized[key]

    def _read(self, key: str) -> nn.Parameter:
        """Return what the module's attribute is."""
        found = reads()
        if found is None:
            return self._originals[key]
        if (self, key) not in found:
            found[self, key] = self._current(key)
        return found[self, key]

    def _write(self, key: str, value: nn.Parameter) -> None:
        """Take what the owner assigns."""
        self._originals[key], self._states[key] = value, None

    def _weights_now(self) -> dict[str, nn.Parameter]:
        """Return the weights of one forward."""
        return {key: self._current(key) for key in self._originals}

    @contextmanager
    def _reading(self, weights: dict[str, nn.Parameter]) -> Iterator[None]:
        """Let the module's attributes be these weights within the context."""
        with running({(self, key): value for key, value in weights.items()}):
            yield

    def _note_expert(self, whole: Tensor, x: Tensor, weight: Tensor) -> None:
        """Count the rows of `x` [..., rows, in] if `weight` is a slice of `whole`, the first experts'
        weights: one expert's or all."""
        if not self.expert_rows or storage(weight) != storage(whole):
            return
        first = (weight.storage_offset() - whole.storage_offset()) // whole.stride(0)
        experts = len(weight) if weight.dim() == 3 else 1
        rows = x.numel() // x.shape[-1] // experts
        for expert in range(first, first + experts):
            self.expert_rows[expert] += rows

    def activate(self) -> None:
        # For experts and routers, whose result is not that of one product, cast each product's result;
        # elsewhere the module's own, including its bias.
        inside = not self.is_linear
        # its forward is one product, known beforehand: it need not run to be seen
        at_once = type(self.module) is nn.Linear and _is_torch_s(self._forward.original)

        def forward(*args: Any, **kwargs: Any) -> Any:
            refuse_gradient(self.name, (*args, *kwargs.values(), *self._originals.values()))
            weights = self._weights_now()
            mode = LinearCast(
                lambda x: self.cast(x),  # looked up at the call: the probe replaces the cast
                result=self.result if inside else None,
                wide=self._wide,
                weights={storage(value) for value in weights.values()},
                observe=partial(self._note_expert, next(iter(weights.values()))),
            )
            if at_once and len(args) == 1 and not kwargs:
                output = mode.__torch_function__(linear, (), (*args, weights["weight"], self.module.bias))
            else:
                with self._reading(weights), mode:
                    output = self._forward.original(*args, **kwargs)
            if mode.products == 0:
                names = ", ".join(dict.fromkeys(product.__name__ for product in PRODUCTS))
                raise ValueError(
                    f"{self.name} ({type(self.module).__name__}) makes no product that mxcheck can see "
                    f"({names}): its activations would stay unquantized; leave its role out of the recipe"
                )
            self.calls += 1
            if inside or self.result is None:
                return output
            if not isinstance(output, Tensor):
                raise ValueError(
                    f"{self.name} ({type(self.module).__name__}) returns {type(output).__name__}, no tensor: "
                    f"its result cannot be cast; leave its role out of the recipe, or outputs"
                )
            return self.result(output)

        # their owner may have put others there since
        for key, known in self._originals.items():
            if (value := self.module.get_parameter(key)) is not known:
                self._write(key, value)
        self.module._parameters = ConvertedParameters(
            self.module._parameters,
            names=frozenset(self._originals),
            read=self._read,
            write=self._write,
        )
        self._forward.replace(forward)

    def revert(self) -> None:
        if isinstance(self.module._parameters, ConvertedParameters):
            self.module._parameters = dict(self.module._parameters)
        for key, value in self._originals.items():
            setattr(self.module, key, value)
        self._forward.restore()


def _is_torch_s(forward: Callable[..., Any]) -> bool:
    """Return whether a module's forward is `nn.Linear`'s, and nobody's instead of it."""
    name = getattr(forward, "__module__", None), getattr(forward, "__qualname__", None)
    return name == (nn.Linear.__module__, "Linear.forward") and not hasattr(forward, "__wrapped__")


def _check_experts(name: str, module: nn.Module) -> None:
    """Refuse experts whose products do not take the activation first: implementations other than the loop
    over experts gather the weights and swap the operands."""
    implementation = getattr(getattr(module, "config", None), "_experts_implementation", None)
    if expert_parameters(module) and implementation not in (None, "eager"):
        raise ValueError(
            f"{name} ({type(module).__name__}) runs its experts as {implementation!r}, whose products "
            f"mxcheck does not cast; call model.set_experts_implementation('eager') first"
        )


class LibraryLinear:
    """A linear module whose product a library casts and computes."""

    def __init__(self, name: str, module: nn.Module, backend: Backend) -> None:
        self.name = name
        self.module = module
        self.calls = 0
        replacement = backend.replace(module)
        self._replacement = replacement
        self._forward = Method(module)
        self.weight_digest: WeightDigest | None = replacement.weight_digest
        self.weight_bytes = replacement.weight_bytes

    def operand(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return codes and scales of the activation `x` as the library casts it, and the other tensors that
        it derives."""
        return self._replacement.operand(x)

    def operand_digest(self, x: Tensor) -> Digest:
        """Return the digest of `operand(x)`."""
        return self._replacement.operand_digest(x)

    def activate(self) -> None:
        def forward(*args: Tensor, **kwargs: Tensor) -> Tensor:
            refuse_gradient(self.name, (*args, *kwargs.values(), *self.module.parameters(recurse=False)))
            self.calls += 1
            (x,) = (*args, *kwargs.values())  # called `input` by nn.Linear, `x` by Conv1D
            return self._replacement.forward(x)

        self._forward.replace(forward)

    def revert(self) -> None:
        self._forward.restore()
