"""Hand hostile files of every kind to the readers of mxcheck, and write what came of it: `make fuzz`.

Each kind has a process of its own, with a limit of its memory and time; an input that takes longer than
`--each` seconds is a find too. `tests/support/fuzz_targets.py` is the table of kinds.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

#: Of a process: torch maps much more than it uses.
_ADDRESSES, _SECONDS = 24 * 2**30, 3600


class TooLongError(Exception):
    """An input that takes too long."""


def main() -> int:
    """Exit code 1 where an input was neither accepted nor refused in one line."""
    options = _options()
    if options.kind and options.child:
        return _child(options)
    from fuzz_targets import TARGETS

    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    print(f"fuzz: seed {seed}; {options.inputs} inputs of each kind", flush=True)
    kinds, rows = [options.kind] if options.kind else list(TARGETS), []
    with ThreadPoolExecutor(options.jobs) as pool:
        for row in pool.map(lambda kind: _run(kind, seed, options), kinds):
            rows.append(row)
            print(f"fuzz: {row['kind']}: {row['words']}", flush=True)
            if row["trouble"]:
                print(row["trouble"], flush=True)
    if options.summary is not None and not options.kind:
        before = options.summary.read_text("utf-8") if options.summary.is_file() else ""
        options.summary.parent.mkdir(parents=True, exist_ok=True)
        options.summary.write_text(_markdown(rows, seed, before), "utf-8")
    return 1 if any(row["trouble"] for row in rows) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=1000, help="of each kind (default: 1000)")
    parser.add_argument(
        "--seed", type=int, help="of the inputs (default: another in each run; it is printed)"
    )
    parser.add_argument("--kind", help="one kind alone")
    parser.add_argument("--each", type=int, default=30, help="seconds for one input (default: 30)")
    parser.add_argument("--jobs", type=int, default=2, help="kinds at once (default: 2)")
    parser.add_argument("--summary", type=Path, help="the Markdown file to write")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _run(kind: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", "--kind", kind, "--seed", str(seed)]
    command += ["--inputs", str(options.inputs), "--each", str(options.each)]
    began = time.monotonic()
    try:
        done = subprocess.run(  # noqa: S603  (this script, no shell)
            command, capture_output=True, text=True, errors="replace", check=False, timeout=_SECONDS
        )
        lines = done.stdout.splitlines()
        found: dict[str, Any] = json.loads(lines[-1]) if done.returncode == 0 and lines else {}
        trouble = "" if found else f"exit code {done.returncode}\n{(done.stdout + done.stderr)[-3000:]}"
    except subprocess.TimeoutExpired:
        found, trouble = {}, f"not done after {_SECONDS} s"
    row = {"kind": kind, "trouble": trouble or found["trouble"], "seconds": time.monotonic() - began, **found}
    row["trouble"] = trouble or found["trouble"]
    row["words"] = (
        "{accepted} accepted, {refused} refused in {kinds} ways, {peak} MiB".format(**row)
        if found
        else "ended"
    ) + f", {row['seconds']:.0f} s"
    return row


def _child(options: argparse.Namespace) -> int:
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESSES, _ADDRESSES))
    from fuzz_targets import TARGETS, emptied, outcome
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded
    from hypothesis.errors import HypothesisException

    target = TARGETS[options.kind]
    folder = Path(tempfile.mkdtemp(prefix="mxcheck-fuzz-"))
    ways: Counter[str] = Counter()

    @seeded(options.seed)
    @settings(
        max_examples=options.inputs,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @given(content=target.files())
    def hand_over(content: bytes) -> None:
        signal.alarm(options.each)
        try:
            ways[_way(outcome(target, content, emptied(folder / "files")))] += 1
        finally:
            signal.alarm(0)

    signal.signal(signal.SIGALRM, _too_long)
    trouble = ""
    with (folder / "output").open("w") as output, redirect_stdout(output), redirect_stderr(output):
        try:
            hand_over()
        except HypothesisException:
            raise
        except BaseException as error:  # noqa: BLE001  (it is what is looked for, a panic of compiled code too)
            trouble = "\n".join(
                map(_told, error.exceptions if isinstance(error, BaseExceptionGroup) else [error])
            )
    shutil.rmtree(folder)
    accepted = ways.pop("", 0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**10
    found = {"accepted": accepted, "refused": ways.total(), "kinds": len(ways), "peak": peak}
    print(json.dumps({**found, "trouble": trouble}))
    return 0


def _too_long(*_: object) -> None:
    raise TooLongError("one input took too long")


def _way(refusal: str) -> str:
    """The words of a refusal without what is of one input alone."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|\d+|/\S+", "…", refusal)[:100]


def _told(error: BaseException) -> str:
    notes = "\n".join(getattr(error, "__notes__", []))
    return f"{type(error).__name__}: {str(error)[:1000]}\n{_where(error)}\n{notes[:2000]}"


def _where(error: BaseException) -> str:
    """The innermost lines of ours."""
    lines, trace = [], error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        lines.append(f"  {code.co_filename}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return "\n".join(lines[-6:])


#: What later runs keep of the page: what was found is written by hand.
_FOUND = "## What was found"


def _markdown(rows: list[dict[str, Any]], seed: int, before: str) -> str:
    total = sum(row.get("accepted", 0) + row.get("refused", 0) for row in rows)
    wrong = sum(bool(row["trouble"]) for row in rows)
    lines = [
        "# Hostile files",
        "",
        "Written by `make fuzz`: files of every kind that mxcheck reads, valid ones that were changed and",
        "bytes that never were one, drawn by Hypothesis. Each has to be accepted, or refused in one line",
        "that can be printed. Ways: how many different refusals there were. MiB: the most memory that the",
        "process of a kind held.",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}; seed {seed}.",
        f"**{total:,} inputs of {len(rows)} kinds; kinds with another end: {wrong}.**",
        "",
        "| kind | inputs | accepted | refused | ways | MiB | seconds |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        if "accepted" in row:
            count = row["accepted"] + row["refused"]
            figures = f"{count} | {row['accepted']} | {row['refused']} | {row['kinds']} | {row['peak']}"
        else:
            figures = "| | | | ended"
        lines.append(f"| {row['kind']} | {figures} | {row['seconds']:.0f} |")
    kept = before.partition(_FOUND)[2] or "\n\nNothing is written here yet.\n"
    return "\n".join([*lines, "", f"{_FOUND}{kept}"])


if __name__ == "__main__":
    sys.exit(main())
