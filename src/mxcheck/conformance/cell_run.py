"""Run one cell of the matrix for one implementation: generator, implementation and verifier."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch

from mxcheck.conformance.cases.cells import Cell, cells
from mxcheck.conformance.cases.generator import Example, examples, own_block_size
from mxcheck.conformance.cases.narrowing import EVERYTHING, Narrowing
from mxcheck.conformance.failure_text import results
from mxcheck.conformance.findings import Finding
from mxcheck.conformance.implementation.learned_domain import Learned, learned_domain
from mxcheck.conformance.shrink.counterexample import Counterexample
from mxcheck.conformance.shrink.examples_of_causes import examples_of
from mxcheck.conformance.verify.asked_again import Asked, asked_again, surrounded
from mxcheck.conformance.verify.batches import in_batches
from mxcheck.conformance.verify.causes_of_mismatches import Mismatch, Sightings, causes
from mxcheck.conformance.verify.kept_results import changed_since, kept_results
from mxcheck.conformance.verify.matrices import matrices
from mxcheck.conformance.verify.sightings import without_numbers
from mxcheck.conformance.verify.verifier import compare
from mxcheck.formats.notation import parse_hex
from mxcheck.formats.oracle import Parts
from mxcheck.kernels.api import Kernel
from mxcheck.kernels.domain import Domain, NotSupported, domain_of

MOST_COUNTEREXAMPLES = 8
# Stop after this many first examples with the same error: the others would give it too.
_SAME_ERRORS = 6


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CellResult:
    """Result of a cell.

    Attributes:
        elements: number of elements compared.
        unsupported: group -> reason, for what the implementation does not support.
        counts: group -> kind -> number of mismatches.
        mismatches: each sort of mismatch once; of equal errors the first.
        calls: number of calls compared.
        domain: its restrictions in words; `learned` says why, where nothing was declared.
    """

    elements: int
    unsupported: dict[str, str]
    counts: dict[str, dict[str, int]]
    mismatches: list[Mismatch]
    calls: int = 0
    domain: str = ""
    learned: tuple[str, ...] | None = None

    @property
    def reason(self) -> str | None:
        """Reason why nothing was compared; None where something was."""
        return None if self.elements else next(iter(self.unsupported.values()), "no example is asked for")


def run_cell(
    kernel: Kernel,
    cell: Cell,
    level: str,
    narrowing: Narrowing = EVERYTHING,
    *,
    as_recorded: bool = False,
) -> CellResult:
    """Run every example of a cell, as far as the narrowing asks for it, through an implementation.

    Examples lie inside its declared domain, or inside the one learned from its refusals. An implementation
    that gives only the same error for the first examples is asked nothing more.

    Args:
        as_recorded: ask only the examples of the narrowing that a run without one asks too, rearranging none:
            known mismatches are counted in these.
    """
    declared = domain_of(kernel)
    learned: Learned | None = None
    try:
        if declared is None:
            learned = learned_domain(kernel, cell, narrowing.domain())
            domain = learned.domain
        else:
            domain = declared if as_recorded else declared.within(narrowing.domain())
    except NotSupported as error:
        return CellResult(elements=0, unsupported={"every group": str(error)}, counts={}, mismatches=[])
    if why := domain.refuses_cast(cell.spec(block_size=own_block_size(cell, domain))):
        outside = {"every group": f"outside of its domain: {why}"}
        return CellResult(elements=0, unsupported=outside, counts={}, mismatches=[])
    elements = 0
    unsupported: dict[str, str] = {}
    counts: dict[str, dict[str, int]] = {}
    sightings = Sightings()
    errors: list[str] = []
    single_rows = learned is not None and learned.single_rows
    for one in _asked(kernel, cell, level, domain, narrowing, single_rows=single_rows):
        example, comparison = one.example, one.comparison
        if comparison.unsupported is not None:
            unsupported.setdefault(example.group, comparison.unsupported)
            continue
        elements += example.x.numel()
        errors.append(without_numbers(comparison.error))
        for kind, count in comparison.counts.items():
            group = counts.setdefault(example.group, {})
            group[kind] = group.get(kind, 0) + count
        sightings.add(example, comparison, one.words)
        if len(errors) == _SAME_ERRORS and errors[0] and len(set(errors)) == 1:
            break
    return CellResult(
        elements=elements,
        unsupported=unsupported,
        counts=counts,
        mismatches=sightings.mismatches(),
        calls=sightings.calls,
        domain=domain.words,
        learned=None if learned is None else learned.because,
    )


def _asked(
    kernel: Kernel, cell: Cell, level: str, domain: Domain, narrowing: Narrowing, *, single_rows: bool
) -> Iterator[Asked]:
    """Compare each example with the oracle; then numbers in other surroundings, results kept since before the
    first example and, last, the first example again with its first answer."""
    first: Example | None = None
    got: Parts = ()
    plain = surrounded(cell, domain)
    surroundings = narrowing.takes(plain.x, plain.spec)
    kept = kept_results(kernel, cell, domain) if surroundings else []
    for example in examples(cell, level, domain):
        if not narrowing.takes(example.x, example.spec):
            continue
        comparison = compare(kernel, example.x, example.spec)
        if first is None:
            first, got = example, tuple(part.copy() for part in comparison.got)
        yield Asked(example=example, comparison=comparison)
    held = matrices(cell, level, domain)
    if single_rows:
        held = chain(matrices(cell, level, replace(domain, least_rows=1, rows_multiple=1), rows=(1,)), held)
    for one in held:
        if narrowing.takes(one.example.x, one.example.spec):
            comparison = compare(kernel, one.example.x, one.example.spec, oracle=one.expected)
            yield Asked(example=one.example, comparison=comparison)
    if surroundings:
        yield from asked_again(kernel, cell, level, domain)
        yield from in_batches(kernel, cell, domain)
        yield from changed_since(kernel, kept)
    if first is not None and got:
        yield Asked(
            example=replace(first, group="asked_again"),
            comparison=compare(kernel, first.x, first.spec, got),
            words="asked again after all else; asked first it gave other bits",
        )


def counterexamples(kernel: Kernel, result: CellResult) -> list[tuple[str, Counterexample]]:
    """Return (group, smallest input) of each cause of a cell's mismatches; see `examples_of`."""
    return examples_of(kernel, causes(result.mismatches), most=MOST_COUNTEREXAMPLES, calls=result.calls)


def reproduce(kernel: Kernel, finding: Finding) -> dict[str, Any]:
    """Cast a finding's counterexample with an implementation, and return the result under the keys of
    `as_data`."""
    told = finding.counterexample
    cell = next(one for one in cells("full") if (one.format, one.rule) == (told["format"], told["rule"]))
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
