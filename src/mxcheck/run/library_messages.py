"""Messages at import in which libraries report on themselves, not on the user's code, machine or model. Each
is identified by its source and its text; all other messages are shown."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Callable


def _torch_is_for_cpus() -> bool:
    """Return whether torch is a CPU build: where torch has GPUs, a library that cannot be loaded must be
    reported."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.version.cuda is None and torch.version.hip is None


def _always() -> bool:
    return True


#: Logger, pattern of its message, and where it is irrelevant. transformers imports torchao.
_LOGGED: tuple[tuple[str, str, Callable[[], bool]], ...] = (
    ("torchao", r"Failed to load .*torchao.*_C.*\.so", _torch_is_for_cpus),
    ("torchao.kernel.intmm", r"Warning: Detected no triton", _torch_is_for_cpus),
    (
        "torch.utils._pytree",
        r"<enum '.*'> is an Enum subclass and is now natively supported by torch\.compile",
        _always,
    ),
)
#: Pattern of a warning, its categories, and the module that it concerns (a file, where Python compiles it for
#: the first time; an invalid escape is a SyntaxWarning from Python 3.12 on).
_WARNED: tuple[tuple[str, tuple[type[Warning], ...], str], ...] = (
    ("invalid escape sequence", (DeprecationWarning, SyntaxWarning), r".*[\\/]torchao[\\/]"),
    (r"`torch\.jit\.script_method` is deprecated", (DeprecationWarning,), r"torch\.jit\._script$"),
)


class _IsKnown(logging.Filter):
    def __init__(self, pattern: str, applies: Callable[[], bool]) -> None:
        super().__init__()
        self._pattern = re.compile(pattern)
        self._applies = applies

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is shown."""
        return not (self._pattern.match(record.getMessage()) and self._applies())


def leave_out_logged() -> None:
    """Filter log messages from now on, in this process. Idempotent."""
    for name, pattern, applies in _LOGGED:
        logger = logging.getLogger(name)
        if not any(isinstance(one, _IsKnown) for one in logger.filters):
            logger.addFilter(_IsKnown(pattern, applies))


def leave_out_warned() -> None:
    """Filter warnings until the innermost `warnings.catch_warnings` ends, before filters that turn warnings
    into errors."""
    for message, categories, module in _WARNED:
        for category in categories:
            warnings.filterwarnings("ignore", message, category, module=module)
