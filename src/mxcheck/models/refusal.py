"""One line for a model that is refused, whatever raised it. Torch-free."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from mxcheck.files.printed import one_line

#: The longest line, in characters.
LINE = 300
#: The longest name of a model or a tensor in it.
_NAME = 120
#: How many names are told; the rest is counted.
_NAMES = 3

#: Credentials that an endpoint's address or a library's message may carry.
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+@|\bhf_\w{8,}")

#: On a CPU torch raises a plain RuntimeError where memory runs out, and some of CUDA's libraries do.
OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "CUDA error: out of memory", "ALLOC_FAILED")


class UnfitError(ValueError):
    """What is wrong with a model's files. Who knows the model's name says it (`refused`)."""


class RefusedError(ValueError):
    """A model that is refused by name: its message is one line already."""


def refused(name: str, what: str) -> RefusedError:
    """The refusal of a model: one line of at most `LINE` characters, control characters escaped."""
    return RefusedError(_cut(f"model {shown(repr(name))}: {one_line(what)}"))


def words_of(error: BaseException) -> str:
    """What an error says, on one line, escaped and without credentials; its type where its words are none by
    themselves."""
    said = _CREDENTIALS.sub("***", one_line(str(error))).removesuffix(".")
    plain = isinstance(error, OSError) or type(error) is ValueError
    return said if plain and said else f"{type(error).__name__}: {said}".removesuffix(": ")


def shown(name: str) -> str:
    """A name as a line prints it: escaped, and the middle of a long one cut."""
    name = one_line(name)
    return name if len(name) <= _NAME else f"{name[: _NAME // 3]}…{name[-(2 * _NAME // 3) :]}"


def listed(names: Iterable[str]) -> str:
    """The first names, and how many more there are."""
    ordered = sorted(names, key=_natural)
    more = f" and {len(ordered) - _NAMES} more" if len(ordered) > _NAMES else ""
    return (
        ", ".join(name if len(name) <= 70 else f"{name[:20]}…{name[-48:]}" for name in ordered[:_NAMES])
        + more
    )


@contextmanager
def reading(refusal: Callable[[BaseException], ValueError]) -> Iterator[None]:
    """Turn whatever is raised while a model's files are read into `refusal(error)`: the libraries that read
    them raise of every kind, a panic of compiled code among them.

    What was refused by name passes, and so do errors that tell nothing of the files: memory that ran out, an
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
    """Whether an error tells of the machine alone: memory that ran out, an interruption."""
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
    """Layer 10 after layer 2."""
    return [(int(part[:18]), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]
