"""A joined run as text, Markdown and JSON."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

from sample_shards import CASES, build_result, build_shard, other_basis, put, red_shard

from mxcheck.distributed.merge import Merged, merge_folder
from mxcheck.distributed.merged_tables import as_json, markdown, refused_markdown, text, verdict_line
from mxcheck.distributed.shard_file import ShardRun
from mxcheck.reporting.table import render, results_table, skipped_lines


def merged(folder: Path, *shards: ShardRun) -> Merged:
    put(folder, *shards)
    return merge_folder(folder)


def test_a_green_verdict(tmp_path: Path) -> None:
    found = merged(tmp_path, build_shard(1), build_shard(2))
    assert verdict_line(found) == f"green: 4 cases: 2 pass, 2 skipped; 2 shards; commit {'c' * 12}"


def test_what_is_red_is_counted(tmp_path: Path) -> None:
    basis = other_basis(changes="a" * 16, commit="no commit known to git", selection="-m mxfp8_e4m3")
    one = replace(red_shard(1), basis=basis, failures={"test_order": "reversed"})
    some = {"selected": (CASES[2].id,), "results": (build_result(CASES[2]),)}
    two = build_shard(2, basis=basis, exit_status=3, **some)
    assert verdict_line(merged(tmp_path, one, two)) == (
        "red: 3 cases: 1 FAIL step 4, 1 skipped, 1 pass; 1 not selected; 1 other failure; "
        "shard 2/2: pytest ended with 3 (internal error); 2 shards; "
        f"no commit known to git with changes {'a' * 16}"
    )


def test_the_text_has_the_table_of_one_run_and_then_what_is_red(tmp_path: Path) -> None:
    two = build_shard(2, failures={"test_order": "reversed"}, exit_status=2)
    found = merged(tmp_path, red_shard(1), two)
    rows = [found.results[case.id] for case in CASES]
    shown = text(found, color=False)
    table = render(results_table(rows), color=False)
    assert shown.startswith(table + "".join(f"{line}\n" for line in skipped_lines(rows)))
    rest = shown.removeprefix(table)
    places = [
        rest.index(words)
        for words in (
            "skipped: te_mxfp8 of ref-llama, ref-neo (cases: 2): no Transformer Engine here",
            "shard 2/2: test_order\nreversed",
            f"{CASES[0].id}: step 4 (casts): bits",
            "shard 2/2: pytest ended with 2 (interrupted)",
            "mxcheck merge: red: ",
        )
    ]
    assert places == sorted(places)
    assert "\x1b" not in shown
    assert "\x1b" in text(found, color=True)


def test_markdown(tmp_path: Path) -> None:
    """Every cell of the table, every message whole, and which shards there were."""
    ticks = "```\nnot the end"
    one = red_shard(1)
    one = replace(one, messages={CASES[0].id: ticks})
    page = markdown(merged(tmp_path, one, build_shard(2, exit_status=2)))
    assert page.startswith("## mxcheck: red: 4 cases: ")
    assert f"### {CASES[0].id}\n\n````text\n{ticks}\n````\n" in page
    assert "- shard 2/2: pytest ended with 2 (interrupted)" in page
    assert "- skipped: te_mxfp8 of ref-llama, ref-neo" in page
    table = [line for line in page.splitlines() if line.startswith("| ref-")]
    assert len(table) == 6
    assert table[0].startswith("| ref-llama | reference |  | 7.482 | 2.01250 | 2.01250 |")
    red = table[1]
    assert re.search(r"\| ref-llama \| mxfp8_e4m3 \| B \| 7\.493 \| .* \| FAIL step 4 \|$", red), red
    assert re.search(r"\| 2/2 \| `.*shard-2-of-2.json` \| 2 \| 2 \|", page)


def test_a_long_message_is_cut_in_markdown_only(tmp_path: Path) -> None:
    """A job summary that is too long is not shown at all."""
    one = replace(red_shard(1), messages={CASES[0].id: "x" * 100_000})
    found = merged(tmp_path, one, build_shard(2))
    assert "x" * 100_000 in text(found, color=False)
    page = markdown(found)
    assert len(page) < 10_000
    assert "… (the log has all of it)" in page


def test_many_long_messages_fit_a_job_summary(tmp_path: Path) -> None:
    failures = {f"test_{number}": "ä" * 100_000 for number in range(300)}
    page = markdown(merged(tmp_path, build_shard(1, failures=failures, exit_status=1), build_shard(2)))
    assert 400_000 < len(page.encode()) < 700_000
    shown = page.count("### shard 1/2: test_")
    assert f"\n… and {300 - shown} more messages: the log has all of them\n" in page
    assert page.endswith("|\n\n")  # the shards come after them


def test_json_is_what_one_run_writes(tmp_path: Path) -> None:
    found = merged(tmp_path, build_shard(1), build_shard(2))
    assert json.loads(as_json(found)) == [build_result(case).as_dict() for case in CASES]


def test_what_could_not_be_joined_is_red_in_markdown_too() -> None:
    assert refused_markdown(ValueError("missing")) == "## mxcheck: red: no verdict\n\nmissing\n\n"
