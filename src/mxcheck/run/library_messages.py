"""What libraries say as they are imported that is about themselves, and not about the user's code, machine or
model. Each is named by who says it and how it reads; whatever else they say is shown.
"""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Callable


def _torch_is_for_cpus() -> bool:
    """Where torch has GPUs, a library that cannot be loaded is news."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.version.cuda is None and torch.version.hip is None


def _always() -> bool:
    return True


#: Logger, how its message reads, and where it says nothing of use. transformers imports torchao.
_LOGGED: tuple[tuple[str, str, Callable[[], bool]], ...] = (
    ("torchao", r"Failed to load .*torchao.*_C.*\.so", _torch_is_for_cpus),
    ("torchao.kernel.intmm", r"Warning: Detected no triton", _torch_is_for_cpus),
    (
        "torch.utils._pytree",
        r"<enum '.*'> is an Enum subclass and is now natively supported by torch\.compile",
        _always,
    ),
)
#: How a warning reads, its kinds, and the module that it is about (a file, where Python compiles it for the
#: first time; an escape is a SyntaxWarning from Python 3.12 on).
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
        """Whether the record is shown."""
        return not (self._pattern.match(record.getMessage()) and self._applies())


def leave_out_logged() -> None:
    """From now on, in this process. Again is the same as once."""
    for name, pattern, applies in _LOGGED:
        logger = logging.getLogger(name)
        if not any(isinstance(one, _IsKnown) for one in logger.filters):
            logger.addFilter(_IsKnown(pattern, applies))


def leave_out_warned() -> None:
    """Until the innermost `warnings.catch_warnings` ends; before filters that make errors of warnings."""
    for message, categories, module in _WARNED:
        for category in categories:
            warnings.filterwarnings("ignore", message, category, module=module)
