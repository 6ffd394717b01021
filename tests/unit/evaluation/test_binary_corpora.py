"""Files that are no text, or text of another encoding, are refused as a corpus."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mxcheck.evaluation.corpus_names import corpus_choice
from mxcheck.evaluation.documents import open_documents

WORDS = "Some words, and some more.\n"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        pytest.param("a.txt", b"Some\0words", "document 1 has NUL characters", id="nul"),
        pytest.param("a.txt", WORDS.encode("utf-16-le"), "document 1 has NUL characters", id="utf-16-le"),
        pytest.param("a.txt", WORDS.encode("utf-16-be"), "document 1 has NUL characters", id="utf-16-be"),
        pytest.param("a.txt", WORDS.encode("utf-16"), "can't decode", id="utf-16-with-its-mark"),
        pytest.param(
            "a.jsonl",
            json.dumps({"text": "a"}).encode() + b"\n" + json.dumps({"text": "b\0"}).encode(),
            "document 2 has NUL characters",
            id="second-line",
        ),
    ],
)
def test_it_is_refused(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    (corpus,) = corpus_choice([name], tmp_path).corpora
    with pytest.raises(ValueError, match=reason) as caught:
        list(open_documents(corpus)[1])
    assert str(caught.value).isprintable()


def test_text_of_any_alphabet_is_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\u0416\u4e2d\U0001f600\t\n", encoding="utf-8")
    (corpus,) = corpus_choice(["a.txt"], tmp_path).corpora
    assert list(open_documents(corpus)[1]) == ["\u0416\u4e2d\U0001f600\t\n"]
