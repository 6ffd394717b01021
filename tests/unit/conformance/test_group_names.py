"""Groups of inputs in a message: each is one name."""

from __future__ import annotations

import pytest

from mxcheck.conformance.group_names import group_in_words


@pytest.mark.parametrize(
    ("group", "words"),
    [
        ("boundaries", "boundaries"),
        ("bfloat16_together, bfloat16", "bfloat16_together in bfloat16"),
        ("wide, blocks of 64", "wide in blocks of 64"),
        ("wide, first axis", "wide along the first axis"),
    ],
)
def test_a_group_reads_as_one_name(group: str, words: str) -> None:
    assert group_in_words(group) == words
