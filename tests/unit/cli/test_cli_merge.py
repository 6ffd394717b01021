"""`mxcheck merge`: what it prints, what it writes and what it returns."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from sample_shards import CASES, build_result, build_shard, put, red_shard

from mxcheck.cli import main
from mxcheck.distributed.merge import merge_folder
from mxcheck.distributed.merged_tables import markdown, text

Capture = pytest.CaptureFixture[str]


def test_green_is_0(tmp_path: Path, capsys: Capture) -> None:
    put(tmp_path, build_shard(1), build_shard(2))
    assert main(["merge", str(tmp_path)]) == 0
    assert capsys.readouterr().out == text(merge_folder(tmp_path), color=False)


def test_red_is_1(tmp_path: Path, capsys: Capture) -> None:
    put(tmp_path, build_shard(1), red_shard(2))
    assert main(["merge", str(tmp_path)]) == 1
    assert f"{CASES[2].id}: step 4 (casts): bits" in capsys.readouterr().out


def test_what_cannot_be_joined_is_2_and_says_so_in_the_summary(tmp_path: Path, capsys: Capture) -> None:
    put(tmp_path, build_shard(1))
    summary = tmp_path / "new" / "summary.md"
    assert main(["merge", str(tmp_path), "--summary", str(summary), "--json", str(tmp_path / "j")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("mxcheck: missing in or below ")
    assert summary.read_text().startswith("## mxcheck: red: no verdict\n\nmissing in or below ")
    assert not (tmp_path / "j").exists()


def test_the_summary_is_appended_and_the_rows_are_written(tmp_path: Path) -> None:
    put(tmp_path, build_shard(1), build_shard(2))
    summary, rows = tmp_path / "summary.md", tmp_path / "new" / "rows.json"
    summary.write_text("what others wrote\n")
    assert main(["merge", str(tmp_path), "--summary", str(summary), "--json", str(rows)]) == 0
    assert summary.read_text() == "what others wrote\n" + markdown(merge_folder(tmp_path))
    assert json.loads(rows.read_text()) == [build_result(case).as_dict() for case in CASES]


@pytest.mark.parametrize("option", ["--summary", "--json"])
def test_a_file_that_cannot_be_written_is_2(tmp_path: Path, capsys: Capture, option: str) -> None:
    put(tmp_path, build_shard(1), build_shard(2))
    (tmp_path / "file").write_text("")
    assert main(["merge", str(tmp_path), option, str(tmp_path / "file" / "below")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{option} {tmp_path / 'file' / 'below'} cannot be written" in line


def test_merging_loads_no_torch(tmp_path: Path) -> None:
    put(tmp_path, build_shard(1), build_shard(2))
    words = (
        "import sys; from mxcheck.cli import main; code = main(['merge', sys.argv[1]]); "
        "sys.exit(code or any(name in sys.modules for name in ('torch', 'numpy', 'transformers')))"
    )
    done = subprocess.run([sys.executable, "-c", words, str(tmp_path)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
