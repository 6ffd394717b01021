"""The interface of precisions that another library computes.

Torch-free, so that pytest can name a precision during collection; a library is imported when it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, cast

from mxcheck.formats.choices import choose

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
    """One precision. `mxcheck.models.convert` calls `missing`, `refuses` and `replace`, in this order."""

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


# precision -> the module of this package whose `BACKENDS` contains it
_MODULES: Mapping[str, str] = MappingProxyType(
    {
        "bnb_int8": "bitsandbytes",
        "te_fp8_delayed": "transformer_engine",
        "te_fp8_current": "transformer_engine",
        "te_mxfp8": "transformer_engine",
        "scaled_mm_fp8": "scaled_mm",
        "scaled_mm_fp8_row": "scaled_mm",
    }
)
#: Precisions with a backend.
BACKEND_PRECISIONS = tuple(_MODULES)


def backend(precision: str) -> Backend:
    """Return the backend of a precision. Imports torch, and none of the libraries.

    Raises:
        ValueError: no backend has that precision.
    """
    choose("precision of a library", precision, BACKEND_PRECISIONS)
    module = import_module(f"{__package__}.{_MODULES[precision]}")
    return cast(Backend, module.BACKENDS[precision])
