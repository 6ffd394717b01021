"""xdist's side of placement: from nodes and node ids to indices. Called only by xdist's DSession."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest
from xdist.scheduler import LoadScheduling
from xdist.workermanage import WorkerController

from mxcheck.scheduling.placement import Placement

PLUGIN = "mxcheck-scheduling"


class ModelScheduling:
    """Place models where a run has some, and act as xdist's `load` where it has none.

    `make_placement` returns the placement of a run's node ids, or None if no model is among them. Until the
    workers have collected, xdist's own LoadScheduling keeps nodes and collections. (Neither of its group
    schedulers is suitable: one hangs after a worker's death, the other does not group.)

    It is registered as a plugin too, to record started and ended items: when a worker dies, they identify the
    item that died with it.
    """

    def __init__(
        self,
        config: pytest.Config,
        log: Any,
        make_placement: Callable[[Sequence[str]], Placement[WorkerController] | None],
    ) -> None:
        self._load = LoadScheduling(config, log)
        self._make_placement = make_placement
        self._placement: Placement[WorkerController] | None = None
        self._begun: set[str] = set()
        self._over: set[str] = set()
        self._collected = False

    @property
    def nodes(self) -> list[WorkerController]:
        """The workers of the run, which DSession shuts down."""
        nodes: list[WorkerController] = self._load.nodes
        return nodes

    @property
    def collection_is_completed(self) -> bool:
        """True if all workers have collected at some time: one that dies later is replaced."""
        self._collected = self._collected or self._load.collection_is_completed
        return self._collected

    @property
    def tests_finished(self) -> bool:
        """True if DSession may stop all workers: nothing is left to send, and none waits with two items."""
        if self._placement is None:
            return bool(self._load.tests_finished)
        return not self._placement.unsent and self._placement.longest_queue < 2

    @property
    def has_pending(self) -> bool:
        """True if an item has not ended."""
        return bool(self._load.has_pending if self._placement is None else self._placement.unfinished)

    def add_node(self, node: WorkerController) -> None:
        """`DSession.worker_workerready`: a worker has started, and is about to collect."""
        self._load.add_node(node)

    def add_node_collection(self, node: WorkerController, collection: Sequence[str]) -> None:
        """`DSession.worker_collectionfinish`, before it calls `schedule`."""
        self._load.add_node_collection(node, collection)

    def schedule(self) -> None:
        """`DSession.worker_collectionfinish`, when all workers have collected, and again for each replacement
        of a dead worker."""
        if self._load.collection is None:
            collections = list(self._load.node2collection.values())
            self._placement = self._make_placement(collections[0])
            if self._placement is None or any(one != collections[0] for one in collections):
                self._placement = None
                self._load.schedule()  # also reports workers that collected differently
                return
            self._load.collection = collections[0]
        if self._placement is None:
            self._load.schedule()
            return
        for node in self.nodes:
            # A worker with a different collection gets nothing: xdist has logged it.
            if node not in self._placement.workers and node in self._load.node2collection:
                self._placement.join(node)
        self._send()

    def mark_test_complete(self, node: WorkerController, item_index: int, duration: float = 0) -> None:
        """`DSession.worker_runtest_protocol_complete`: the worker has gone on to its next item."""
        if self._placement is None:
            self._load.mark_test_complete(node, item_index, duration)
            return
        self._placement.ended(node, item_index)
        self._send()

    def mark_test_pending(self, item: str) -> None:
        """Run an item again, as a plugin's `pytest_handlecrashitem` requests."""
        if self._placement is None:
            self._load.mark_test_pending(item)
            return
        self._begun.discard(item)
        self._placement.again(self._ids.index(item))
        self._send()

    def remove_pending_tests_from_node(self, node: WorkerController, indices: Sequence[int]) -> None:
        """Ignore the answer to a `steal`, which is never requested."""
        raise NotImplementedError

    def remove_node(self, node: WorkerController) -> str | None:
        """`DSession.worker_errordown` and `worker_workerfinished`: a worker is gone. Return the item that
        died with it: begun, and not reported. Other workers run its remaining items."""
        if self._placement is None:
            item = self._load.remove_node(node)
            return None if item is None else str(item)
        del self._load.node2pending[node]
        if node not in self._placement.workers:
            return None
        died = None
        for index in reversed(self._placement.leave(node)):
            item = self._ids[index]
            if item not in self._begun:
                self._placement.again(index)
            elif item not in self._over:
                died = item
        self._send()
        return died

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Note that a worker has begun an item."""
        self._begun.add(nodeid)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Note that an item is over, including its teardown: a death before that belongs to it."""
        self._over.add(nodeid)

    @property
    def _ids(self) -> list[str]:
        ids: list[str] = self._load.collection
        return ids

    def _send(self) -> None:
        assert self._placement is not None
        for node in self._placement.workers:
            if node.shutting_down:  # DSession shuts it down, after -x
                self._placement.stop(node)
        for node, indices, stop in self._placement.orders():
            # A worker that has just died accepts nothing. The event is under way, and remove_node then
            # reassigns its items.
            with suppress(OSError):
                if indices:
                    node.send_runtest_some(indices)
                if stop:
                    node.shutdown()
