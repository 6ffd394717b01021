"""Which worker runs what next: no clock, no process, no pytest. Told what happens, it says what to send.

Cases come in groups (a model's), which cost something to load. A worker keeps its group until that is done.
Groups start with the costliest. A second worker shares one only where that ends it sooner.
What has no group (other tests) is handed out in order, in shrinking chunks, when no group waits to start.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

#: A worker begins an item when it knows the next one, so two are all it ever needs.
_AHEAD = 2

W = TypeVar("W", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One test: its group, if it has one, and its expected seconds without loading."""

    group: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """What starting a group takes: seconds; and slots of the host (devices) while a worker is on it."""

    load_seconds: float = 0.0
    slots: int = 1


@dataclass(slots=True)
class _Worker:
    group: str | None = None
    queue: list[int] = field(default_factory=list)
    stopped: bool = False


class Placement(Generic[W]):
    """The state of one run. Items are known by their index in `items`.

    After every call that changes something, ask `orders()` for what to tell the workers.

    Args:
        items: all of them.
        groups: by the names that `items` use.
        slots: of the host; no more groups are started than fit, so that workers beyond stay free.
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
        """Those that are part of the run now."""
        return list(self._workers)

    @property
    def unsent(self) -> int:
        """Items that no worker has been told to run."""
        return len(self._others) + sum(map(len, self._left.values()))

    @property
    def longest_queue(self) -> int:
        """Of all workers, the most items that one has not ended."""
        return max((len(worker.queue) for worker in self._workers.values()), default=0)

    @property
    def unfinished(self) -> int:
        """Items that have not ended."""
        return self.unsent + sum(len(worker.queue) for worker in self._workers.values())

    def join(self, worker: W) -> None:
        """A worker is ready."""
        self._workers[worker] = _Worker()

    def stop(self, worker: W) -> None:
        """Somebody else has told a worker to stop: it gets nothing more."""
        self._workers[worker].stopped = True

    def ended(self, worker: W, index: int) -> None:
        """An item ended."""
        self._workers[worker].queue.remove(index)

    def leave(self, worker: W) -> list[int]:
        """A worker is gone. Returns what it had been told to run and has not ended, in this order: the caller
        says of each whether it has ended (`again` puts it back)."""
        return self._workers.pop(worker).queue

    def again(self, index: int) -> None:
        """An item is to be run after all; it is the next of its group."""
        group = self._items[index].group
        (self._others if group is None else self._left[group]).appendleft(index)

    def orders(self) -> list[tuple[W, list[int], bool]]:
        """What to tell whom: items to run after those that it has, and whether to stop when they are done."""
        found = []
        for name, worker in self._workers.items():
            if worker.stopped or len(worker.queue) >= _AHEAD:
                continue
            sent: list[int] = []
            while len(worker.queue) < _AHEAD and (more := self._next(worker)):
                worker.queue += more
                sent += more
            # It would wait with its last item for ever. One that has none is kept for what may come back.
            worker.stopped = len(worker.queue) == 1
            if sent or worker.stopped:
                found.append((name, sent, worker.stopped))
        return found

    def _next(self, worker: _Worker) -> list[int]:
        """The next items of a worker; none where nothing is worth its while now."""
        if worker.group is not None and self._left[worker.group]:
            return [self._left[worker.group].popleft()]
        for choose in (self._unstarted, self._chunk_of_others, self._shared):
            if more := choose(worker):
                return more
        return []

    def _unstarted(self, worker: _Worker) -> list[int]:
        """The costliest group that nobody is on, if the host has slots for it. A worker that has an item left
        takes it in any case: it gives back what it holds first, and is then the next in line."""
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
        """Tests without a group: many while there are many, two at the end (as xdist's `load` has it)."""
        size = max(_AHEAD, len(self._others) // (4 * len(self._workers)))
        chunk = [self._others.popleft() for _ in range(min(size, len(self._others)))]
        if chunk:
            worker.group = None
        return chunk

    def _shared(self, worker: _Worker) -> list[int]:
        """The next item of a group that others are on: of the one where it gains most, if anywhere."""
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
        """Seconds by which one more worker would be through with loading the group and an item of it before
        those that are on it are through with all that they have not begun."""
        on = [other.queue for other in self._workers.values() if other.group == name and other.queue]
        queued = sum(self._items[item].seconds for queue in on for item in queue[1:])
        alone = (self._rest(name) + queued) / max(1, len(on))
        return alone - self._groups[name].load_seconds - self._items[index].seconds

    def _fits(self, name: str, worker: _Worker) -> bool:
        """Whether the host has slots for one more worker on the group; where nobody else is, it has to."""
        taken = sum(
            self._groups[other.group].slots
            for other in self._workers.values()
            if other is not worker and other.queue and other.group is not None
        )
        return not taken or taken + self._groups[name].slots <= self._slots

    def _rest(self, name: str) -> float:
        return sum(self._items[index].seconds for index in self._left[name])

    def _cost(self, name: str) -> float:
        """What a group takes of the host: seconds times slots."""
        group = self._groups[name]
        return (group.load_seconds + self._rest(name)) * group.slots
