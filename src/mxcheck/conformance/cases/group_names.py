"""Names of input groups for messages. Torch-free."""

from __future__ import annotations

from collections.abc import Collection, Sequence

#: Most groups that a message lists; a wrong cast is wrong in thirty and more.
MOST_GROUPS = 5


def group_in_words(group: str) -> str:
    """Return `boundaries in bfloat16` for the generator's `boundaries, bfloat16`: in a list of groups the
    comma separates groups."""
    name, *ways = group.split(", ")
    return " ".join([name, *("along the first axis" if way == "first axis" else f"in {way}" for way in ways)])


def groups_in_words(groups: Collection[str]) -> str:
    """Return the first groups in words, and the number of the others."""
    told = list(map(group_in_words, groups))
    more = [_more(len(told) - MOST_GROUPS)] if len(told) > MOST_GROUPS else []
    return ", ".join(told[:MOST_GROUPS] + more)


def shown_groups(lines: Sequence[str], others: str = ": --mx-report=DIR has them") -> list[str]:
    """Return a heading, the first of these lines (one per group), and the number of the others with a hint on
    them. Empty for no lines."""
    more = [_more(len(lines) - MOST_GROUPS) + others] if len(lines) > MOST_GROUPS else []
    told = [f"  {line}" for line in (*lines[:MOST_GROUPS], *more)]
    return ["mismatches by group of inputs:", *told] if told else []


def _more(number: int) -> str:
    return f"and {number} group{'s' if number > 1 else ''} more"
