"""The interface of precisions that another library computes.

Torch-free, so that pytest can name a precision during collection; a library is imported when it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from mxcheck.formats.choices import choose
from mxcheck.models.recipes.ladder import LADDER

if TYPE_CHECKING:
    import torch
    from torch import nn

    from mxcheck.kernels.digest import Digest, WeightDigest


@dataclass(frozen=True, slots=True, kw_only=True)
class Replacement:
    """A library's replacement for one linear module. It shares no storage with the module.

    Attributes:
        forward: x [..., in] -> [..., out], in x's dtype and on x's device.
        weight_digest: digest of the library's weight: codes and scales.
        weight_bytes: the size of these codes and scales; the bias is not counted.
        operand: codes and scales of an activation [..., in] as the library casts it, then any other tensors
            that it derives from it. It changes no state of `forward`.
    """

    forward: Callable[[torch.Tensor], torch.Tensor]
    weight_digest: WeightDigest
    weight_bytes: int
    operand: Callable[[torch.Tensor], tuple[torch.Tensor, ...]]

    def operand_digest(self, x: torch.Tensor) -> Digest:
        """Return the digest of `operand(x)`."""
        from mxcheck.kernels.digest import digest

        return digest(*self.operand(x))


class Backend(Protocol):
    """One precision. `mxcheck.models.conversion.convert` calls `missing`, `refuses` and `replace`, in this
    order."""

    @property
    def name(self) -> str:
        """Name of the precision."""

    def missing(self, device: str) -> str | None:
        """Return why the precision cannot run for a model on `device`, in one line with its requirement, or
        None."""

    def refuses(self, module: nn.Module) -> str | None:
        """Return why this module, on its device, cannot be converted (its class, its shape), or None."""

    def replace(self, module: nn.Module) -> Replacement:
        """Convert a copy of a module that is not refused."""


#: Precisions with a backend.
BACKEND_PRECISIONS = tuple(name for name, row in LADDER.items() if row.backend is not None)


def backend(precision: str) -> Backend:
    """Return the backend of a precision, as its row of the ladder names it. Imports torch, and none of the
    libraries.

    Raises:
        ValueError: no backend has that precision.
    """
    row = LADDER[choose("precision of a library", precision, BACKEND_PRECISIONS)]
    module, _, made = str(row.backend).partition(":")
    kind = getattr(import_module(f"{__package__}.{module}"), made)
    return cast(Backend, kind(name=row.name, **row.settings, **row.arguments))
