"""Compare the answers of a program to a file of cases with the oracle (`mxcheck verify`)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mxcheck.conformance.cases.generator import Example
from mxcheck.conformance.cell_run import MOST_COUNTEREXAMPLES, CellResult, counterexamples
from mxcheck.conformance.programs.case_files import CasesFile, packed_case
from mxcheck.conformance.programs.case_header import CaseFileError
from mxcheck.conformance.programs.case_results import Answer, ResultsReader, returned
from mxcheck.conformance.programs.program import RESULTS_NAME, Program, ProgramError, failure_of
from mxcheck.conformance.shrink.shrinker import Counterexample, cut_out
from mxcheck.conformance.verify.causes_of_mismatches import Cause, Mismatch, Sightings, causes
from mxcheck.conformance.verify.conditions import OF_SHAPE, Condition
from mxcheck.conformance.verify.verifier import Comparison, compare
from mxcheck.formats.blocks import E4M3
from mxcheck.formats.oracle import Parts
from mxcheck.formats.spec import CastSpec, resolve_axis
from mxcheck.kernels.domain import NotSupported

#: A tensor with one scale is shown whole if it has at most this many elements.
_SHOWN_WHOLE = 256
# Stop asking single cases after this many errors.
_MOST_ERRORS = 3
# Seconds for shrinking all examples of a program together.
_SHRINKING = 120.0


@dataclass(slots=True)
class Compared:
    """Result of comparing the answers to a file of cases.

    Attributes:
        cases, elements: numbers compared.
        refused: reason -> (cases, elements) that the program does not support.
        counts: group -> kind -> number of mismatches.
        failure: how the program failed; empty where it did not.
        stderr: its first line on stderr, if it did not fail.
    """

    cases: int = 0
    elements: int = 0
    refused: dict[str, tuple[int, int]] = field(default_factory=dict)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    failure: str = ""
    stderr: str = ""
    errors: int = 0
    sightings: Sightings = field(default_factory=Sightings)

    def add(self, case: Example, comparison: Comparison) -> None:
        """Add the comparison of one case."""
        size = case.x.numel()
        if comparison.unsupported is not None:
            cases, elements = self.refused.get(comparison.unsupported, (0, 0))
            self.refused[comparison.unsupported] = cases + 1, elements + size
            return
        if comparison.error:
            self.errors += 1
        else:
            self.cases, self.elements = self.cases + 1, self.elements + size
        for kind, count in comparison.counts.items():
            group = self.counts.setdefault(case.group, {})
            group[kind] = group.get(kind, 0) + count
        self.sightings.add(case, comparison)

    @property
    def result(self) -> CellResult:
        """The result in the form that a kernel's has."""
        return CellResult(
            elements=self.elements, unsupported={}, counts=self.counts, mismatches=self.sightings.mismatches()
        )


# --- results in a file


def compare_results(cases: CasesFile, reader: ResultsReader) -> Compared:
    """Compare the results that a reader gives with the oracle.

    Raises:
        CaseFileError: the results belong to other cases, or are too few or too many.
    """
    held = Compared()
    for case, answer in zip(cases.examples(), _answers(cases, reader), strict=True):
        held.add(case, _compared(answer, case))
    reader.end()
    return held


def _answers(cases: CasesFile, reader: ResultsReader) -> Iterator[Answer]:
    reader.start()
    yield from map(reader.answer, cases.examples())


def _compared(answer: Answer, case: Example) -> Comparison:
    return compare(partial(_given, answer), case.x, case.spec)


def _given(answer: Answer, _: Tensor, __: CastSpec) -> tuple[Tensor, ...] | Tensor:
    """Return an answer that was given before, as a kernel."""
    return returned(answer)


def cut_examples(held: Compared) -> list[tuple[str, Counterexample]]:
    """Return (group, example) of each cause: the block that shows it, cut out of its case unchanged. The
    program cannot be asked for smaller shapes, so a mismatch that shows in shapes under different conditions
    counts as independent of the shape."""
    found: dict[tuple[str, str, Condition], Cause] = {}
    for one in causes(held.sightings.mismatches()):
        sighting = one.mismatch.sighting
        key = sighting.kind, sighting.effect, sighting.conditions & ~OF_SHAPE
        if (first := found.get(key)) is not None:
            known = first.mismatch.sighting
            both = replace(known, conditions=known.conditions & sighting.conditions)
            one = replace(
                first, mismatch=replace(first.mismatch, sighting=both), count=first.count + one.count
            )
        found[key] = one
    return [
        (one.mismatch.example.group, _cut(one.mismatch, count=one.count, is_open=one.open))
        for one in list(found.values())[:MOST_COUNTEREXAMPLES]
    ]


