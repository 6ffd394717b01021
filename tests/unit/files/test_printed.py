"""What others' code raised, as it is told."""

from __future__ import annotations

from mxcheck.files.printed import raised


def test_what_code_of_others_raised_is_one_printable_line() -> None:
    assert raised(ValueError("bad\x1b[1m\nmore")) == "ValueError: bad\\x1b[1m"
    assert raised(KeyError()) == "KeyError"
