"""The current state of a run, from events, as a table or a line. It has no clock of its own and no terminal.

Events are plain dicts, since workers send them; `do` is the kind:

- `wait` (`model`, `why`): it waits for a device;
- `step` (`what`): it starts work of unknown length, such as loading a model; `once` names the model where the
  work serves all of its cases;
- `measure` (`what`, `batches`, `length` in tokens): a measurement begins, of a case or of a reference;
- `batch` (`sequences`, `memory` in bytes): this many more sequences are done, this much memory is used;
- `shared` (`case`, `model`, `seconds`): the part of a case's seconds that served all cases of its model:
  loading it and measuring its noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table

from mxcheck.reporting.tables import titled_table

_MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """Expected seconds of each case by id, and of the work done once for all cases of a model; and the model
    of each case. They are stored from earlier runs, or estimated, which gives the proportions only."""

    cases: Mapping[str, float]
    shared: Mapping[str, float] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Line:
    """The state of one worker."""

    doing: str = "starting"
    waits: bool = False
    once: str = ""
    once_since: float = 0.0
    batches: int = 0
    done: int = 0
    tokens: int = 0
    length: int = 0
    began: float = 0.0
    latest: float = 0.0
    memory: int = 0

    @property
    def speed(self) -> float | None:
        """Tokens per second of the current measurement."""
        return self.tokens / (self.latest - self.began) if self.latest > self.began else None


@dataclass(slots=True)
class RunProgress:
    """The state of one run. Times are of any one clock, in seconds."""

    expected: Expected
    lines: dict[str, _Line] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    shared: dict[str, float] = field(default_factory=dict)
    _of_the_model: dict[str, float] = field(default_factory=dict)
    _now: float = 0.0

    def heard(self, worker: str, event: Mapping[str, Any], now: float) -> None:
        """Process an event of a worker."""
        if event["do"] == "shared":
            self._of_the_model[event["case"]] = event["seconds"]
            self.shared[event["model"]] = self.shared.get(event["model"], 0.0) + event["seconds"]
            return
        line = self.lines.setdefault(worker, _Line())
        self._now = now
        line.waits = event["do"] == "wait"
        if line.once != event.get("once", ""):
            line.once, line.once_since = event.get("once", ""), now
        if line.waits:
            line.doing, line.batches = f"{event['model']} waits: {event['why']}", 0
        elif event["do"] == "step":
            line.doing, line.batches = event["what"], 0
        elif event["do"] == "measure":
            line.doing, line.batches, line.length = event["what"], event["batches"], event["length"]
            line.done = line.tokens = 0
            line.began = line.latest = now
        elif event["do"] == "batch":
            line.done += 1
            line.tokens += event["sequences"] * line.length
            line.latest, line.memory = now, event["memory"]

    def case_ended(self, case: str, seconds: float | None) -> None:
        """Note that a case has a result; `seconds` is its duration, where known."""
        if seconds is None:
            self.ended[case] = self.expected.cases.get(case, 0.0)
        else:
            self.ended[case] = max(0.0, seconds - self._of_the_model.pop(case, 0.0))

    def gone(self, worker: str) -> None:
        """Note that a worker has died or finished."""
        self.lines.pop(worker, None)

    def seconds_left(self) -> float | None:
        """Return the expected remaining seconds, from the ratio of actual to expected durations; None before
        a case has ended, and while every worker waits, since the wait is unknown.

        Work that is done once for all cases of a model has its own ratio: the case that did it does not
        predict the others.
        """
        workers = sum(not line.waits for line in self.lines.values())
        cases, shared = self.expected.cases, self.expected.shared
        rate = _rate(self.ended, cases)
        if rate is None or (self.lines and not workers):
            return None
        left = [case for case in cases if case not in self.ended]
        models = {self.expected.models.get(case) for case in left} - self.shared.keys()
        once = _rate(self.shared, shared)
        begun = {line.once: self._now - line.once_since for line in self.lines.values() if line.once}
        seconds = rate * sum(cases[case] for case in left)
        for model in models:
            whole = (rate if once is None else once) * shared.get(model or "", 0.0)
            seconds += max(0.0, whole - begun.get(model or "", 0.0))
        return seconds / max(1, workers)

    @property
    def over(self) -> bool:
        """True if every case has ended: other tests of the run may follow."""
        return self.expected.cases.keys() <= self.ended.keys()

    def waiting(self) -> str | None:
        """Describe in one line the waiting workers and the reasons; None where none waits."""
        waiting = [f"{worker} {line.doing}" for worker, line in self.lines.items() if line.waits]
        return f"mxcheck: {'; '.join(waiting)}" if waiting else None

    def line(self) -> str:
        """Return the whole state in one line, for a log."""
        left = self.seconds_left()
        parts = [f"mxcheck: {len(self.ended)} of {len(self.expected.cases)} cases"]
        if left is not None:
            parts.append(f"about {duration(left)} left")
        for worker, line in self.lines.items():
            parts.append(f"{worker} {line.doing}" + "".join(f", {text}" for text in _figures(line) if text))
        return "; ".join(parts)

    def renderable(self) -> RenderableType:
        """Return the whole state as a table with a bar, for a terminal."""
        table = titled_table("")
        for name in ("worker", "case", "batches", "", "tokens/s", "memory"):
            table.add_column(
                name, justify="right" if name in ("tokens/s", "memory") else "left", no_wrap=True
            )
        for worker, line in sorted(self.lines.items()):
            batches, speed, memory = _figures(line)
            bar = ProgressBar(total=line.batches or 1, completed=line.done, width=16)
            table.add_row(
                worker,
                line.doing,
                batches.removesuffix(" batches"),
                bar if line.batches else "",
                speed.removesuffix(" tokens/s"),
                memory,
            )
        left = self.seconds_left()
        overall = Table.grid(padding=(0, 1))
        overall.add_row(
            f"{len(self.ended)} of {len(self.expected.cases)} cases",
            ProgressBar(total=len(self.expected.cases) or 1, completed=len(self.ended), width=32),
            "" if left is None else f"about {duration(left)} left",
        )
        return Group(table, overall)


def _rate(took: Mapping[str, float], expected: Mapping[str, float]) -> float | None:
    """Return the ratio of actual to expected seconds; None where nothing was expected of the ended cases."""
    told = sum(expected[name] for name in took if name in expected)
    return sum(seconds for name, seconds in took.items() if name in expected) / told if told else None


def _figures(line: _Line) -> tuple[str, str, str]:
    return (
        f"{line.done}/{line.batches} batches" if line.batches else "",
        f"{line.speed:,.0f} tokens/s" if line.batches and line.speed else "",
        f"{line.memory / _MIB:,.0f} MiB" if line.memory else "",
    )


def duration(seconds: float) -> str:
    """Format a duration in words, with the precision of an estimate."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