def _cut(one: Mismatch, *, count: int, is_open: bool) -> Counterexample:
    x, spec, place = one.example.x, one.example.spec, one.sighting.place
    if _scaled_together(spec) and x.numel() > _SHOWN_WHOLE:
        seen = replace(one.seen, places={**one.seen.places, one.kind: place})
        found = cut_out(x, spec, one.kind, seen, "all of which share a scale")
    else:
        box, of_scale = _boxes(x, spec, place)
        random = None if spec.random is None else spec.random[box].contiguous()
        block, block_spec = x[box].contiguous(), replace(spec, random=random)
        got = tuple(part[where] for part, where in zip(one.seen.got, (box, of_scale, ()), strict=False))
        cut_off = f"at {list(place)} of a tensor of shape {tuple(x.shape)}"
        found = Counterexample(
            kind=one.kind,
            x=block,
            spec=block_spec,
            comparison=compare(partial(_given, _as_result(got, x)), block, block_spec),
            note=cut_off if block.shape != x.shape else "",
        )
    return replace(found, sighting=one.sighting, count=count, open=is_open)


def _scaled_together(spec: CastSpec) -> bool:
    return spec.block.scale == E4M3 or spec.block.whole_tensor


def _boxes(x: Tensor, spec: CastSpec, place: tuple[int, ...]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return the slices of the elements that share the scale at `place`, and of that scale."""
    if _scaled_together(spec):
        return (slice(None),) * x.dim(), (slice(None),) * x.dim()
    axis = resolve_axis(x.dim(), spec.axis)
    box = [slice(index, index + 1) for index in place]
    of_scale = list(box)
    block = 0 if spec.block_size is None else place[axis] // spec.block_size
    of_scale[axis] = slice(block, block + 1)
    start = block * (spec.block_size or 0)
    box[axis] = slice(start, start + (spec.block_size or x.shape[axis]))
    return tuple(box), tuple(of_scale)


def _as_result(got: Parts, x: Tensor) -> tuple[Tensor, ...] | Tensor:
    parts = tuple(torch.from_numpy(np.array(part)) for part in got)
    return parts[0].to(x.dtype) if len(parts) == 1 else parts


# --- a program that is asked


def compare_program(asked: Program, cases: CasesFile, folder: Path) -> Compared:
    """Let a program answer all cases in one run, and compare. If it fails, ask the remaining cases one by
    one, until a few end in an error or time is up; ask none after a timeout. Its files are written to
    `folder`.

    Raises:
        ValueError: the program cannot be started.
    """
    results = folder / "results"
    until = time.monotonic() + asked.run_limit
    ended = asked.run(cases, results, asked.run_limit)
    held, reason = Compared(), ""
    with results.open("rb") as file:
        reader = ResultsReader(file=file, name=RESULTS_NAME, header=cases.header)
        answers = _answers(cases, reader)
        for case in cases.examples():
            if not reason:
                try:
                    held.add(case, _compared(next(answers), case))
                    continue
                except CaseFileError as error:
                    reason = failure_of(ended, reader, error)
            if ended.hung:
                break
            if held.errors == _MOST_ERRORS:
                reason += f"; after {_MOST_ERRORS} cases that ended so the others were not asked"
                break
            if time.monotonic() > until:
                reason += f"; the cases that are left were asked until {asked.run_limit:g} s were over"
                break
            held.add(case, compare(asked, case.x, case.spec))
        if not reason:
            try:
                reader.end()
            except CaseFileError as error:
                reason = failure_of(ended, reader, error)
    held.failure = reason or (ended.words if ended.failure else "")
    held.stderr = "" if held.failure else ended.stderr
    return held


def shrunk_examples(asked: Program, held: Compared) -> list[tuple[str, Counterexample]]:
    """Return (group, smallest input) of each cause, by asking the program again. A mismatch that shows only
    among other cases is cut out of them."""
    patient = _Patient(asked=asked, until=time.monotonic() + _SHRINKING)
    mismatches = held.sightings.mismatches()
    found = []
    for group, one in counterexamples(patient, held.result):
        # A mismatch that did not show again is reported from the call that showed it.
        first = next(
            (
                other
                for other in mismatches
                if other.seen in (one.comparison, one.cut_from) and other.sighting == one.sighting
            ),
            None,
        )
        if first is None or first.kind == "error":
            shown = one
        elif patient.over:
            shown = _cut(first, count=one.count, is_open=one.open)
        else:
            cut = cut_out(
                first.example.x,
                first.example.spec,
                first.kind,
                first.seen,
                "answered together with others; asked alone it gives the expected bits",
            )
            shown = replace(cut, sighting=first.sighting, count=one.count)
        if patient.over:
            stopped = f"not shrunk for longer than {_SHRINKING:g} s"
            shown = replace(shown, note="; ".join(filter(None, (shown.note, stopped))))
        found.append((group, shown))
    return found


@dataclass(slots=True)
class _Patient:
    """A program that is asked until its time is over. After that every input it has not yet answered is
    unsupported, so a search stops where it is."""

    asked: Program
    until: float
    answered: dict[bytes, Any] = field(default_factory=dict)
    over: bool = False

    def __call__(self, x: Tensor, spec: CastSpec) -> Any:
        key = sha256(packed_case(0, Example(group="", x=x, spec=spec))).digest()
        if time.monotonic() < self.until:
            try:
                self.answered[key] = self.asked(x, spec)
            except ProgramError as error:
                self.answered[key] = error
        else:
            self.over = True
        answer = self.answered.get(key)
        if answer is None:
            raise NotSupported("the time for shrinking is over")
        if isinstance(answer, ProgramError):
            raise answer
        return answer
