"""Verdicts of the kernel suite for the cells that a case casts with, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mxcheck.files.printed import got

EXACT, LAST_BIT, KNOWN, NOT_COUNTED, SILENT, NOT_COMPARED, RED = (
    "exact",
    "in the last bit",
    "known",
    "like what is known, but not counted at this block size",
    "where OCP is silent",
    "not compared",
    "red",
)
VERDICTS = (EXACT, LAST_BIT, KNOWN, NOT_COUNTED, SILENT, NOT_COMPARED, RED)


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelCell:
    """The result of comparing a kernel with the oracle for one format, rule and rounding.

    Attributes:
        verdict: `exact`; `in the last bit`: values of a format whose scale has a significand; `known`: only
            the findings of a published implementation differ, in the recorded numbers; `like what is known,
            but not counted at this block size`: differences of the same kinds from the same groups of inputs,
            without recorded numbers; `where OCP is silent`: only differences where OCP specifies nothing;
            `not compared`: the kernel refuses the cast; `red`: bits are wrong.
        words: empty for `exact`; otherwise the findings, the differences or the reason, in one line.
        example: lines of the first counterexample of a red cell.
    """

    verdict: str
    words: str = ""
    example: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedKernel:
    """A named kernel, and its result for each cell that was tested."""

    name: str
    cells: Mapping[str, KernelCell]

    @property
    def wrong(self) -> str:
        """The kernel's differences from the oracle in one line, or empty."""
        wrong = [f"{name}: {one.words}" for name, one in self.cells.items() if one.verdict == RED]
        return f"the kernel {self.name} differs from the oracle: {'; '.join(wrong)}" if wrong else ""

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {"name": self.name, "cells": kernel_cells_as_dict(self.cells)}


def asked_kernel_from_dict(data: Any) -> AskedKernel | None:
    """Decode the output of `AskedKernel.as_dict`; None gives None. Raises ValueError for anything else."""
    if data is None:
        return None
    if not isinstance(data, dict) or data.keys() != {"name", "cells"} or not isinstance(data["name"], str):
        raise ValueError(f"a kernel that was asked must be a table of its name and cells, got {got(data)}")
    if not isinstance(data["cells"], dict):
        raise ValueError(f"the cells of a kernel must be a table, got {got(data['cells'])}")
    return AskedKernel(name=data["name"], cells=kernel_cells_from_dict(data["cells"]))


def kernel_cells_as_dict(cells: Mapping[str, KernelCell]) -> dict[str, Any]:
    """Return plain JSON types."""
    return {name: {**asdict(one), "example": list(one.example)} for name, one in cells.items()}


def kernel_cells_from_dict(data: Mapping[str, Any]) -> dict[str, KernelCell]:
    """Decode the output of `kernel_cells_as_dict`. Raises ValueError for anything else."""
    return {name: _cell(name, one) for name, one in data.items()}


def _cell(name: str, data: Any) -> KernelCell:
    if not isinstance(data, dict) or data.keys() != {"verdict", "words", "example"}:
        raise ValueError(
            f"a cell of a kernel must be a table of its verdict, words and example, got {got(data)}"
        )
    words, example = data["words"], data["example"]
    if data["verdict"] not in VERDICTS:
        raise ValueError(f"the verdict of {got(name)} must be one of {', '.join(VERDICTS)}")
    if not isinstance(example, list) or not all(isinstance(one, str) for one in (words, *example)):
        raise ValueError(f"words and example of {got(name)} must be texts, got {got(data)}")
    return KernelCell(verdict=data["verdict"], words=words, example=tuple(example))


def examples(cells: Mapping[str, KernelCell]) -> list[str]:
    """Return the lines of the red cells' counterexamples."""
    return [line for one in cells.values() if one.verdict == RED for line in one.example]
