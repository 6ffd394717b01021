"""Stages of the ladder that another library computes: what such a library has to say and to do.

Torch-free, so that a stage can be named while pytest collects; a library is imported when it is asked.
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
    """What a library makes of one linear module. It shares no storage with the module.

    Attributes:
        forward: x [..., in] -> [..., out], in x's dtype and on x's device.
        weight_digest: of what the library holds of the weight: codes and scales.
        weight_bytes: the size of these codes and scales; the bias is not counted.
        operand: codes and scales of an activation [..., in] as the library casts it, whatever else it takes
            of it after them. It changes nothing that `forward` depends on.
    """

    forward: Callable[[torch.Tensor], torch.Tensor]
    weight_digest: WeightDigest
    weight_bytes: int
    operand: Callable[[torch.Tensor], tuple[torch.Tensor, ...]]

    def operand_digest(self, x: torch.Tensor) -> Digest:
        """Of what `operand` gives of x."""
        from mxcheck.kernels.digest import digest

        return digest(*self.operand(x))


class Backend(Protocol):
    """One stage. `mxcheck.models.convert` asks in this order: `missing`, `refuses`, `replace`."""

    @property
    def name(self) -> str:
        """The precision that it is."""

    def missing(self, device: str) -> str | None:
        """Why the stage cannot run for a model on `device`, in one line with what it needs; None: it can."""

    def refuses(self, module: nn.Module) -> str | None:
        """Why this module, where it lies, cannot be converted (its class, its shape); None: it can."""

    def replace(self, module: nn.Module) -> Replacement:
        """Convert a copy of a module that is not refused."""


# precision -> the module of this package whose `BACKENDS` has it
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
#: The precisions that have a backend.
BACKEND_PRECISIONS = tuple(_MODULES)


def backend(precision: str) -> Backend:
    """The backend of a precision. Imports torch, and none of the libraries.

    Raises:
        ValueError: no backend has that precision.
    """
    choose("precision of a library", precision, BACKEND_PRECISIONS)
    module = import_module(f"{__package__}.{_MODULES[precision]}")
    return cast(Backend, module.BACKENDS[precision])
