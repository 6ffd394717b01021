"""Files that somebody may hand us, as Hypothesis draws them: a valid file of a kind with its data changed,
its bytes changed, or neither valid nor near it."""

from __future__ import annotations

import copy
import json
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st

#: What a terminal, Markdown, rich, a path or a pattern would make something of.
TEXTS = (
    "",
    " ",
    "a\nb",
    "\x1b[2J\x1b[31mgreen\x1b[0m",
    "\x9b31m",
    "\r\x08\x08pass",
    "\0",
    "\u202egreen",
    "\ud800",
    "# green: all pass\n\n## green",
    "[bold red]x[/] [link=http://a]b[/link] [/nothing]",
    "| a | b |",
    "<img src=x onerror=y>",
    "![x](http://a/b)",
    "```\nout",
    "../../../../tmp/x",
    "/etc/passwd",
    "-rf",
    "nan",
    "1e999",
    "\u0661\u0662",
    "x" * 3000,
    "é" * 200,
    ":smile:",
    "%s{0}$HOME",
)
NUMBERS = (
    *(0, -1, 1, 2, 255, 256, 2**31, 2**53 + 1, 2**63, 2**64, 10**30, 10**308, 10**400, -(10**400)),
    *(0.0, -0.0, 0.5, -1.5, 1e-320, 1e308, math.nan, math.inf, -math.inf),
)
#: 400 levels pass every parser, 200,000 none.
DEPTHS = (3, 70, 400)
FRAGMENTS = (
    *(b"[" * 200_000, b'{"a":' * 20_000, b"{a=" * 5000, b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\x1b[2J"),
    *(b'"\\ud800"', b"NaN", b"-Infinity", b"1e99999", b"9" * 5000, b"{}", b"[]", b"null", b'"', b"\\", b"\n"),
    *(b'"model":1,"model":2,', b"]" * 50, b"a." * 3000 + b"a=1\n", b"\n[[a]]\n", b"0x" + b"f" * 6000),
)

#: Data of more places is not made a thousand times as large.
_MOST_PLACES = 5000

#: What `json` can write, small.
anything = st.recursive(
    st.none() | st.booleans() | st.sampled_from(NUMBERS) | st.sampled_from(TEXTS) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(TEXTS[:8]) | st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


def nested(depth: int, value: Any, *, tables: bool = False) -> Any:
    """`value` in so many lists, or tables."""
    for _ in range(depth):
        value = {"a": value} if tables else [value]
    return value


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each value of plain data."""
    yield path
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in inner:
        yield from places(value, (*path, key))


@st.composite
def changed_data(draw: st.DrawFn, valid: Any) -> Any:
    """Plain data with one to three values changed, taken away, added, exchanged or nested."""
    data = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(places(data))))
        if not path:
            if draw(st.integers(0, 9)) == 0:
                return draw(anything)
            continue
        inside = data
        for key in path[:-1]:
            inside = inside[key]
        key = path[-1]
        match draw(
            st.sampled_from(("replace", "replace", "number", "text", "remove", "add", "nest", "copy", "grow"))
        ):
            case "replace":
                inside[key] = draw(anything)
            case "number":
                inside[key] = draw(st.sampled_from(NUMBERS))
            case "text":
                inside[key] = draw(st.sampled_from(TEXTS))
            case "remove":
                del inside[key]
            case "add" if isinstance(inside, dict):
                inside[draw(st.sampled_from(TEXTS) | st.text(max_size=5))] = draw(anything)
            case "add":
                inside.insert(key, draw(anything))
            case "nest":
                inside[key] = nested(draw(st.sampled_from(DEPTHS)), inside[key], tables=draw(st.booleans()))
            case "copy":
                other = data
                for step in draw(st.sampled_from(list(places(data)))):
                    other = other[step]
                inside[key] = copy.deepcopy(other)
            case "grow":
                few = sum(1 for _ in places(data)) < _MOST_PLACES  # or what has grown would grow again
                inside[key] = [inside[key]] * draw(st.sampled_from((0, 2, 1000 if few else 3)))
    return data


@st.composite
def changed_bytes(draw: st.DrawFn, valid: bytes) -> bytes:
    """Bytes that were cut, overwritten, repeated, or that got others put between them."""
    data = valid
    for _ in range(draw(st.integers(1, 3))):
        at, other = (draw(st.integers(0, max(0, len(data)))) for _ in range(2))
        low, high = sorted((at, other))
        match draw(st.sampled_from(("cut", "take out", "insert", "fragment", "flip", "repeat", "splice"))):
            case "cut":
                data = data[:at]
            case "take out":
                data = data[:low] + data[min(high, low + 40) :]
            case "insert":
                data = data[:at] + draw(st.binary(max_size=12)) + data[at:]
            case "fragment":
                data = data[:at] + draw(st.sampled_from(FRAGMENTS)) + data[at:]
            case "flip" if data:
                at = min(at, len(data) - 1)
                data = data[:at] + bytes([data[at] ^ draw(st.integers(1, 255))]) + data[at + 1 :]
            case "repeat":
                data = data[:high] + data[low:high][:2000] + data[high:]
            case _:
                data = data[:low] + valid[high:]
    return data


def hostile(
    valid: Any, write: Callable[[Any], bytes] | None, examples: tuple[bytes, ...] = ()
) -> st.SearchStrategy[bytes]:
    """Files of a kind of which `write` makes one of plain data as `valid` is; `examples` are further ones."""
    whole = (() if write is None else (write(valid),)) + examples
    drawn = [
        st.sampled_from(whole).flatmap(changed_bytes),
        st.binary(max_size=64),
        st.sampled_from(FRAGMENTS),
    ]
    if write is not None:
        drawn = [changed_data(valid).map(write)] * 4 + drawn[:1] * 2 + drawn[1:]
    return st.one_of(drawn)


def json_bytes(data: Any) -> bytes:
    """As Python writes JSON, NaN and half characters and all."""
    return _digits(lambda: json.dumps(data).encode())


def _digits(write: Callable[[], bytes]) -> bytes:
    """Numbers of any length can be written, and as many levels as are drawn."""
    digits, levels = sys.get_int_max_str_digits(), sys.getrecursionlimit()
    sys.set_int_max_str_digits(0)
    sys.setrecursionlimit(20_000)
    try:
        return write()
    finally:
        sys.set_int_max_str_digits(digits)
        sys.setrecursionlimit(levels)


def toml_bytes(data: Any) -> bytes:
    """A line a key, tables within lines. What TOML has not comes out as what is no TOML."""
    tables = data.items() if isinstance(data, dict) else [("a", data)]
    return _digits(lambda: "".join(f"{json.dumps(name)} = {_toml(one)}\n" for name, one in tables).encode())


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)} = {_toml(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return json.dumps(value)
