"""Assign tests to workers, without a clock, a process or pytest: it receives events and returns orders.

Cases form groups (one for each model) with a loading cost. A worker keeps its group until that is done.
Groups start in order of descending cost. A second worker shares a group only where that ends it sooner. Items
without a group (other tests) are assigned in order, in shrinking chunks, when no group waits to start.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

#: A worker begins an item only when it knows the next one, so it needs two at a time.
_AHEAD = 2

W = TypeVar("W", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One test: its group, if any, and its expected seconds without loading."""

    group: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Costs of a group: seconds to start it, and slots of the host (devices) while a worker is on it."""

    load_seconds: float = 0.0
    slots: int = 1


@dataclass(slots=True)
class _Worker:
    group: str | None = None
    queue: list[int] = field(default_factory=list)
    stopped: bool = False


class Placement(Generic[W]):
    """The state of one run. Items are identified by their index in `items`.

    After every change, call `orders()` for the workers' new orders.

    Args:
        items: all items.
        groups: the groups, by the names in `items`.
        slots: slots of the host; no more groups start than fit, so that surplus workers stay free.
    """

    def __init__(self, items: Sequence[Item], groups: Mapping[str, Group], slots: int) -> None:
        self._items = items
        self._groups = groups
        self._slots = slots
        self._workers: dict[W, _Worker] = {}
        self._others: deque[int] = deque(index for index, item in enumerate(items) if item.group is None)
        self._left: dict[str, deque[int]] = {name: deque() for name in groups}
        for index in sorted(range(len(items)), key=lambda index: -items[index].seconds):
            group = items[index].group
            if group is not None:
                self._left[group].append(index)

    @property
    def workers(self) -> list[W]:
        """The workers now in the run."""
        return list(self._workers)

    @property
    def unsent(self) -> int:
        """Number of items not sent to a worker."""
        return len(self._others) + sum(map(len, self._left.values()))

    @property
    def longest_queue(self) -> int:
        """The largest number of unfinished items at one worker."""
        return max((len(worker.queue) for worker in self._workers.values()), default=0)

    @property
    def unfinished(self) -> int:
        """Number of unfinished items."""
        return self.unsent + sum(len(worker.queue) for worker in self._workers.values())

    def join(self, worker: W) -> None:
        """Add a worker that is ready."""
        self._workers[worker] = _Worker()

    def stop(self, worker: W) -> None:
        """Note that another component has stopped a worker: it gets nothing more."""
        self._workers[worker].stopped = True

    def ended(self, worker: W, index: int) -> None:
        """Note that an item has ended."""
        self._workers[worker].queue.remove(index)

    def leave(self, worker: W) -> list[int]:
        """Remove a lost worker. Return its sent, unfinished items in order: the caller decides for each
        whether it has ended (`again` puts it back)."""
        return self._workers.pop(worker).queue

    def again(self, index: int) -> None:
        """Requeue an item as the next of its group."""
        group = self._items[index].group
        (self._others if group is None else self._left[group]).appendleft(index)

    def orders(self) -> list[tuple[W, list[int], bool]]:
        """Return the orders: for each worker the items to add to its queue, and whether to stop after
        them."""
        found = []
        for name, worker in self._workers.items():
            if worker.stopped or len(worker.queue) >= _AHEAD:
                continue
            sent: list[int] = []
            while len(worker.queue) < _AHEAD and (more := self._next(worker)):
                worker.queue += more
                sent += more
            # It would wait for ever with its last item. A worker without items is kept for requeued ones.
            worker.stopped = len(worker.queue) == 1
            if sent or worker.stopped:
                found.append((name, sent, worker.stopped))
        return found

    def _next(self, worker: _Worker) -> list[int]:
        """Return the next items of a worker; none where nothing is useful now."""
        if worker.group is not None and self._left[worker.group]:
            return [self._left[worker.group].popleft()]
        for choose in (self._unstarted, self._chunk_of_others, self._shared):
            if more := choose(worker):
                return more
        return []

    def _unstarted(self, worker: _Worker) -> list[int]:
        """Return the costliest group without a worker, if the host has slots for it. A worker with an
        unfinished item takes it in any case: it releases its devices first, and is then the next in line."""
        on = {other.group for other in self._workers.values() if other.queue}
        waiting = [name for name, left in self._left.items() if left and name not in on]
        if not waiting:
            return []
        name = max(waiting, key=lambda name: (self._cost(name), name))
        if not worker.queue and not self._fits(name, worker):
            return []
        worker.group = name
        return [self._left[name].popleft()]

    def _chunk_of_others(self, worker: _Worker) -> list[int]:
        """Return tests without a group: many while there are many, two at the end (as xdist's `load`
        does)."""
        size = max(_AHEAD, len(self._others) // (4 * len(self._workers)))
        chunk = [self._others.popleft() for _ in range(min(size, len(self._others)))]
        if chunk:
            worker.group = None
        return chunk

    def _shared(self, worker: _Worker) -> list[int]:
        """Return the next item of a group with other workers: of the one with the largest gain, if any."""
        gains = {
            name: self._gain(name, left[0])
            for name, left in self._left.items()
            if left and self._fits(name, worker)
        }
        name = max(gains, key=lambda name: (gains[name], name), default="")
        if not name or gains[name] <= 0:
            return []
        worker.group = name
        return [self._left[name].popleft()]

    def _gain(self, name: str, index: int) -> float:
        """Return the seconds by which an additional worker would finish loading the group and one item of it
        before the group's workers finish all that they have not begun."""
        on = [other.queue for other in self._workers.values() if other.group == name and other.queue]
        queued = sum(self._items[item].seconds for queue in on for item in queue[1:])
        alone = (self._rest(name) + queued) / max(1, len(on))
        return alone - self._groups[name].load_seconds - self._items[index].seconds

    def _fits(self, name: str, worker: _Worker) -> bool:
        """Return whether the host has slots for one more worker on the group; true where the group has
        none."""
        taken = sum(
            self._groups[other.group].slots
            for other in self._workers.values()
            if other is not worker and other.queue and other.group is not None
        )
        return not taken or taken + self._groups[name].slots <= self._slots

    def _rest(self, name: str) -> float:
        return sum(self._items[index].seconds for index in self._left[name])

    def _cost(self, name: str) -> float:
        """Return the cost of a group: seconds times slots."""
        group = self._groups[name]
        return (group.load_seconds + self._rest(name)) * group.slots
