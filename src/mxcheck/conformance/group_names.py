"""Names of groups of inputs as a message tells them. Torch-free."""

from __future__ import annotations


def group_in_words(group: str) -> str:
    """`boundaries in bfloat16` for `boundaries, bfloat16`, as the generator names it: in a list of groups a
    comma stands between two of them."""
    name, *ways = group.split(", ")
    return " ".join([name, *("along the first axis" if way == "first axis" else f"in {way}" for way in ways)])
