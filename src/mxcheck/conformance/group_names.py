"""Names of groups of inputs as a message tells them. Torch-free."""

from __future__ import annotations

from collections.abc import Collection, Sequence

#: Groups that a message tells; a wrong cast is wrong in thirty and more.
MOST_GROUPS = 5


def group_in_words(group: str) -> str:
    """`boundaries in bfloat16` for `boundaries, bfloat16`, as the generator names it: in a list of groups a
    comma stands between two of them."""
    name, *ways = group.split(", ")
    return " ".join([name, *("along the first axis" if way == "first axis" else f"in {way}" for way in ways)])


def groups_in_words(groups: Collection[str]) -> str:
    """The first groups in words, and how many there are besides."""
    told = list(map(group_in_words, groups))
    more = [_more(len(told) - MOST_GROUPS)] if len(told) > MOST_GROUPS else []
    return ", ".join(told[:MOST_GROUPS] + more)


def shown_groups(lines: Sequence[str], others: str = ": --mx-report=DIR has them") -> list[str]:
    """Lines on a group each: the first ones, how many there are besides, and what is said of these."""
    more = [_more(len(lines) - MOST_GROUPS) + others] if len(lines) > MOST_GROUPS else []
    return [*lines[:MOST_GROUPS], *more]


def _more(number: int) -> str:
    return f"and {number} group{'s' if number > 1 else ''} more"
