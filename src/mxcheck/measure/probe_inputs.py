"""The inputs that a cast is asked for when a case has been measured, each with its kind in words."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from mxcheck.conformance.side_by_side import side_by_side
from mxcheck.files.printed import told
from mxcheck.measure.probed_cast import CastParts, ProbedCast
from mxcheck.models.probe import ROWS

#: Asks one thing; returns what is wrong, in words; empty where nothing is.
Ask = Callable[[], str]

#: A large tensor has more elements than this.
LARGE = 1 << 20
#: By this values come larger once: no scale may stay what earlier ones made it.
LOUD = 1024
#: Calls of a module, and of the code of a cast: something may count them.
CALLS, MANY_CALLS = 104, 5120
#: A slow kernel is called for so many seconds at most: of this thread's own time, and by the clock, for one
#: that waits for a device or another process.
MOST_SECONDS, MOST_WAITING = 5.0, 30.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Question:
    """One kind of input.

    Attributes:
        kind: in words.
        ask: asks for it.
        key: of the code that is asked once a process; None: every case asks it.
    """

    kind: str
    ask: Ask
    key: Hashable = None


def questions(asked: ProbedCast, length: int, held: Container[Hashable] = ()) -> Iterator[Question]:
    """Every kind of input, after a text whose sequences have a `length`. The keys in `held` were asked
    before, and nothing was wrong."""
    every = asked.every_row
    # of a length that 32 does not divide; both sequences together have whole blocks of rows
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
    """What takes longest, and is asked once a process: of code that serves other modules and cases too."""
    every, width = asked.every_row, asked.before.shape[-1]
    code = asked.code, asked.before.dtype, asked.before.device.type  # a path may be of one of them
    one = asked.peak if asked.casts_values else every  # a library's rows feel each other
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
    """A thread of its own starts with gradients on."""
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
    """x in memory that begins with one of its rows, and goes on with x itself: contiguous, with an offset."""
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
