"""Placement in virtual time: everything runs once, little is idle, whatever dies."""

from __future__ import annotations

import random
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_host import Host, draw_models
from virtual_time import VirtualRun

from mxcheck.scheduling.placement import Group, Item, Placement

LOAD = {"a": Group(load_seconds=1.0), "b": Group(load_seconds=1.0)}


def laid_out(seed: int, scale: float = 1.0) -> tuple[list[Item], dict[str, Group], float]:
    """60 cases of 12 models, two of which need two devices; and the least time on four."""
    from pathlib import Path

    models = draw_models(seed, count=12, cases=5, wide=2, scale=scale)
    items = [Item(group=model.name, seconds=seconds) for model in models for seconds in model.cases]
    groups = {model.name: Group(load_seconds=model.load, slots=model.devices) for model in models}
    return items, groups, Host(folder=Path(), models=models, devices=4).seconds


@pytest.mark.parametrize("workers", [4, 8])
def test_little_is_idle(workers: int) -> None:
    ratios = []
    for seed in range(25):
        items, groups, bound = laid_out(seed)
        outcome = VirtualRun(items, groups, workers=workers, devices=4).run()
        assert outcome.ran == dict.fromkeys(range(60), 1)
        ratios.append(outcome.makespan / bound)
    assert min(ratios) >= 1.0
    assert median(ratios) <= 1.05
    assert max(ratios) <= 1.08


def test_without_affinity_it_would_be_idle() -> None:
    """The bound above is one that a worse order misses: the same models, cheapest first."""
    ratios = []
    for seed in range(25):
        items, groups, bound = laid_out(seed)
        cheap = Placement(items, groups, 4)
        cheap._cost = lambda name, of=cheap: -Placement._cost(of, name)  # type: ignore[method-assign,misc]
        run = VirtualRun(items, groups, workers=4, devices=4)
        for worker in run._workers:
            cheap.join(worker)
        run._placement = cheap
        ratios.append(run.run().makespan / bound)
    assert median(ratios) > 1.05


def test_a_worker_keeps_its_model() -> None:
    items, groups, _ = laid_out(3)
    outcome = VirtualRun(items, groups, workers=4, devices=4).run()
    assert set(outcome.loads.values()) == {1}, "a worker loaded a model twice"
    shared = len(outcome.loads) - 12
    assert 0 <= shared <= 4, "only the last models are worth loading twice"


@settings(max_examples=150)
@given(
    seed=st.integers(0, 2**32),
    workers=st.integers(1, 9),
    devices=st.integers(1, 6),
    crashes=st.integers(0, 12),
    others=st.integers(0, 40),
)
def test_everything_runs_once_whatever_dies(
    seed: int, workers: int, devices: int, crashes: int, others: int
) -> None:
    chosen = random.Random(seed)
    groups = {
        f"m{number}": Group(load_seconds=chosen.random() * 3, slots=chosen.randint(1, devices))
        for number in range(chosen.randint(0, 6))
    }
    items = [
        Item(group=name, seconds=chosen.random() * 2) for name in groups for _ in range(chosen.randint(1, 6))
    ] + [Item() for _ in range(others)]
    chosen.shuffle(items)
    outcome = VirtualRun(items, groups, workers=workers, devices=devices, crashes=crashes, seed=seed).run()
    assert sorted([*outcome.ran.elements(), *outcome.died]) == list(range(len(items)))


def test_costliest_first() -> None:
    items = [Item(group="a", seconds=1), Item(group="b", seconds=5), Item(group="b", seconds=7)]
    placement: Placement[str] = Placement(items, LOAD, 2)
    placement.join("w0")
    placement.join("w1")
    # b is the costlier model and its second case the costlier one; a has one case, so that w1 is to stop.
    assert placement.orders() == [("w0", [2, 1], False), ("w1", [0], True)]


def test_a_model_is_shared_only_where_loading_it_again_pays() -> None:
    for seconds, shared in ((0.3, False), (3.0, True)):
        items = [Item(group="a", seconds=seconds) for _ in range(5)]
        placement: Placement[str] = Placement(items, LOAD, 2)
        placement.join("w0")
        placement.join("w1")
        orders = {worker: indices for worker, indices, _ in placement.orders()}
        assert ("w1" in orders) == shared, seconds


def test_no_more_models_than_the_host_has_room_for() -> None:
    groups = {name: Group(load_seconds=1.0, slots=2) for name in "abc"}
    items = [Item(group=name, seconds=9.0) for name in "abc" for _ in range(3)]
    placement: Placement[str] = Placement(items, groups, 4)
    for worker in ("w0", "w1", "w2"):
        placement.join(worker)
    assert [worker for worker, _, _ in placement.orders()] == ["w0", "w1"]


def test_one_that_has_to_stop_gets_nothing() -> None:
    placement: Placement[str] = Placement([Item(), Item(), Item()], {}, 1)
    placement.join("w0")
    placement.stop("w0")
    assert placement.orders() == []
    assert placement.unsent == 3


def test_tests_without_a_model_come_in_order_in_shrinking_chunks() -> None:
    placement: Placement[str] = Placement([Item() for _ in range(100)], {}, 2)
    placement.join("w0")
    placement.join("w1")
    first, second = (indices for _, indices, _ in placement.orders())
    assert first + second == list(range(len(first) + len(second)))
    assert (len(first), len(second)) == (12, 11)
