"""Tell the exceptions by which an implementation refuses a cast from all others."""

from __future__ import annotations

import dis
from collections.abc import Callable
from traceback import walk_tb
from types import TracebackType
from typing import Any

from mxcheck.kernels.domain import NotSupported, innermost


def refusal(error: BaseException, kernel: Callable[..., Any]) -> str | None:
    """Return an implementation's own reason for refusing a cast; None where the exception is no refusal.

    NotSupported is a refusal wherever it is raised. A bare NotImplementedError is one only if a `raise` in
    the kernel's own package raised it: torch raises the same for an operation that a dtype lacks, and then
    the innermost frame is a call in the kernel, or one of torch's own.
    """
    if isinstance(error, NotSupported):
        return str(error) or "not supported, no reason given"
    if not isinstance(error, NotImplementedError) or error.__traceback__ is None:
        return None
    if not _is_its_own(_last_frame(error.__traceback__), kernel):
        return None
    return str(error) or "not supported, no reason given"


def own_word(error: BaseException, kernel: Callable[..., Any]) -> bool:
    """Return whether an implementation itself refuses: by a `raise` or an `assert` in its own package. Errors
    of the code that it calls have other reasons, from a wrong index to an illegal access of memory. An error
    of a device is no refusal."""
    return (
        "CUDA error:" not in str(error)
        and isinstance(error, (AssertionError, NotImplementedError, RuntimeError, TypeError, ValueError))
        and error.__traceback__ is not None
        and _is_its_own(_last_frame(error.__traceback__), kernel)
    )


def is_interrupt(error: BaseException) -> bool:
    """Return whether an exception came from outside of an implementation: from the keyboard, or from
    pytest-timeout, whose signal raises a test failure wherever the process is. (Outcomes of pytest that a
    kernel raises are its errors: `pytest.skip()` in it would hide its faults.)"""
    if isinstance(error, (KeyboardInterrupt, GeneratorExit)):
        return True
    frames = [frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__)]
    return "pytest_timeout" in frames


def _is_its_own(last: TracebackType, kernel: Callable[..., Any]) -> bool:
    """Return whether the exception comes from a `raise` in the kernel's package."""
    package = last.tb_frame.f_globals.get("__name__", "").partition(".")[0]
    kernel = innermost(kernel)
    own = getattr(kernel, "__module__", None) or type(kernel).__module__
    return package == own.partition(".")[0] and _raises(last)


def _last_frame(traceback: TracebackType) -> TracebackType:
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback


def _raises(traceback: TracebackType) -> bool:
    """Return whether the last instruction of a frame was `raise`, not a call."""
    code = traceback.tb_frame.f_code.co_code
    return dis.opname[code[traceback.tb_lasti]] == "RAISE_VARARGS"
