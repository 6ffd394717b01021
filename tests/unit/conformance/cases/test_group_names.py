"""Groups of inputs in a message: each is one name."""

from __future__ import annotations

import pytest

from mxcheck.conformance.cases.group_names import group_in_words, groups_in_words, shown_groups


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


def test_a_message_tells_the_first_groups_and_counts_the_others() -> None:
    groups = [f"group{number}" for number in range(6)]
    assert groups_in_words(groups[:5]) == "group0, group1, group2, group3, group4"
    assert groups_in_words(groups) == "group0, group1, group2, group3, group4, and 1 group more"
    shown = ["mismatches by group of inputs:", *(f"  {group}" for group in groups[:5])]
    assert shown_groups(groups[:5]) == shown
    assert shown_groups([*groups, "g"]) == [*shown, "  and 2 groups more: --mx-report=DIR has them"]
    assert shown_groups([]) == []
