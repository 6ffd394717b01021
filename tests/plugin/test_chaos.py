"""A worker is killed at a random moment: nothing is lost, nothing runs twice, nothing hangs."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from simulated_host import Host, Memory, draw_models

from mxcheck.gate.baseline import encode
from mxcheck.scheduling.ledger import Ledger

RUNS = 20
#: In processes of this many runs each, so that `-n` spreads them.
BATCH = 10
#: A run takes a few seconds; what takes this long hangs.
LIMIT = 600
#: Of 30 events (six models are loaded, and 24 cases end): what comes later waits until somebody was killed.
HELD_AT = 25


def workers_of(pid: int) -> list[int]:
    """The workers of a pytest run: its children."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def kill_one(process: subprocess.Popen[str], host: Host, chosen: random.Random) -> None:
    """Kill a worker at a random moment: while they start, or once so much has happened and a little more, for
    a moment by the clock would often come too late or too early on a busy machine. The last cases wait for
    it.

    Not before xdist has all its workers: one that dies while they are being made ends the run there, as an
    internal error of execnet's, before any test."""
    events = host.folder / "events"
    much = chosen.randint(-6, HELD_AT)
    while process.poll() is None and not (host.folder / "started").exists():
        time.sleep(0.005)
    if much < 0:
        time.sleep(chosen.uniform(0.0, 0.5))
    while process.poll() is None and much > (events.read_text().count("\n") if events.exists() else 0):
        time.sleep(0.005)
    time.sleep(chosen.uniform(0.0, 0.04))
    while workers := workers_of(process.pid):
        with suppress(ProcessLookupError):  # it had nothing more to do, and ended meanwhile: another one
            os.kill(chosen.choice(workers), signal.SIGKILL)
            break
    else:
        raise AssertionError(f"the run ended before anybody was killed:\n{process.communicate()[0]}")
    (host.folder / "hold").unlink()


@pytest.mark.parametrize("batch", range(RUNS // BATCH))
def test_a_worker_is_killed_at_a_random_moment(tmp_path: Path, batch: int) -> None:
    crashed = 0
    for number in range(BATCH):
        seed = batch * BATCH + number
        chosen = random.Random(seed)
        models = draw_models(seed, count=6, cases=4, wide=1, scale=0.03)
        host = Host(folder=tmp_path / str(seed), models=models, devices=3).write()
        before = accepted_before(host)
        (host.folder / "hold").write_text(str(HELD_AT))
        process = host.start("-n", "3", "--snapshot-update", "--accept", "after")
        kill_one(process, host, chosen)
        output, _ = process.communicate(timeout=LIMIT)
        crashed += check(host, before, output, process.returncode)
    assert crashed, "nobody was killed while a case ran"


def accepted_before(host: Host) -> dict[str, str]:
    """Baselines of every case, accepted before this run."""
    from sample_record import build_record

    texts = {}
    for model in host.models:
        for number in range(len(model.cases)):
            path = host.folder / "baselines" / model.name / f"case{number}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            texts[f"{model.name}-case{number}"] = encode(
                build_record(model=model.name, environment={"accepted": "before"})
            )
            path.write_text(texts[f"{model.name}-case{number}"])
    return texts


def check(host: Host, before: dict[str, str], output: str, code: int) -> int:
    """Returns how many cases were red: 0 or 1."""
    assert (host.folder / "results.json").exists(), output
    ended = json.loads((host.folder / "results.json").read_text())
    assert sorted(ended) == sorted(before), output
    # Of a worker that dies in a teardown the call had passed: the case is red all the same.
    assert {tuple(each) for each in ended.values()} <= {("passed",), ("failed",), ("passed", "failed")}, (
        output
    )
    red = [name for name, outcomes in ended.items() if outcomes[-1] != "passed"]
    assert len(red) <= 1, output
    assert code == len(red), output
    assert Ledger(host.folder / "leases").leases() == []
    assert Ledger(host.folder / "leases").waiting() == 0
    assert Memory(host.folder, host).oversubscribed == []
    for name, old in before.items():
        model, case = name.split("-")
        text = (host.folder / "baselines" / model / f"{case}.json").read_text()
        new = old.replace('"before"', '"after"')
        assert json.loads(text)["environment"]["accepted"] in ("before", "after"), name
        if name not in red:
            assert json.loads(text)["environment"] == json.loads(new)["environment"], name
    return len(red)
