"""Further inputs for a cast after a case has been measured, each with its kind in words."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from mxcheck.conformance.verify.side_by_side import side_by_side
from mxcheck.files.printed import told
from mxcheck.measure.probed_cast import CastParts, ProbedCast
from mxcheck.models.conversion.probe import ROWS

#: Tests one input; returns what is wrong, in words; empty if nothing is.
Ask = Callable[[], str]

#: Number of elements that a large tensor exceeds.
LARGE = 1 << 20
#: Factor by which values are enlarged once: no scale may depend on earlier ones.
LOUD = 1024
#: Numbers of calls of a module, and of the code of a cast: a fault may depend on a call counter.
CALLS, MANY_CALLS = 104, 5120
#: Most seconds for a slow kernel: CPU time of this thread, and wall time for one that waits for a device or
#: another process.
MOST_SECONDS, MOST_WAITING = 5.0, 30.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Question:
    """One kind of input.

    Attributes:
        kind: in words.
        ask: runs the test.
        key: key of code that is tested once per process; None: tested in every case.
    """

    kind: str
    ask: Ask
    key: Hashable = None


def questions(asked: ProbedCast, length: int, held: Container[Hashable] = ()) -> Iterator[Question]:
    """Yield every kind of input, for a text whose sequences have `length` tokens. Keys in `held` were tested
    before without a fault."""
    every = asked.every_row
    # its length is no multiple of 32; both sequences together have whole blocks of rows
    longer = asked.order(2 * ((length // ROWS + 1) * ROWS + ROWS // 2))
    few = asked.order(2 * ROWS)

    def made(cast: CastParts, x: Tensor, order: Tensor, factor: float = 1) -> Ask:
        return lambda: asked.wrong(cast(x), order, factor)

    yield Question(
        kind="a 3-D input longer than the text",
        ask=made(asked.product or asked.cast, asked.input(longer, 2), longer),
    )
    yield Question(kind="a slice with a storage offset", ask=made(asked.cast, _slice(asked.input(few)), few))
    for dtype in (torch.bfloat16, torch.float16) if asked.casts_16_bits else ():
        # both dtypes hold every value of the probe
        yield Question(
            kind=f"a {str(dtype).removeprefix('torch.')} input",
            ask=made(asked.cast, asked.input(every).to(dtype), every),
        )
    if asked.casts_values:
        yield Question(
            kind=f"values {LOUD:,} times as large",
            ask=made(asked.cast, LOUD * asked.input(every), every, LOUD),
        )
    yield from (question for question in _of_the_code(asked) if question.key not in held)


def _of_the_code(asked: ProbedCast) -> Iterator[Question]:
    """Yield the longest tests, run once per process: the code serves other modules and cases too."""
    every, width = asked.every_row, asked.before.shape[-1]
    code = asked.code, asked.before.dtype, asked.before.device.type  # a path may be specific to one of them
    one = asked.peak if asked.casts_values else every  # a library's rows affect each other
    rows = (LARGE // width // ROWS + 1) * ROWS

    def large() -> str:
        order = asked.order(rows)
        x = asked.input(order)
        with _threads(2):
            wrong = asked.wrong(asked.cast(x), order)
        if not wrong or not x.is_cpu:
            return wrong
        return f"at two threads{'' if asked.wrong(asked.cast(x), order) else ' alone'} it gives {wrong}"

    def two_callers() -> str:
        orders = every, every.flip(0)
        answers = side_by_side([partial(_without_gradients, asked.cast, asked.input(one)) for one in orders])
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return next(filter(None, map(asked.wrong, answers, orders)), "")

    def calls(cast: CastParts, count: int) -> Ask:
        return lambda: _called(lambda: asked.wrong(cast(asked.input(one)), one), count)

    yield Question(key=("large", width, code), kind=f"a tensor of {rows * width:,} elements", ask=large)
    yield Question(key=("callers", code), kind="two callers at once", ask=two_callers)
    yield Question(
        key=("calls", code),
        kind=f"{CALLS} calls of one module",
        ask=calls(asked.product or asked.cast, CALLS),
    )
    if asked.kernel is not None:
        yield Question(
            key=("many calls", asked.kernel, *code[1:]),
            kind=f"{MANY_CALLS:,} calls of one cast",
            ask=calls(asked.cast, MANY_CALLS),
        )


@torch.no_grad()
def _without_gradients(cast: CastParts, x: Tensor) -> tuple[Tensor, ...]:
    """Call a cast without gradients: a new thread starts with gradients on."""
    return cast(x)


def _called(ask: Ask, count: int) -> str:
    end, late = time.thread_time() + MOST_SECONDS, time.monotonic() + MOST_WAITING
    for number in range(1, count + 1):
        try:
            wrong = ask()
        except NotImplementedError as error:
            if number == 1:
                raise
            return f"at call {number:,} it refuses what it took before: {told(error)}"
        if wrong:
            return f"at call {number:,} it gives {wrong}"
        if time.thread_time() > end or time.monotonic() > late:
            break
    return ""


def _slice(x: Tensor) -> Tensor:
    """Return x contiguous at an offset, in memory that begins with one of its rows."""
    row = x.shape[-1]
    memory = torch.cat([-x.flatten()[-row:], x.flatten()])
    return memory[row:].view(x.shape)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
