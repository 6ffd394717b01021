"""Whatever a file holds, its reader accepts it or refuses it in one line. `make fuzz` draws more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fuzz_targets import TARGETS, Target, WrongRefusalError, emptied, outcome
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import DataObject, data

#: The same inputs in every run: what CI is to find is found by `make fuzz` first.
FIXED = settings(
    max_examples=50, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("kind", TARGETS)
@FIXED
@given(drawn=data())
def test_it_is_accepted_or_refused_in_one_line(
    kind: str, drawn: DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    target = TARGETS[kind]
    content = drawn.draw(target.files())
    outcome(target, content, emptied(tmp_path_factory.getbasetemp() / "hostile"))


def _naive(content: bytes, folder: Path) -> None:
    del folder
    if json.loads(content)["kl"] > 1:
        raise ValueError("too much")


@pytest.mark.parametrize("content", [b"[1]", b"[" * 100_000, b'{"kl": "a"}'])
def test_another_error_is_no_refusal(tmp_path: Path, content: bytes) -> None:
    target = Target(kind="naive", files=TARGETS["record"].files, read=_naive)
    with pytest.raises((TypeError, RecursionError)):
        outcome(target, content, tmp_path)


@pytest.mark.parametrize("words", ["", "two\nlines", "\x1b[2J", "x" * 5000])
def test_a_refusal_is_a_line_that_can_be_shown(tmp_path: Path, words: str) -> None:
    def refuse(_content: bytes, _folder: Path) -> None:
        raise ValueError(words)

    with pytest.raises(WrongRefusalError):
        outcome(Target(kind="odd", files=TARGETS["record"].files, read=refuse), b"", tmp_path)
