"""Compare the kernel of a model run with the oracle, on the cells of the kernel suite that its cases cast
with.

A model forgives: a scale that is wrong only for amax just below a power of two changes no figure of a small
text. So the kernel is first tested at `quick`, once per process, on each format, rule, rounding and block
size that a recipe casts with. Our own kernel is not tested: the kernel suite does that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import wraps
from typing import TYPE_CHECKING, Any

from mxcheck.files.printed import one_line, printable
from mxcheck.gate.kernel_cells import (
    EXACT,
    KNOWN,
    LAST_BIT,
    NOT_COMPARED,
    NOT_COUNTED,
    RED,
    SILENT,
    KernelCell,
)
from mxcheck.kernels.registry import OWN
from mxcheck.measure.kernel_check import model_kernel
from mxcheck.models.zoo.refusal import is_out_of_memory

if TYPE_CHECKING:
    from mxcheck.conformance.cases.cells import Cell
    from mxcheck.conformance.cases.narrowing import Narrowing
    from mxcheck.conformance.compared_cell import ComparedCell
    from mxcheck.kernels.api import Kernel
    from mxcheck.kernels.registry import Implementation
    from mxcheck.models.recipes.recipe import Recipe

LEVEL = "quick"


class KernelCells:
    """Test results of a process's kernels."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, Cell, int | None], KernelCell] = {}

    def of(self, recipe: Recipe, device: str, tell: Callable[[str], object]) -> dict[str, KernelCell]:
        """Return by name each cell that a recipe casts with, testing its kernel on `device` unless that was
        done before; empty for our own kernel. `tell` is called for each cell that is tested now.

        Raises:
            ValueError: the kernel cannot be loaded; one line.
        """
        for name, key in _named(recipe):
            if key not in self._known:
                model_kernel(recipe)
                tell(name)
                self._known[key] = _held(*key, device)
        return self.so_far(recipe)

    def so_far(self, recipe: Recipe) -> dict[str, KernelCell]:
        """Return the same, for the cells tested so far."""
        return {name: self._known[key] for name, key in _named(recipe) if key in self._known}


def _named(recipe: Recipe) -> Iterator[tuple[str, tuple[str, Cell, int | None]]]:
    """Yield each cell of a recipe by name, with the key of its test; none for our own kernel."""
    for cell, block_size in cells_of(recipe) if recipe.kernel not in OWN else ():
        own = block_size == cell.spec().block_size
        name = cell.id if own else f"{cell.id} in blocks of {block_size}"
        yield name, (recipe.kernel, cell, block_size)


def cells_of(recipe: Recipe) -> Iterator[tuple[Cell, int | None]]:
    """Yield each cell that a recipe casts with, and its block size."""
    from mxcheck.conformance.cases.cells import Cell
    from mxcheck.models.recipes.ladder import BF16

    for operand in recipe.operands:
        if operand.format != BF16:
            spec = operand.spec(axis=-1)
            yield (
                Cell(
                    format=spec.format,
                    scale_rule=spec.scale_rule,
                    rounding=spec.rounding,
                    nonfinite=spec.nonfinite,
                ),
                spec.block_size,
            )


def _held(name: str, cell: Cell, block_size: int | None, device: str) -> KernelCell:
    from mxcheck.conformance.cases.narrowing import Narrowing
    from mxcheck.conformance.compared_cell import compare_cell
    from mxcheck.conformance.implementation.accelerator import on_device
    from mxcheck.kernels.api import resolve_kernel
    from mxcheck.kernels.domain import NotSupported
    from mxcheck.kernels.registry import implementation

    no_memory: list[Exception] = []
    kernel = _noting(no_memory, on_device(resolve_kernel(name)[0], device))
    of = implementation(name)
    # Named, so that a kernel that ignores its rule is tested on the case's.
    named = Narrowing(
        formats=(cell.format,), scale_rule=cell.scale_rule, rounding=cell.rounding, block_size=block_size
    )
    usual = block_size == cell.spec().block_size
    try:
        asked = kernel if usual else _in_blocks_of(block_size, kernel, cell, named)
    except NotSupported as error:
        return KernelCell(verdict=NOT_COMPARED, words=one_line(str(error)))
    held = compare_cell(asked, of, cell, LEVEL, named)
    if no_memory:  # the machine's fault, not the kernel's: the case waits for more, or reports it
        raise no_memory[0].with_traceback(None)
    if not usual and held.verdict in ("red", "known") and _as_counted(held, of, cell):
        return KernelCell(verdict=NOT_COUNTED, words=", ".join(one.name for one in held.known))
    return _told(held, of)


def _noting(no_memory: list[Exception], kernel: Kernel) -> Kernel:
    """Call the kernel until memory runs out; then note that, and call it no more."""

    @wraps(kernel)  # keeps the domain that it declares
    def noting(x: Any, spec: Any) -> Any:
        if no_memory:
            raise no_memory[0]
        try:
            return kernel(x, spec)
        except (MemoryError, RuntimeError) as error:
            if is_out_of_memory(error):
                no_memory.append(error)
            raise

    return noting


def _in_blocks_of(block_size: int | None, kernel: Kernel, cell: Cell, named: Narrowing) -> Kernel:
    """Restrict the kernel's domain to one block size, in which all of a cell is then tested.

    Raises:
        NotSupported: it declares no domain, and refuses every input.
    """
    from mxcheck.conformance.implementation.learned_domain import learned_domain
    from mxcheck.kernels.domain import declared, domain_of

    @wraps(kernel)
    def in_blocks(x: Any, spec: Any) -> Any:
        return kernel(x, replace(spec, block_size=block_size))

    made_for = domain_of(kernel) or learned_domain(in_blocks, cell, named.domain()).domain
    return declared(in_blocks, replace(made_for, block_sizes=(block_size,)))


def _told(held: ComparedCell, of: Implementation) -> KernelCell:
    """Describe a cell in words."""
    from mxcheck.conformance.cell_run import MOST_COUNTEREXAMPLES
    from mxcheck.conformance.failure_text import summary

    if held.result.reason is not None:
        return KernelCell(verdict=NOT_COMPARED, words=one_line(held.result.reason))
    if not held.result.counts:  # the kernel suite reports a known finding that is gone
        return KernelCell(verdict=EXACT)
    if held.verdict == "last bit":
        return KernelCell(verdict=LAST_BIT)
    if held.verdict == "known":
        kinds = {kind for found in held.result.counts.values() for kind in found}
        return KernelCell(
            verdict=KNOWN, words=", ".join(one.name for one in held.known if kinds.intersection(one.kinds))
        )
    causes = [one for _, one in held.smallest]
    words = f"causes: {summary(causes)}"
    if not held.known and len(causes) < MOST_COUNTEREXAMPLES and all(one.open for one in causes):
        return KernelCell(verdict=SILENT, words=words)
    words = f"{held.likeness}; {words}" if held.likeness else words
    return KernelCell(verdict=RED, words=printable(words), example=held.first_example(of))


def _as_counted(held: ComparedCell, of: Implementation, cell: Cell) -> bool:
    """Return whether each group of inputs, in any dtype, shows no other kinds of mismatch than were counted
    with the usual block size: for others there are no counts."""
    from mxcheck.conformance.findings import known_counts

    counted = known_counts(of.name, cell.id, LEVEL)
    return bool(held.result.counts) and all(
        kinds.keys() <= counted.get(group, {}).keys() | counted.get(group.partition(",")[0], {}).keys()
        for group, kinds in held.result.counts.items()
    )
