"""Run our casts on every fp32 number, in chunks; a run can be stopped and resumed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing, contextmanager
from pathlib import Path

import torch

from validation.sweeps.bit_sweep import compare
from validation.sweeps.sweep import ALL_INPUTS, Sweep, SweepResult
from validation.sweeps.sweep_state import Identity, locked_state, sweep_sources_digest

#: Inputs between two writes of the state.
CHUNK = 1 << 24
#: (current sweep, chunks finished, chunks of all sweeps)
Progress = Callable[[Sweep, int, int], None]


def run(
    sweeps: Sequence[Sweep],
    *,
    device: str = "cpu",
    state_path: Path | None = None,
    progress: Progress | None = None,
    jobs: int = 1,
    span: range = ALL_INPUTS,
    chunk: int = CHUNK,
) -> list[SweepResult]:
    """Run sweeps, or what a state file says is left of them.

    Args:
        device: `cpu` or `cuda`.
        state_path: where to keep finished chunks; None: nowhere. A state of another kernel, oracle, torch or
            device is started over, with a warning in the log.
        progress: called before the first chunk and after each.
        jobs: processes, one thread each; 1 is this one.
        span: the bit patterns to go through.
        chunk: inputs between two writes of the state.

    Returns:
        One result a sweep, in the order of the sweeps.

    Raises:
        ValueError: no such device here, or the state file is damaged or being written by another run.
    """
    starts = range(span.start, span.stop, chunk)
    with locked_state(state_path, _identity(device, span, chunk)) as state:
        work = [
            (sweep, number, starts[number], min(starts[number] + chunk, span.stop))
            for sweep in sweeps
            for number in range(len(starts))
            if number not in state.chunks(sweep)
        ]
        total = len(sweeps) * len(starts)
        done = total - len(work)
        if progress is not None and sweeps:
            progress(work[0][0] if work else sweeps[-1], done, total)
        with closing(_compared(work, device, jobs)) as finished:
            for number, part in finished:
                state.add(number, part)
                done += 1
                if progress is not None:
                    progress(part.sweep, done, total)
        return [state.result(sweep) for sweep in sweeps]


def _identity(device: str, span: range, chunk: int) -> Identity:
    """Return what finished chunks depend on besides their numbers."""
    return {
        "sources": sweep_sources_digest(),
        "device": describe_device(device),
        "torch": torch.__version__,
        "span": [span.start, span.stop],
        "chunk": chunk,
    }


Work = tuple[Sweep, int, int, int]


def _compared(work: Sequence[Work], device: str, jobs: int) -> Generator[tuple[int, SweepResult], None, None]:
    """Yield (number of the chunk, result) as chunks finish."""
    if jobs == 1 or len(work) < 2:
        with _one_thread():
            for sweep, number, start, stop in work:
                yield number, compare(sweep, start, stop, device)
        return
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), initializer=_prepare_process)
    try:
        futures = {
            pool.submit(compare, sweep, start, stop, device): number for sweep, number, start, stop in work
        }
        for future in as_completed(futures):
            yield futures.pop(future), future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare_process() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that writes the state
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when its parent dies, which it would otherwise wait for for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def describe_device(device: str) -> str:
    """Name what results depend on: the CPU instructions that torch uses, or the GPU model."""
    if device == "cpu":
        return f"cpu ({torch.backends.cpu.get_cpu_capability()})"
    return f"cuda ({torch.cuda.get_device_name()})"
