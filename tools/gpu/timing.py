"""Medians of ratios within one run: whatever else the machine does falls on both sides of a ratio."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median

import torch


def seconds(call: Callable[[], object], device: str) -> float:
    """One call: by CUDA events on a GPU, where the host runs ahead of the device; else by the clock."""
    if device == "cpu":
        began = time.perf_counter()
        call()
        return time.perf_counter() - began
    first, last = (
        torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        for _ in range(2)
    )
    first.record()
    call()
    last.record()
    last.synchronize()
    return float(first.elapsed_time(last)) / 1000


def in_turns(
    calls: Mapping[str, Callable[[], object]], device: str, *, rounds: int, warm_up: int = 2
) -> dict[str, list[float]]:
    """Seconds of each call, all of them once a round, after `warm_up` rounds that are not counted."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(warm_up + rounds):
        for name, call in calls.items():
            spent = seconds(call, device)
            if number >= warm_up:
                found[name].append(spent)
    return found


def ratio(times: Mapping[str, list[float]], name: str, base: str) -> float:
    """The median over rounds of `name`'s seconds over `base`'s."""
    return median(one / other for one, other in zip(times[name], times[base], strict=True))
