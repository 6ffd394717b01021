"""A run in virtual time: placement and the ledger's rules, no process and no clock."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mxcheck.scheduling.devices import Device
from mxcheck.scheduling.leases import Lease, Request, grant
from mxcheck.scheduling.placement import Group, Item, Placement


@dataclass(slots=True)
class _Worker:
    queue: list[int] = field(default_factory=list)
    stopping: bool = False
    busy: bool = False
    group: str | None = None
    lease: Lease | None = None


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What came of it: seconds; how often each item ran to its end; which died with their worker; how often
    each group was loaded, by worker."""

    makespan: float
    ran: Counter[int]
    died: list[int]
    loads: Counter[tuple[str, int]]


class VirtualRun:
    """Workers as xdist has them: an item begins when the next one is known, or the worker is to stop."""

    def __init__(
        self,
        items: Sequence[Item],
        groups: Mapping[str, Group],
        *,
        workers: int,
        devices: int,
        crashes: int = 0,
        seed: int = 0,
    ) -> None:
        self._items, self._groups = items, groups
        self._devices = [Device(name=f"d{n}", index=n, slots=1, total_bytes=1) for n in range(devices)]
        self._placement: Placement[int] = Placement(items, groups, devices)
        self._random = random.Random(seed)
        self._crashes = crashes
        self._now = 0.0
        self._events: list[tuple[float, int, int, int]] = []  # time, tie, worker, item
        self._tie = 0
        self._workers: dict[int, _Worker] = {}
        self._waiting: list[int] = []
        self._outcome = Outcome(makespan=0.0, ran=Counter(), died=[], loads=Counter())
        for number in range(workers):
            self._join(number)

    def run(self) -> Outcome:
        """To the end. Raises AssertionError where nothing happens any more and something is left."""
        self._orders()
        while self._events:
            self._now, _, worker, item = heapq.heappop(self._events)
            if worker not in self._workers:
                continue  # it died meanwhile
            if self._crashes and self._random.random() < 0.1:
                self._crashes -= 1
                self._die(self._random.choice(list(self._workers)))
            if worker in self._workers:
                self._end(worker, item)
            self._orders()
        assert not self._placement.unfinished, f"{self._placement.unfinished} items are left, nobody runs"
        self._outcome.makespan = self._now
        return self._outcome

    def _join(self, number: int) -> None:
        self._workers[number] = _Worker()
        self._placement.join(number)

    def _orders(self) -> None:
        for number, indices, stop in self._placement.orders():
            self._workers[number].queue += indices
            self._workers[number].stopping |= stop
        for number in self._workers:
            self._begin(number)
        self._grant()

    def _begin(self, number: int) -> None:
        worker = self._workers[number]
        if worker.busy or not worker.queue or (len(worker.queue) == 1 and not worker.stopping):
            return
        worker.busy = True
        group = self._items[worker.queue[0]].group
        if group == worker.group:
            self._time(number, self._items[worker.queue[0]].seconds)
            return
        worker.group, worker.lease = group, None
        if group is None:
            self._time(number, self._items[worker.queue[0]].seconds)
        else:
            self._waiting.append(number)

    def _grant(self) -> None:
        """First come, first served: nobody passes the first in line."""
        while self._waiting:
            number = self._waiting[0]
            worker = self._workers[number]
            assert worker.group is not None
            group = self._groups[worker.group]
            held = [one.lease for one in self._workers.values() if one.lease is not None]
            request = Request(what=worker.group, devices=group.slots, bytes_each=1)
            answer = grant(request, self._devices, held, {}, holder=str(number))
            if not isinstance(answer, Lease):
                return
            worker.lease = answer
            self._waiting.pop(0)
            self._outcome.loads[worker.group, number] += 1
            self._time(number, group.load_seconds + self._items[worker.queue[0]].seconds)

    def _time(self, number: int, seconds: float) -> None:
        self._tie += 1
        heapq.heappush(self._events, (self._now + seconds, self._tie, number, self._workers[number].queue[0]))

    def _end(self, number: int, item: int) -> None:
        worker = self._workers[number]
        assert worker.queue.pop(0) == item
        worker.busy = False
        self._outcome.ran[item] += 1
        self._placement.ended(number, item)
        if worker.stopping and not worker.queue:
            self._placement.leave(number)
            del self._workers[number]
        elif worker.queue and self._items[worker.queue[0]].group != worker.group:
            worker.lease = None  # its next test is another model's

    def _die(self, number: int) -> None:
        """A worker dies with the item that it was running; another one comes in its place."""
        worker = self._workers.pop(number)
        self._waiting = [one for one in self._waiting if one != number]
        left = self._placement.leave(number)
        assert left == worker.queue
        for index in reversed(left[1:] if worker.busy else left):
            self._placement.again(index)
        if worker.busy:
            self._outcome.died.append(left[0])
        self._join(max([number, *self._workers]) + 100)
