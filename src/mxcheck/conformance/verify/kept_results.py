"""Check results that a caller keeps: they must not change while the kernel is called again.

A kernel that returns one of a few buffers of its own, or views into its workspace, is right at each call but
changes what it returned before. So the results of a few calls are kept, and compared again after all other
calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mxcheck.conformance.cases.cells import Cell
from mxcheck.conformance.cases.generator import ANYTHING, Example, placed, spread_with_ties
from mxcheck.conformance.cases.seeded_random import Draws
from mxcheck.conformance.verify.asked_again import Asked
from mxcheck.conformance.verify.causes_of_mismatches import KEPT_RESULTS
from mxcheck.conformance.verify.verifier import Comparison, judged, outcome
from mxcheck.formats.spec import CastSpec
from mxcheck.kernels.api import Kernel
from mxcheck.kernels.domain import Domain

#: Calls with different numbers of one shape: a kernel with fewer buffers reuses one.
CALLS = 12
_SHAPE = (4, 64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Kept:
    """A result as returned, which may be the kernel's memory, and a copy of it from `then`; for a call
    without a result, its comparison."""

    example: Example
    returned: Any
    then: Comparison


def kept_results(kernel: Kernel, cell: Cell, domain: Domain = ANYTHING) -> list[Kept]:
    """Keep the results of `CALLS` calls with small inputs; only the first call of a kernel that gives
    none."""
    found = []
    for number in range(CALLS):
        one = placed(KEPT_RESULTS, spread_with_ties(_SHAPE, Draws(f"kept {number}")), cell, domain)
        returned: list[Any] = []

        def call(x: Tensor, spec: CastSpec, returned: list[Any] = returned) -> Any:
            returned.append(kernel(x, spec))
            return returned[0]

        seen = outcome(call, one.x, one.spec)
        if not seen.got:
            return [Kept(example=one, returned=None, then=seen)]
        found.append(Kept(example=one, returned=returned[0], then=seen))
    return found


def changed_since(kernel: Kernel, kept: list[Kept]) -> Iterator[Asked]:
    """Compare each kept result with its copy."""
    for one in kept:
        if not one.then.got:
            yield Asked(example=one.example, comparison=one.then)
            continue
        yield Asked(
            example=one.example,
            comparison=judged(kernel, one.returned, one.example.x, one.example.spec, one.then.got),
            words="its result was overwritten by a later call: the kernel returns memory that it uses again; "
            "when it was returned it had the expected bits",
        )
