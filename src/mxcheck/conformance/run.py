"""One cell of the matrix for one implementation: generator, implementation and verifier put together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from mxcheck.conformance.asked_again import Asked, asked_again, surrounded
from mxcheck.conformance.cells import Cell, cells
from mxcheck.conformance.describe import results
from mxcheck.conformance.findings import Finding
from mxcheck.conformance.generator import Example, examples
from mxcheck.conformance.narrowing import EVERYTHING, Narrowing
from mxcheck.conformance.shrinker import Counterexample, cut_out, shrink
from mxcheck.conformance.verifier import KINDS, Comparison, compare
from mxcheck.formats.notation import parse_hex
from mxcheck.formats.oracle import Parts
from mxcheck.kernels.api import Kernel

MOST_COUNTEREXAMPLES = 8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mismatch:
    """The first mismatch of a kind in a group: what the shrinker starts from. `surroundings` say what of the
    call it takes, where the numbers alone do not show it."""

    kind: str
    example: Example
    seen: Comparison
    surroundings: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CellResult:
    """What came of a cell.

    Attributes:
        elements: number of elements that were compared.
        unsupported: group -> why, for what the implementation does not do.
        counts: group -> kind -> number of mismatches.
        mismatches: the first of each group and kind.
    """

    elements: int
    unsupported: dict[str, str]
    counts: dict[str, dict[str, int]]
    mismatches: list[Mismatch]

    @property
    def reason(self) -> str | None:
        """Why nothing was compared; None where something was."""
        return None if self.elements else next(iter(self.unsupported.values()), "no example is asked for")


def run_cell(kernel: Kernel, cell: Cell, level: str, narrowing: Narrowing = EVERYTHING) -> CellResult:
    """Put every example of a cell, of those that are asked for, through an implementation.

    An implementation that refuses the first, plain example is asked nothing more.
    """
    elements = 0
    unsupported: dict[str, str] = {}
    counts: dict[str, dict[str, int]] = {}
    mismatches: list[Mismatch] = []
    for number, one in enumerate(_asked(kernel, cell, level, narrowing)):
        example, comparison = one.example, one.comparison
        if comparison.unsupported is not None:
            unsupported.setdefault(example.group, comparison.unsupported)
            if number == 0:
                break
            continue
        elements += example.x.numel()
        for kind, count in comparison.counts.items():
            group = counts.setdefault(example.group, {})
            if kind not in group:
                mismatches.append(
                    Mismatch(kind=kind, example=example, seen=comparison, surroundings=one.words)
                )
            group[kind] = group.get(kind, 0) + count
    return CellResult(elements=elements, unsupported=unsupported, counts=counts, mismatches=mismatches)


def _asked(kernel: Kernel, cell: Cell, level: str, narrowing: Narrowing) -> Iterator[Asked]:
    """Each example held against the oracle; then numbers in other surroundings and, last of all, the first
    example again, held against what it gave before."""
    first: Example | None = None
    got: Parts = ()
    for example in examples(cell, level):
        if not narrowing.takes(example.x, example.spec):
            continue
        comparison = compare(kernel, example.x, example.spec)
        if first is None:
            first, got = example, tuple(part.copy() for part in comparison.got)
        yield Asked(example=example, comparison=comparison)
    plain = surrounded(cell)
    if narrowing.takes(plain.x, plain.spec):
        yield from asked_again(kernel, cell, level)
    if first is not None and got:
        yield Asked(
            example=replace(first, group="asked_again"),
            comparison=compare(kernel, first.x, first.spec, got),
            words="asked again after all else; asked first it gave other bits",
        )


def counterexamples(kernel: Kernel, result: CellResult) -> list[tuple[str, Counterexample]]:
    """(group, smallest input) of a cell's mismatches, at most `MOST_COUNTEREXAMPLES`: first one for each
    kind, then for other groups; inputs that shrank to the same only once."""
    in_order = sorted(result.mismatches, key=lambda one: KINDS.index(one.kind))
    leading = list({one.kind: one for one in reversed(in_order)}.values())[::-1]
    rest = [one for one in in_order if one not in leading]
    found: dict[str, tuple[str, Counterexample]] = {}
    for one in [*leading, *rest][:MOST_COUNTEREXAMPLES]:
        smallest = _smallest(kernel, one)
        same = (
            smallest.kind,
            smallest.x.dtype,
            smallest.x.shape,
            tuple(smallest.x.double().flatten().tolist()),
        )
        found.setdefault(repr(same), (one.example.group, smallest))
    return list(found.values())


def _smallest(kernel: Kernel, one: Mismatch) -> Counterexample:
    x, spec = one.example.x, one.example.spec
    if one.surroundings:
        return cut_out(x, spec, one.kind, one.seen, one.surroundings)
    return shrink(kernel, x, spec, one.kind, one.seen)


def reproduce(kernel: Kernel, finding: Finding) -> dict[str, Any]:
    """What an implementation makes of a finding's counterexample today: the same keys, as `as_data` has
    them."""
    told = finding.counterexample
    cell = next(one for one in cells("full") if one.id == f"{told['format']}-{told['rule']}")
    words = told["input"].split()
    shape = tuple(told.get("shape") or [parse_hex(words).size])
    x = torch.from_numpy(parse_hex(words).reshape(shape)).to(getattr(torch, told.get("dtype", "float32")))
    spec = cell.spec(axis=told.get("axis", -1), block_size=told.get("block_size"))
    comparison = compare(kernel, x, spec)
    if comparison.unsupported is not None:
        raise ValueError(
            f"{finding.name}: {finding.implementation} does not do this: {comparison.unsupported}"
        )
    return {key: value for key, value in results(comparison).items() if key in told}
