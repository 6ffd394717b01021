"""Files of others as they were found to do harm, through the real commands in a process of their own."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sample_record import build_record
from sample_shards import CASES, build_shard, put, red_shard

from mxcheck.distributed.shard_file import encode as encode_shard
from mxcheck.gate.baseline import encode

TERMINAL = "\x1b[2J\x1b[1mgreen\x1b[0m\x9b31m"
FORGED = f"{TERMINAL}\n## mxcheck: green: 4 cases: 4 pass\n\n[bold]x[/bold] ![a](http://b/c) <img src=x> [/"


def mxcheck(*words: object, stdout: Any = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    """The command, in a process of its own."""
    command = [sys.executable, "-m", "mxcheck.cli", *map(str, words)]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of an exit by 2."""
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("mxcheck: ")
    assert line.isprintable()
    return line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("[" * 200_000, "nested too deeply", id="deep"),
        pytest.param('{"a":' * 500 + "1" + "}" * 500, "nested too deeply", id="deep-and-closed"),
        pytest.param('{"format_version": "\\u001b[2J"}', "format version", id="escape-code"),
        pytest.param('{"format_version": 5, "format_version": 5}', "stands twice", id="twice"),
        pytest.param('{"format_version": 5, "index": ' + "9" * 1000 + "}", "307 digits", id="digits"),
    ],
)
def test_a_shard_that_is_none_is_exit_2(tmp_path: Path, text: str, words: str) -> None:
    put(tmp_path, build_shard(2))
    (tmp_path / "shard-1-of-2.json").write_text(text)
    done = mxcheck("merge", tmp_path, "--summary", tmp_path / "summary.md")
    assert words in refusal(done)
    assert (tmp_path / "summary.md").read_text().count("\n#") == 0


def test_what_a_shard_says_reaches_terminal_and_summary_as_words(tmp_path: Path) -> None:
    one = red_shard(1)
    one = replace(
        one,
        messages={CASES[0].id: FORGED},
        failures={f"test_x[{FORGED}]": FORGED},
        results=(replace(one.results[0], reason=FORGED), replace(one.results[1], reason=FORGED)),
    )
    put(tmp_path, one, build_shard(2))
    done = mxcheck("merge", tmp_path, "--summary", tmp_path / "summary.md")
    assert (done.returncode, done.stderr) == (1, "")
    assert "\x1b" not in done.stdout
    assert "\x9b" not in done.stdout
    assert "[bold]x[/bold]" in done.stdout
    page = (tmp_path / "summary.md").read_text()
    outside = page.split("```")[::2]
    headings = [line for part in outside for line in part.splitlines() if line.startswith("## ")]
    assert headings == [next(line for line in page.splitlines() if line.startswith("## mxcheck: red: "))]
    assert "\x1b" not in page
    bare = "".join(outside).replace("\\<", "").replace("\\[", "")
    assert "<img" not in bare
    assert "[a](" not in bare


def _without_a_record(data: dict[str, Any]) -> None:
    data["results"][0]["record"] = None


def _not_a_number(data: dict[str, Any]) -> None:
    record = data["results"][0]["record"]
    record["sequence_losses"][0] = record["cross_entropy"] = record["perplexity"] = float("nan")


