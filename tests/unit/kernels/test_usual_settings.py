"""Settings of the process: put to what they usually are and back, and refused where that is not ours."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import wrong_casts

from mxcheck.formats.spec import CastSpec
from mxcheck.kernels.kept_settings import SETTINGS, flushes, settings
from mxcheck.kernels.usual_settings import check_subnormals, usual_settings

USUAL = {
    "dtype": torch.float32,
    "device": torch.device("cpu"),
    "grad": True,
    "inference": False,
    "anomaly": False,
    "autocast": False,
    "precision": "highest",
    "numpy": {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"},
}


def seen() -> dict[str, object]:
    return {
        "dtype": torch.ones(1).dtype,
        "device": torch.ones(1).device,
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "anomaly": torch.is_anomaly_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "precision": torch.get_float32_matmul_precision(),
        "numpy": np.geterr(),
    }


@pytest.fixture
def everything_else() -> Iterator[None]:
    """A process in which all of them are otherwise."""
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.set_float32_matmul_precision("medium")
    try:
        with (
            torch.inference_mode(),
            torch.autograd.set_detect_anomaly(True),
            torch.autocast("cpu", dtype=torch.bfloat16),
            np.errstate(all="raise"),
        ):
            yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
        torch.set_float32_matmul_precision("highest")


def test_usually_they_are_as_they_should_be() -> None:
    assert seen() == USUAL


@pytest.mark.usefixtures("everything_else")
def test_all_are_put_to_the_usual_and_back() -> None:
    before = seen()
    assert not {name for name in USUAL if before[name] == USUAL[name]}
    with usual_settings():
        assert seen() == USUAL
    assert seen() == before


@pytest.mark.usefixtures("everything_else")
def test_they_are_put_back_after_an_exception() -> None:
    before = seen()
    with pytest.raises(KeyError), usual_settings():
        raise KeyError
    assert seen() == before


def test_threads_where_a_number_is_given() -> None:
    torch.set_num_threads(2)
    try:
        with usual_settings():
            assert torch.get_num_threads() == 2
        with usual_settings(threads=1):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize(("name", "cast"), wrong_casts.LEAVES_CHANGED.items())
def test_what_the_body_changes_is_put_back(name: str, cast: Callable[..., object]) -> None:
    """Each, beside the usual, and where it was otherwise before."""
    before = settings()
    with usual_settings(threads=1):
        cast(torch.ones(1, 32), CastSpec(format="mxint8"))
        changed = [one.name for one, was in zip(SETTINGS, before, strict=True) if one.get() != was]
        assert changed == [name]
    assert settings() == before


@pytest.mark.usefixtures("everything_else")
@pytest.mark.parametrize("cast", wrong_casts.LEAVES_CHANGED.values())
def test_so_it_is_where_all_were_otherwise(cast: Callable[..., object]) -> None:
    before = settings()
    with usual_settings():
        cast(torch.ones(1, 32), CastSpec(format="mxint8"))
    assert settings() == before


@pytest.mark.parametrize("default", [None, "meta"])
def test_a_device_of_a_context_is_back_within_it(default: str | None) -> None:
    torch.set_default_device(default)
    try:
        with torch.device("meta"):
            with usual_settings():
                assert torch.ones(1).device.type == "cpu"
            assert torch.ones(1).device.type == "meta"
        assert torch.ones(1).device.type == (default or "cpu")
    finally:
        torch.set_default_device(None)
    assert torch.ones(1).device.type == "cpu"


def test_a_default_device_that_the_machine_lacks_does_not_stay() -> None:
    with usual_settings():
        torch.set_default_device("xpu")
    assert torch.ones(1).device.type == "cpu"


def test_deterministic_algorithms_stay() -> None:
    torch.use_deterministic_algorithms(True)
    try:
        with usual_settings():
            assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


# Subnormal numbers


@pytest.fixture
def flush() -> Iterator[Callable[[bool], bool]]:
    yield torch.set_flush_denormal
    torch.set_flush_denormal(False)


def test_a_process_that_flushes_is_refused_in_one_line(flush: Callable[[bool], bool]) -> None:
    check_subnormals()
    flush(True)
    assert flushes()
    with pytest.raises(
        ValueError, match=r"^subnormal numbers become zero in this process \(torch and"
    ) as told:
        check_subnormals()
    for word in ("torch.set_flush_denormal(True)", "-ffast-math", "call torch.set_flush_denormal(False)"):
        assert word in str(told.value)
    assert "\n" not in str(told.value)
    flush(False)
    check_subnormals()


def test_it_is_asked_in_the_thread_that_works(flush: Callable[[bool], bool]) -> None:
    """Each thread has it for itself."""
    raised: list[bool] = []

    def work() -> None:
        flush(True)
        try:
            check_subnormals()
        except ValueError:
            raised.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert raised == [True]
    check_subnormals()


def test_what_is_flushed_within_is_put_back(flush: Callable[[bool], bool]) -> None:
    with usual_settings():
        flush(True)
    check_subnormals()
    flush(True)
    with usual_settings():
        flush(False)
    assert flushes()
