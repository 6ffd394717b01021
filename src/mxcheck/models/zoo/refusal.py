"""One-line errors for refused models, from any exception. Torch-free."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from mxcheck.files.printed import one_line

#: Maximum length of a line, in characters.
LINE = 300
#: Maximum length of a model's or tensor's name in it.
_NAME = 120
#: Maximum number of names; the others are counted.
_NAMES = 3

#: Credentials that an endpoint's address or a library's message may contain.
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+@|\bhf_\w{8,}")

#: torch raises a plain RuntimeError where memory runs out on a CPU, as do some CUDA libraries.
OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "CUDA error: out of memory", "ALLOC_FAILED")


class UnfitError(ValueError):
    """An error in a model's files. The caller adds the model's name (`refused`)."""


class RefusedError(ValueError):
    """A refusal that names the model: its message is one line already."""


def refused(name: str, what: str) -> RefusedError:
    """Return the refusal of a model: one line of at most `LINE` characters, control characters escaped."""
    return RefusedError(_cut(f"model {shown(repr(name))}: {one_line(what)}"))


def words_of(error: BaseException) -> str:
    """Return an error's message on one line, escaped and without credentials; with its type where the message
    alone is unclear."""
    said = _CREDENTIALS.sub("***", one_line(str(error))).removesuffix(".")
    plain = isinstance(error, OSError) or type(error) is ValueError
    return said if plain and said else f"{type(error).__name__}: {said}".removesuffix(": ")


def shown(name: str) -> str:
    """Return a name for display: escaped, and with the middle of a long name cut."""
    name = one_line(name)
    return name if len(name) <= _NAME else f"{name[: _NAME // 3]}…{name[-(2 * _NAME // 3) :]}"


def listed(names: Iterable[str]) -> str:
    """Return the first names, and the number of the others."""
    ordered = sorted(names, key=_natural)
    more = f" and {len(ordered) - _NAMES} more" if len(ordered) > _NAMES else ""
    return (
        ", ".join(name if len(name) <= 70 else f"{name[:20]}…{name[-48:]}" for name in ordered[:_NAMES])
        + more
    )


@contextmanager
def reading(refusal: Callable[[BaseException], ValueError]) -> Iterator[None]:
    """Convert any exception while a model's files are read into `refusal(error)`: the libraries raise
    exceptions of every type, including panics of compiled code.

    Refusals by name pass, and so do errors that say nothing about the files: exhausted memory, an
    interruption.
    """
    try:
        yield
    except RefusedError:
        raise
    except BaseException as error:
        if is_of_the_host(error):
            raise
        raise refusal(error) from error


def is_of_the_host(error: BaseException) -> bool:
    """Return whether an error concerns the machine only: exhausted memory, an interruption."""
    if not isinstance(error, Exception):
        return type(error).__module__ != "pyo3_runtime"  # a panic in Rust, which is no Exception
    if isinstance(error, MemoryError):
        return True
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in OUT_OF_MEMORY)


def _cut(line: str) -> str:
    return line if len(line) <= LINE else f"{line[: LINE - 1]}…"


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key that places layer 10 after layer 2."""
    return [(int(part[:18]), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out. On a CPU torch raises a plain RuntimeError for it, as some of CUDA's
    libraries do; its words tell."""
    import torch

    memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return memory or any(words in str(error) for words in OUT_OF_MEMORY)
