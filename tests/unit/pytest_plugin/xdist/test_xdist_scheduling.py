"""A worker that dies: its item is named, and the items that it had not begun go to others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from mxcheck.pytest_plugin.xdist.xdist_scheduling import ModelScheduling


def test_items_that_a_dead_worker_had_not_begun_are_run_by_others() -> None:
    again: list[int] = []
    scheduling: Any = SimpleNamespace(
        _placement=SimpleNamespace(workers={"gw0"}, leave=lambda _: [0, 1, 2], again=again.append),
        _load=SimpleNamespace(node2pending={"gw0": []}),
        _ids=["over", "begun", "waiting"],
        _begun={"over", "begun"},
        _over={"over"},
        _send=lambda: None,
    )
    assert ModelScheduling.remove_node(scheduling, "gw0") == "begun"  # type: ignore[arg-type]
    assert again == [2]
