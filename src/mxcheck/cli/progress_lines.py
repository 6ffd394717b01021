"""A progress bar for runs of long jobs in phases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def progress_bar(screen: Console, title: str) -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function of (the ended job, number of ended jobs, number of jobs).

    Shows a bar with the time left, or, where the output is no terminal, one line for each job. It is drawn
    when a job ends and never by a thread: a process with threads must not fork.
    """
    if not screen.is_terminal:
        yield lambda name, done, total: screen.print(f"{done} of {total}: {name}")
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=screen, transient=True, auto_refresh=False) as bar:
        task = bar.add_task(title, total=None)
        left = 0

        def update(name: str, done: int, total: int) -> None:
            nonlocal left
            if total - done > left or done == 0:  # a new phase: earlier ones do not predict its speed
                bar.reset(task, total=total, completed=done)
            left = total - done
            bar.update(task, description=name, completed=done, refresh=True)

        yield update
