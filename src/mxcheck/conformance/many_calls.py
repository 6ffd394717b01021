"""What a cell is too short for: one input thousands of times over, and by two threads that run freely."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mxcheck.conformance.cells import Cell, cells
from mxcheck.conformance.draws import Draws
from mxcheck.conformance.generator import example, spread
from mxcheck.formats.spec import CastSpec
from mxcheck.kernels.api import Kernel, fake_quantize, quantize
from mxcheck.kernels.quantized import QuantizedTensor
from mxcheck.kernels.usual_settings import usual_settings

#: How often `quantize` and `fake_quantize` are called with one tiny tensor.
CALLS = 6000
#: How often two threads start a call at the same moment.
_ROUNDS = 200
_TINY, _LONG = (1, 64), (130, 256)
# Torch gives a second thread to tensors of more than 2^15 elements.
_FOR_TWO = (520, 256)

Parts = tuple[Tensor, ...]


def first_cell(kernel: Kernel, level: str) -> Cell | str:
    """The first cell that an implementation does not refuse, or why it refuses all."""
    reason = ""
    for cell in cells(level):
        asked = example("many_calls", spread(_TINY, Draws("many calls")), cell)
        try:
            kernel(asked.x, asked.spec)
        except NotImplementedError as error:
            reason = reason or str(error) or "not supported, no reason given"
            continue
        return cell
    return reason


def many_calls(kernel: str | Kernel, cell: Cell) -> list[str]:
    """What differs from the first call in one of `CALLS` of `mxcheck.quantize`, and of
    `mxcheck.fake_quantize`: a line each. A kernel that returns values has no `quantize`."""
    asked = example("many_calls", spread(_TINY, Draws("many calls")), cell)
    options = _options(asked.spec)
    found = []
    for name, cast in (("fake_quantize", fake_quantize), ("quantize", quantize)):
        call = partial(_parts_of, partial(cast, asked.x, cell.format, kernel=kernel, **options))
        try:
            first = tuple(part.clone() for part in call())
        except TypeError:
            if name == "fake_quantize":
                raise
            continue  # values, no codes
        for number in range(2, CALLS + 1):
            if (line := _difference(call(), first)) is not None:
                found.append(
                    f"{name}: call {number:,} of {CALLS:,} with the same numbers {line} in the first"
                )
                break
    return found


def at_two_threads(kernel: Kernel, cell: Cell) -> list[str]:
    """What differs where torch has two threads for a tensor that is large enough for two: a line or none."""
    asked = example("two_threads", spread(_FOR_TWO, Draws("two threads")), cell)
    with usual_settings(threads=1):
        alone = tuple(part.clone() for part in _as_parts(kernel(asked.x, asked.spec)))
    with usual_settings(threads=2):
        line = _difference(_as_parts(kernel(asked.x, asked.spec)), alone)
    return [] if line is None else [f"with two threads of torch it {line} with one"]


def callers_as_they_like(kernel: Kernel, cell: Cell) -> list[str]:
    """What differs from a call alone where two threads of Python, with different numbers of one shape, begin
    `_ROUNDS` calls each at the same moment: a line for each thread."""
    callers = [example("callers", spread(_LONG, Draws(name)), cell) for name in ("one", "other")]
    alone = [tuple(part.clone() for part in _as_parts(kernel(one.x, one.spec))) for one in callers]
    start = threading.Barrier(2)
    found: list[str | None] = [None, None]

    def call(caller: int) -> None:
        asked = callers[caller]
        for number in range(1, _ROUNDS + 1):
            start.wait()
            line = _difference(_as_parts(kernel(asked.x.detach(), asked.spec)), alone[caller])
            if line is not None and found[caller] is None:
                found[caller] = f"beside another thread's calls, call {number} of {_ROUNDS} {line} alone"

    _in_threads([partial(call, 0), partial(call, 1)], start)
    return [line for line in found if line is not None]


def _in_threads(calls: Sequence[Callable[[], None]], start: threading.Barrier) -> None:
    """Raises what one of them raised."""
    raised: list[BaseException] = []

    def carry_out(call: Callable[[], None]) -> None:
        try:
            call()
        except threading.BrokenBarrierError:
            return  # the other one says why
        except BaseException as error:  # noqa: BLE001  (raised below, where it is heard)
            raised.append(error)
            start.abort()

    threads = [threading.Thread(target=carry_out, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]


def _options(spec: CastSpec) -> dict[str, Any]:
    return {
        "scale_rule": spec.scale_rule,
        "rounding": spec.rounding,
        "nonfinite": spec.nonfinite,
        "random": spec.random,
    }


def _parts_of(call: Callable[[], Tensor | QuantizedTensor]) -> Parts:
    result = call()
    if isinstance(result, Tensor):
        return (result,)
    parts = (result.codes, result.scales, result.tensor_scale)
    return tuple(part for part in parts if part is not None)


def _as_parts(result: Parts | Tensor) -> Parts:
    return (result,) if isinstance(result, Tensor) else result


def _difference(got: Parts, first: Parts) -> str | None:
    """Where two results differ, and as what; finite numbers, so that equal is equal."""
    for part, expected in zip(got, first, strict=True):
        if not torch.equal(part, expected):
            place = tuple((part != expected).nonzero()[0].tolist())
            return f"has {part[place].item()} at {list(place)}, where it had {expected[place].item()}"
    return None
