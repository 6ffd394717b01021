"""Digests on a thread of their own: the same results, errors that are raised, nothing left behind."""

from __future__ import annotations

import threading

import pytest
import torch

from mxcheck.kernels.digest import digest
from mxcheck.kernels.digest_thread import begin


def test_it_gives_what_the_function_gives_from_another_thread() -> None:
    x = torch.randn(300, 1001)
    here = threading.get_ident()
    waits = [begin(lambda y: (digest(y), threading.get_ident()), x[:rows]) for rows in range(1, 6)]

    assert [wait()[0] for wait in waits] == [digest(x[:rows]) for rows in range(1, 6)]
    assert {wait()[1] for wait in waits} != {here}
    assert len({wait()[1] for wait in waits}) == 1


def test_an_error_is_raised_by_whoever_waits() -> None:
    def fails(_x: torch.Tensor) -> None:
        raise MemoryError("no room for words")

    wait = begin(fails, torch.zeros(1))
    for _ in range(2):
        with pytest.raises(MemoryError, match="no room for words"):
            wait()
    assert begin(digest, torch.zeros(1))() == digest(torch.zeros(1)), "the thread works on"


def test_a_parameter_and_a_tensor_of_inference_mode_are_read() -> None:
    parameter = torch.nn.Parameter(torch.randn(8, 8))
    with torch.inference_mode():
        made = parameter * 1
    digest(made)  # the thread's memory and the caller's are each their own

    assert begin(digest, parameter)() == begin(digest, made)() == digest(parameter)


def test_what_is_not_on_the_cpu_is_hashed_by_the_caller() -> None:
    def where(_x: torch.Tensor) -> int:
        return threading.get_ident()

    assert begin(where, torch.zeros(1, device="meta"))() == threading.get_ident()
    assert begin(where, torch.zeros(1))() != threading.get_ident()
