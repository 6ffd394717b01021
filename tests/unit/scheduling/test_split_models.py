"""A run in parts: whole models, longest first, alike everywhere."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxcheck.scheduling.split_models import Shard, parse_shard, split

COSTS = st.dictionaries(st.text("abcdef", min_size=1), st.floats(0, 1e6), min_size=1, max_size=12)


@given(costs=COSTS, count=st.integers(1, 12))
def test_every_model_is_in_one_part(costs: dict[str, float], count: int) -> None:
    parts = split(costs, count)
    assert len(parts) == count
    assert sorted(name for part in parts for name in part) == sorted(costs)


@given(costs=COSTS, count=st.integers(1, 12))
def test_the_order_of_models_does_not_matter(costs: dict[str, float], count: int) -> None:
    backwards = dict(reversed(costs.items()))
    assert [set(part) for part in split(costs, count)] == [set(part) for part in split(backwards, count)]


@given(
    seconds=st.lists(st.integers(0, 100), min_size=1, max_size=6),
    count=st.integers(1, 3),
)
def test_no_part_is_longer_than_graham_allows(seconds: list[int], count: int) -> None:
    """Beside the best of all splits, which so few models let one find by trying each."""
    costs = {f"model{number}": float(one) for number, one in enumerate(seconds)}
    longest = max(sum(costs[name] for name in part) for part in split(costs, count))
    best = min(
        max(
            sum(one for one, part in zip(seconds, parts, strict=True) if part == which)
            for which in set(parts)
        )
        for parts in itertools.product(range(count), repeat=len(seconds))
    )
    assert best <= longest <= best * (4 / 3 - 1 / (3 * count)) + 1e-9


def test_longest_first() -> None:
    assert split({"a": 3, "b": 9, "c": 5, "d": 1}, 2) == [["b"], ["a", "c", "d"]]


def test_a_shard_of_four() -> None:
    assert parse_shard("2/4") == Shard(index=2, count=4)
    assert str(parse_shard("4/4")) == "4/4"


@pytest.mark.parametrize("text", ["5/4", "0/4", "4", "a/b", "-1/4", "1/0", "1/4/2", "", "1.5/4"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(
        ValueError, match=rf"^--mx-shard must be i/N with i from 1 to N, as in 2/4, got {text!r}$"
    ):
        parse_shard(text)
