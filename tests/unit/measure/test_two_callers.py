"""Two callers at once: what they share shows, a lock does no harm, and an error reaches the caller."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor

from mxcheck.measure.two_callers import at_once

ONES, TWOS = torch.ones(4), torch.full((4,), 2.0)


def doubled(x: Tensor) -> Tensor:
    return torch.add(x.clone(), x)


def test_a_function_of_its_own_gives_each_caller_its_own() -> None:
    first, second = at_once(doubled, ONES, TWOS)
    assert torch.equal(first, 2 * ONES)
    assert torch.equal(second, 2 * TWOS)


def test_a_buffer_that_both_use_shows_every_time() -> None:
    buffer = torch.empty(4)

    def shared(x: Tensor) -> Tensor:
        torch.mul(x, 2, out=buffer)
        return torch.add(buffer, 0)

    for _ in range(20):
        first, second = at_once(shared, ONES, TWOS)
        assert torch.equal(first, second), "both read what the second wrote"


def test_a_lock_costs_one_wait() -> None:
    lock, buffer = threading.Lock(), torch.empty(4)

    def guarded(x: Tensor) -> Tensor:
        with lock:
            torch.mul(x, 2, out=buffer)
            return torch.add(buffer, 0)

    first, second = at_once(guarded, ONES, TWOS)
    assert torch.equal(first, 2 * ONES)
    assert torch.equal(second, 2 * TWOS)


def test_an_error_in_a_thread_is_raised() -> None:
    def failing(x: Tensor) -> Tensor:
        if bool((x == 2).all()):
            raise ArithmeticError("of the second")
        return torch.add(x, 0)

    with pytest.raises(ArithmeticError, match=r"^of the second$"):
        at_once(failing, ONES, TWOS)
