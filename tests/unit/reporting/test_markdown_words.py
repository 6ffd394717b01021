"""Words of others in Markdown stay words."""

from __future__ import annotations

import pytest

from mxcheck.reporting.markdown import cell, words


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("# heading", "\\# heading"),
        ("~~~", "\\~~~"),
        ("* item", "\\* item"),
        ("___", "\\___"),
        ("2) item", "2\\) item"),
        ("![x](y)", "!\\[x](y)"),
        ("<b>", "\\<b>"),
        ("see https://evil.example/x", "see https\\://evil.example/x"),
        ("HTTP://evil.example", "HTTP\\://evil.example"),
        ("at www.evil.example", "at www\\.evil.example"),
        ("_https://evil.example_", "\\_https\\://evil.example_"),
        ("a.b@evil.example", "a.b\\@evil.example"),
        ("a\n# b", "a # b"),
        ("fp8@cuda-sm90 of 3.5 at 10:30", "fp8@cuda-sm90 of 3.5 at 10:30"),
    ],
)
def test_nothing_comes_of_them(text: str, written: str) -> None:
    assert words(text) == written


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("https://evil.example", "https\\://evil.example"),
        ("`https://evil.example` a@evil.example", "`https://evil.example` a\\@evil.example"),
        ("```https://evil.example`", "```https\\://evil.example`"),  # no code: its ends do not match
        ("a | b", "a \\| b"),
    ],
)
def test_in_a_cell_code_stays_code(text: str, written: str) -> None:
    assert cell(text) == written
