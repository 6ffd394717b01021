"""The part of the kernel suite that a run is restricted to: for a kernel of one rule, block size or dtype.
Torch- and numpy-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mxcheck.conformance.cases.cells import Cell, cells
from mxcheck.formats.blocks import E8M0, block_format
from mxcheck.formats.spec import CastSpec

if TYPE_CHECKING:
    from torch import Tensor

    from mxcheck.kernels.domain import Domain


@dataclass(frozen=True, slots=True, kw_only=True)
class Narrowing:
    """Options that restrict the kernel suite. None, or no formats, means all.

    Attributes:
        formats, scale_rule, rounding: choose cells.
        block_size, dtype, axis: choose examples of a cell. `dtype` is torch's name; an axis may be counted
            from either end.
    """

    formats: tuple[str, ...] = ()
    scale_rule: str | None = None
    rounding: str | None = None
    block_size: int | None = None
    dtype: str | None = None
    axis: int | None = None

    @property
    def every_example(self) -> bool:
        """True if all examples of a cell are asked."""
        return self.block_size is None and self.dtype is None and self.axis is None

    def cells(self, level: str) -> tuple[Cell, ...]:
        """Return the cells of a level that are asked for. A rule and a rounding that are both named make a
        cell even where the level has them only apart.

        Raises:
            ValueError: there is no such cell.
        """
        named = None if None in (self.scale_rule, self.rounding) else (self.scale_rule, self.rounding)
        there = set(cells(level))
        found = [
            cell
            for cell in cells("full")
            if cell in there or (named == (cell.scale_rule, cell.rounding) and cell.nonfinite == "block")
        ]
        left = tuple(cell for cell in found if self._takes_cell(cell))
        if not left:
            raise ValueError(f"no cell of the kernel suite is left: {self}; drop one of them")
        return left

    def _takes_cell(self, cell: Cell) -> bool:
        block = block_format(cell.format)
        return (
            (not self.formats or cell.format in self.formats)
            and self.scale_rule in (None, cell.scale_rule)
            and self.rounding in (None, cell.rounding)
            and (self.block_size is None or block.scale == E8M0 or block.block_size == self.block_size)
        )

    def domain(self) -> Domain:
        """Return the domain that it leaves. Imports torch."""
        from mxcheck.kernels.domain import DTYPES, Domain

        return Domain(
            formats=self.formats or None,
            scale_rules=None if self.scale_rule is None else (self.scale_rule,),
            roundings=None if self.rounding is None else (self.rounding,),
            block_sizes=None if self.block_size is None else (self.block_size,),
            dtypes=tuple(DTYPES.values()) if self.dtype is None else (DTYPES[self.dtype],),
            axes=None if self.axis is None else (self.axis,),
        )

    def takes(self, x: Tensor, spec: CastSpec) -> bool:
        """Return whether this example is asked for."""
        return (
            self.block_size in (None, spec.block_size)
            and (self.dtype is None or str(x.dtype) == f"torch.{self.dtype}")
            and (
                self.axis is None
                or (-x.dim() <= self.axis < x.dim() and (self.axis - spec.axis) % x.dim() == 0)
            )
        )

    def __str__(self) -> str:
        """The command-line options that express it."""
        said = {
            "format": ",".join(self.formats),
            "scale-rule": self.scale_rule,
            "rounding": self.rounding,
            "block-size": self.block_size,
            "dtype": self.dtype,
            "axis": self.axis,
        }
        return " ".join(f"--mx-{name}={value}" for name, value in said.items() if value not in (None, ""))


EVERYTHING = Narrowing()