def _another_mean(data: dict[str, Any]) -> None:
    data["results"][0]["record"]["cross_entropy"] += 0.1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_without_a_record, "is pass and has no record"),
        (_not_a_number, "has a figure that is no finite number"),
        (_another_mean, "contradicts itself"),
    ],
)
def test_a_green_row_that_no_run_writes_is_exit_2(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    data = json.loads(encode_shard(build_shard(1)))
    change(data)
    put(tmp_path, build_shard(2))
    (tmp_path / "shard-1-of-2.json").write_text(json.dumps(data))
    assert words in refusal(mxcheck("merge", tmp_path))


def _ledger(holder: object = "1-0123abcd", queue: object = ()) -> str:
    lease = {"holder": holder, "what": "[bold]m[/bold]\x1b[2J", "bytes_of": {"g": 1}, "slots_of": {"g": 1}}
    data = {"version": 1, "next_ticket": 1, "leases": [lease], "queue": queue, "others": {}}
    return json.dumps(data)


@pytest.mark.parametrize("holder", ["../../victim", "x/../../../victim", "a\x00b", 3, None])
def test_a_crafted_holder_deletes_no_file_elsewhere(tmp_path: Path, holder: object) -> None:
    folder = tmp_path / "a" / "leases"
    (folder / "holder-..").mkdir(parents=True)
    (folder / "holder-x").mkdir()
    victims = [tmp_path / "victim.lock", tmp_path / "a" / "victim.lock", folder / "victim.lock"]
    for one in victims:
        one.write_text("")
    (folder / "leases.json").write_text(_ledger(holder))
    assert "is corrupt (a holder is called" in refusal(mxcheck("leases", "--leases", folder))
    assert all(one.is_file() for one in victims)


@pytest.mark.parametrize("queue", [[1], {"a": 1}, [{"ticket": 1}], "x", None])
def test_a_queue_of_something_else_is_a_corrupt_ledger(tmp_path: Path, queue: object) -> None:
    (tmp_path / "leases.json").write_text(_ledger(queue=queue))
    assert "is corrupt (" in refusal(mxcheck("leases", "--leases", tmp_path))


def test_a_ledger_that_is_a_link_is_corrupt(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text(_ledger())
    (tmp_path / "leases").mkdir()
    (tmp_path / "leases" / "leases.json").symlink_to(tmp_path / "elsewhere")
    assert "it is a link" in refusal(mxcheck("leases", "--leases", tmp_path / "leases"))


def _link(folder: Path) -> None:
    (folder.parent / "mine").mkdir()
    folder.symlink_to(folder.parent / "mine")


def _open_to_all(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)


@pytest.mark.parametrize(("plant", "words"), [(_link, "is a link"), (_open_to_all, "by other users")])
def test_a_planted_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plant: Callable[[Path], None], words: str
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("MXCHECK_LEASES", raising=False)
    plant(tmp_path / f"mxcheck-{os.getuid()}")
    assert words in refusal(mxcheck("leases"))
    assert not list(tmp_path.rglob("leases.json"))


def _accepted(root: Path, model: str, used: str) -> None:
    (root / model).mkdir(parents=True)
    record = build_record(model=model, corpus={"used": used})
    (root / model / "mxfp8_e4m3-B.json").write_text(encode(record))


def test_prune_keeps_what_was_accepted_on_a_corpus_and_names_what_a_killed_write_left(tmp_path: Path) -> None:
    _accepted(tmp_path, "on-prose", "prose")
    _accepted(tmp_path, "gone", "self")
    old, new = (tmp_path / "on-prose" / f".bf16.json.{word}.part" for word in ("old", "new"))
    old.write_text("")
    new.write_text("")
    os.utime(old, (time.time() - 7200,) * 2)
    done = mxcheck("baselines", "prune", "--baselines", tmp_path)
    assert done.stdout.splitlines() == [f"orphan: {tmp_path / 'gone/mxfp8_e4m3-B.json'}", f"orphan: {old}"]
    assert mxcheck("baselines", "prune", "--delete", "--baselines", tmp_path).returncode == 0
    assert not old.exists()
    assert new.exists()  # somebody may be writing it
    assert (tmp_path / "on-prose" / "mxfp8_e4m3-B.json").exists()


def _directory(path: Path) -> None:
    path.mkdir()


def _dangling(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def _deep(path: Path) -> None:
    path.write_text("[" * 200_000)


@pytest.mark.parametrize(
    ("make", "words"), [(_directory, "directory"), (_dangling, "dangling link"), (_deep, "nested too deeply")]
)
def test_a_baseline_that_is_none_is_told_beside_the_others(
    tmp_path: Path, make: Callable[[Path], None], words: str
) -> None:
    _accepted(tmp_path, "m", "self")
    make(tmp_path / "m" / "bf16.json")
    done = mxcheck("baselines", "list", "--baselines", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert words in " ".join(done.stdout.split())
    assert "m/mxfp8_e4m3-B.json" in done.stdout


def _small_files() -> None:
    """Files end at 256 KiB, as where a disk is full: the system refuses what is written beyond."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**18, 2**18))


def test_no_room_for_the_rows_leaves_what_was_there(tmp_path: Path) -> None:
    one = build_shard(1)
    long = replace(one.results[1], message="x" * 2**18)
    put(tmp_path, replace(one, results=(one.results[0], long)), build_shard(2))
    rows = tmp_path / "rows.json"
    rows.write_text("old")
    command = [sys.executable, "-m", "mxcheck.cli", "merge", str(tmp_path), "--json", str(rows)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=_small_files)
    assert f"--json {rows} cannot be written: File too large; what was there is unchanged" in refusal(done)
    assert rows.read_text() == "old"
    assert not list(tmp_path.glob(".*.part"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_under_the_output_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        assert "No space left on device" in refusal(mxcheck("formats", stdout=full))
