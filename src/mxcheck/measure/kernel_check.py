"""Call the cast of a model run once before a model is converted by it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mxcheck.files.printed import got, raised

if TYPE_CHECKING:
    import torch

    from mxcheck.formats.spec import CastSpec
    from mxcheck.kernels.api import Kernel
    from mxcheck.models.recipes.recipe import Recipe


def check_model_kernel(recipe: Recipe, *, like: torch.Tensor) -> None:
    """Call each cast of a model run once, on a small tensor in the kernel's domain, on the device of `like`
    and, if the domain allows, in its dtype.

    Raises:
        ValueError: it raises, or returns neither codes and scales nor values; one line.
    """
    from mxcheck.conformance.cases.inside import fitted
    from mxcheck.measure.made_for import made_for
    from mxcheck.models.conversion.probe import probe
    from mxcheck.models.recipes.ladder import BF16

    specs = [operand.spec(axis=-1) for operand in recipe.operands if operand.format != BF16]
    if not specs:
        return
    kernel = model_kernel(recipe)
    for spec in specs:
        domain = made_for(kernel, spec, str(like.device))
        x, axis = fitted(probe(2, 64).to(like.dtype), domain, spec)
        _check_cast(recipe.kernel, kernel, x.to(like.device), replace(spec, axis=axis))


def model_kernel(recipe: Recipe) -> Kernel:
    """Return the kernel of a recipe.

    Raises:
        ValueError: it cannot be loaded; one line.
    """
    from mxcheck.kernels.api import resolve_kernel

    try:
        return resolve_kernel(recipe.kernel)[0]
    except ValueError:
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise ValueError(f"kernel {recipe.kernel} cannot be loaded: {raised(error)}") from error


def check_named(recipe: Recipe) -> None:
    """Refuse a function in place of its name: a record names the kernel, and another process must find it.

    Raises:
        ValueError: it is a function; one line.
    """
    name: object = recipe.kernel
    if not isinstance(name, str):
        raise ValueError(
            f"a case that is measured names its kernel: give package.module:function, got {got(name)}"
        )


def _check_cast(name: str, kernel: Kernel, x: torch.Tensor, spec: CastSpec) -> None:
    import torch

    from mxcheck.kernels.api import check_parts, check_values
    from mxcheck.kernels.refusals import refusal

    try:
        result = kernel(x, spec)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if refusal(error, kernel) is not None:
            return  # it refuses this matrix; the model's own operands will tell the rest
        raise ValueError(f"kernel {name} raised {raised(error)}") from error
    try:
        if isinstance(result, torch.Tensor):
            check_values(kernel, result, x)
        else:
            check_parts(kernel, result, x, spec)
    except TypeError as error:
        raise ValueError(str(error)) from error
