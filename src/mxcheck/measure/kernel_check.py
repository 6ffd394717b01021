"""The cast of a model run, called once before a model is converted by it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mxcheck.files.printed import raised

if TYPE_CHECKING:
    import torch

    from mxcheck.formats.spec import CastSpec
    from mxcheck.kernels.api import Kernel
    from mxcheck.models.recipe import Recipe


def check_model_kernel(recipe: Recipe, *, like: torch.Tensor) -> None:
    """Call each cast of a model run once, on a small tensor of the dtype and device of `like`.

    Raises:
        ValueError: it does not do this, raises, or returns neither codes and scales nor values; in one line.
    """
    from mxcheck.kernels.api import resolve_kernel
    from mxcheck.models.probe import probe
    from mxcheck.models.recipe import BF16

    specs = [operand.spec(axis=-1) for operand in recipe.operands if operand.format != BF16]
    if not specs:
        return
    name, x = recipe.kernel, probe(2, 64).to(like.device, like.dtype)
    try:
        kernel = resolve_kernel(name)[0]
    except ValueError:
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise ValueError(f"kernel {name} cannot be loaded: {raised(error)}") from error
    for spec in specs:
        _check_cast(name, kernel, x, spec)


def _check_cast(name: str, kernel: Kernel, x: torch.Tensor, spec: CastSpec) -> None:
    import torch

    from mxcheck.kernels.api import check_parts, check_values

    try:
        result = kernel(x, spec)
    except NotImplementedError as error:
        reason = str(error) or "no reason given"
        raise ValueError(
            f"kernel {name} does not do this: {reason}; name the cases that it does with --mx-precision"
        ) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise ValueError(f"kernel {name} raised {raised(error)}") from error
    try:
        if isinstance(result, torch.Tensor):
            check_values(kernel, result, x)
        else:
            check_parts(kernel, result, x, spec)
    except TypeError as error:
        raise ValueError(str(error)) from error
