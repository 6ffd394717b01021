"""Which exceptions of an implementation are its own word that it does not do a cast."""

from __future__ import annotations

import dis
from collections.abc import Callable
from traceback import walk_tb
from types import TracebackType
from typing import Any

from mxcheck.kernels.domain import NotSupported, innermost


def refusal(error: BaseException, kernel: Callable[..., Any]) -> str | None:
    """Why an implementation does not do a cast, in its own words; None where an exception does not say that.

    NotSupported says it wherever it is raised. A bare NotImplementedError says it only where a `raise` of the
    kernel's own package raised it: torch raises the same for an operation that a dtype lacks, and then the
    innermost frame is a call in the kernel, or one of torch's own.
    """
    if isinstance(error, NotSupported):
        return str(error) or "not supported, no reason given"
    if not isinstance(error, NotImplementedError) or error.__traceback__ is None:
        return None
    if not _is_its_own(_last_frame(error.__traceback__), kernel):
        return None
    return str(error) or "not supported, no reason given"


def own_word(error: BaseException, kernel: Callable[..., Any]) -> bool:
    """Whether an implementation itself says no: a `raise` or an `assert` in its own package. What it calls
    says no for other reasons, from a slip in an index to an illegal access of memory."""
    return (
        isinstance(error, (AssertionError, NotImplementedError, RuntimeError, TypeError, ValueError))
        and error.__traceback__ is not None
        and _is_its_own(_last_frame(error.__traceback__), kernel)
    )


def is_interrupt(error: BaseException) -> bool:
    """Whether an exception came to an implementation from outside: from the keyboard, or from pytest-timeout,
    whose signal raises a test's failure wherever the process is. (pytest's own outcomes, raised by a kernel,
    are errors of the kernel: `pytest.skip()` in it would hide what it does wrong.)"""
    if isinstance(error, (KeyboardInterrupt, GeneratorExit)):
        return True
    frames = [frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__)]
    return "pytest_timeout" in frames


def _is_its_own(last: TracebackType, kernel: Callable[..., Any]) -> bool:
    """Whether a `raise` of the package of a kernel was carried out there."""
    package = last.tb_frame.f_globals.get("__name__", "").partition(".")[0]
    kernel = innermost(kernel)
    own = getattr(kernel, "__module__", None) or type(kernel).__module__
    return package == own.partition(".")[0] and _raises(last)


def _last_frame(traceback: TracebackType) -> TracebackType:
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback


def _raises(traceback: TracebackType) -> bool:
    """Whether what was carried out last in a frame was `raise`, and no call."""
    code = traceback.tb_frame.f_code.co_code
    return dis.opname[code[traceback.tb_lasti]] == "RAISE_VARARGS"
