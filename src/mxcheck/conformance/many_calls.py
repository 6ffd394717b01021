"""Find faults that a cell is too short for: one input cast thousands of times, and by two free-running
threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mxcheck.conformance.cases.cells import Cell, cells
from mxcheck.conformance.cases.generator import Example, placed, spread_with_ties
from mxcheck.conformance.cases.seeded_random import Draws
from mxcheck.conformance.implementation.learned_domain import learned_domain
from mxcheck.conformance.verify.side_by_side import in_two_threads
from mxcheck.conformance.verify.verifier import Comparison, compare, failed, judged, outcome
from mxcheck.formats.spec import CastSpec
from mxcheck.kernels.api import Kernel, fake_quantize, quantize
from mxcheck.kernels.domain import Domain, NotSupported, domain_of
from mxcheck.kernels.kept_settings import put_settings, settings, settings_kept
from mxcheck.kernels.quantized import QuantizedTensor
from mxcheck.kernels.usual_settings import usual_settings

#: Number of calls of `quantize` and of `fake_quantize` with one tiny tensor.
CALLS = 6000
#: Most seconds per loop for a slow kernel: CPU time of the thread, and wall time for one that waits for a
#: device or another process.
MOST_SECONDS, MOST_WAITING = 5.0, 30.0
#: Number of calls that two threads start at the same moment.
_ROUNDS = 200
_TINY, _LONG = (1, 64), (130, 256)
# Torch gives a second thread to tensors of more than 2^15 elements.
_FOR_TWO = (520, 256)

Arrays = tuple[NDArray[Any], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ManyCalls:
    """Result of the calls.

    Attributes:
        calls: number of calls of each function: fewer than `CALLS` for a slow kernel.
        found: a line for each function that gave another result, or none, in one of them.
    """

    calls: int
    found: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """The cell that is repeated, and the domain of the inputs."""

    cell: Cell
    domain: Domain

    def example(self, shape: tuple[int, int], seed: str) -> Example:
        """Return numbers of a shape, or of the next larger one that the domain allows."""
        return placed(seed, spread_with_ties(shape, Draws(seed)), self.cell, self.domain)


def first_cell(kernel: Kernel, level: str) -> tuple[Asking, str]:
    """Return the first cell that an implementation does not refuse, and what is wrong with a plain call there
    ("": nothing).

    Raises:
        NotSupported: it refuses all cells; with its reason.
    """
    reason = ""
    declared = domain_of(kernel)
    for cell in cells(level):
        try:
            asking = Asking(cell=cell, domain=declared or learned_domain(kernel, cell).domain)
        except NotSupported as error:
            reason = reason or str(error)
            continue
        asked = asking.example(_TINY, "many calls")
        seen = outcome(kernel, asked.x, asked.spec)
        if seen.unsupported is None:
            return asking, seen.error
        reason = reason or seen.unsupported
    raise NotSupported(reason)


def many_calls(kernel: str | Kernel, asking: Asking) -> ManyCalls:
    """Call `mxcheck.quantize` and `mxcheck.fake_quantize` `CALLS` times each, and compare each call with the
    first. A kernel that returns values has no `quantize`."""
    asked = asking.example(_TINY, "many calls")
    options = _options(asked.spec)
    made, found = [], []
    before = settings()
    with settings_kept(), torch.random.fork_rng(devices=[]):
        for name, cast in (("fake_quantize", fake_quantize), ("quantize", quantize)):
            call = partial(_arrays_of, partial(cast, asked.x, asking.cell.format, kernel=kernel, **options))
            if name == "quantize" and callable(kernel) and _returns_values(kernel, asked.x, asked.spec):
                continue
            number, line = _again_and_again(call, asked.x)
            made.append(number)
            if line:
                found.append(f"{name}: call {number:,} of {CALLS:,} with the same numbers {line}")
            found += [
                f"{name}: one of {number:,} calls changed {one} and left it so"
                for one in put_settings(before)
            ]
    return ManyCalls(calls=min(made), found=found)


def at_two_threads(kernel: Kernel, asking: Asking) -> list[str]:
    """Compare the cast of a tensor that torch splits between two threads with that in one: a line or none."""
    asked = asking.example(_FOR_TWO, "two threads")
    with usual_settings(threads=1):
        alone = outcome(kernel, asked.x, asked.spec)
    if not alone.got:
        return [alone.error] if alone.error else []
    with usual_settings(threads=2):
        line = _told(compare(kernel, asked.x, asked.spec, alone.got))
    return [f"with two threads of torch, other than with one, it {line}"] if line else []


def callers_as_they_like(kernel: Kernel, asking: Asking) -> list[str]:
    """Compare two Python threads that start `_ROUNDS` calls each at the same moment, with different numbers
    of one shape, with a call alone: a line for each thread that saw a difference first."""
    callers = [asking.example(_LONG, name) for name in ("one", "other")]
    alone = [outcome(kernel, one.x, one.spec) for one in callers]
    if not all(one.got for one in alone):
        return list(dict.fromkeys(one.error for one in alone if one.error))
    start = threading.Barrier(2)

    def call(caller: int) -> str:
        asked, end = callers[caller], time.thread_time() + MOST_SECONDS
        late = time.monotonic() + MOST_WAITING
        for number in range(1, _ROUNDS + 1):
            x = asked.x.clone()  # if the kernel overwrites it, that is no fault of the other thread
            try:
                start.wait()
            except threading.BrokenBarrierError:
                return ""  # the other thread reports, or took too long
            try:
                seen = judged(kernel, kernel(x, asked.spec), asked.x, asked.spec, alone[caller].got)
            except BaseException as error:  # noqa: BLE001  (whatever a kernel raises; `failed` looks at it)
                seen = failed(error, x)
            if line := _told(seen):
                start.abort()
                return f"beside another thread's calls, other than alone, call {number} of {_ROUNDS} {line}"
            if time.thread_time() > end or time.monotonic() > late:
                start.abort()
                return ""
        return ""

    with settings_kept(), torch.random.fork_rng(devices=[]):
        answers = in_two_threads(call, start)
    lines = [failed(one, callers[0].x).error if isinstance(one, BaseException) else one for one in answers]
    return list(dict.fromkeys(line for line in lines if line))


def changed_afterwards(kernel: Kernel, asking: Asking) -> list[str]:
    """Check whether a result changes while the kernel is called with other numbers: a line if so."""
    one, other = (asking.example(_LONG, name) for name in ("one", "other"))
    with settings_kept(), torch.random.fork_rng(devices=[]):
        try:
            result = kernel(one.x.clone(), one.spec)
            parts = (result,) if isinstance(result, Tensor) else tuple(result)
            before = tuple(_numbers(part).copy() for part in parts)
            kernel(other.x.clone(), other.spec)
        except BaseException as error:  # noqa: BLE001  (whatever a kernel raises; `failed` looks at it)
            return [_told(failed(error, one.x))]
    line = _difference(tuple(_numbers(part) for part in parts), before)
    return (
        [f"after a call with other numbers an earlier result {line}: it is the same memory"] if line else []
    )


def _options(spec: CastSpec) -> dict[str, Any]:
    return {
        "axis": spec.axis,
        "block_size": spec.block_size,
        "scale_rule": spec.scale_rule,
        "rounding": spec.rounding,
        "nonfinite": spec.nonfinite,
        "random": spec.random,
    }


def _arrays_of(call: Callable[[], Tensor | QuantizedTensor]) -> Arrays:
    result = call()
    if isinstance(result, Tensor):
        return (_numbers(result),)
    parts = (result.codes, result.scales, result.tensor_scale)
    return tuple(_numbers(part) for part in parts if part is not None)


def _numbers(part: Tensor) -> NDArray[Any]:
    """Convert to numpy, which has no bf16: via fp32, which holds all its values."""
    part = part.detach()
    return (part.float() if part.dtype.is_floating_point else part).numpy()


def _returns_values(kernel: Kernel, x: Tensor, spec: CastSpec) -> bool:
    try:
        return isinstance(kernel(x.clone(), spec), Tensor)
    except BaseException:  # noqa: BLE001  (the calls that follow report it)
        return False


def _again_and_again(call: Callable[[], Arrays], x: Tensor) -> tuple[int, str]:
    """Return the number of calls, and what is wrong with the last one ("": nothing)."""
    first: Arrays = ()
    end, late, number = time.thread_time() + MOST_SECONDS, time.monotonic() + MOST_WAITING, 0
    while number < CALLS and time.thread_time() <= end and time.monotonic() <= late:
        number += 1
        try:
            got = call()
        except BaseException as error:  # noqa: BLE001  (whatever a kernel raises; `failed` looks at it)
            return number, _told(failed(error, x))
        if not first:
            first = tuple(part.copy() for part in got)
        elif line := _difference(got, first):
            return number, line
    return number, ""


def _told(seen: Comparison) -> str:
    """Return what is wrong with a call; "" if nothing."""
    if seen.error or seen.unsupported:
        return f"ends in an error: {seen.error or seen.unsupported}"
    return _difference(seen.got, seen.expected) if seen.counts else ""


def _difference(got: Arrays, first: Arrays) -> str:
    """Return where and how the bits of two results differ; "" if nowhere."""
    for part, expected in zip(got, first, strict=True):
        if part.tobytes() == expected.tobytes():
            continue
        bits = [one.view(np.uint32) if one.dtype == np.float32 else one for one in (part, expected)]
        place = tuple(int(index) for index in np.argwhere(np.asarray(bits[0] != bits[1]))[0])
        return f"has {part[place]} at {list(place)}, where it had {expected[place]}"
    return ""
