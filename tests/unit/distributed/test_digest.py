"""Every file of a folder counts, and nothing else."""

from __future__ import annotations

from pathlib import Path

from mxcheck.distributed.provenance import folder_digest


def test_every_file_counts_but_compiled_python(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("1")
    before = folder_digest(tmp_path)
    (tmp_path / "a.pyc").write_text("compiled")
    assert folder_digest(tmp_path) == before
    cache = tmp_path / "deep" / "__pycache__"
    cache.mkdir(parents=True)
    (cache / "a.cpython-311.pyc.139874").write_text("half compiled: it is renamed when it is whole")
    assert folder_digest(tmp_path) == before
    (tmp_path / "a.toml").write_text("2")
    assert folder_digest(tmp_path) != before


def test_names_count_and_the_pattern_leaves_out(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.json").write_text("{}")
    before = folder_digest(tmp_path, "*.json")
    (tmp_path / "tokens.safetensors").write_text("tokens")
    assert folder_digest(tmp_path, "*.json") == before
    (tmp_path / "a" / "one.json").rename(tmp_path / "a" / "two.json")
    assert folder_digest(tmp_path, "*.json") != before


def test_a_folder_that_is_not_there_is_an_empty_one(tmp_path: Path) -> None:
    assert folder_digest(tmp_path / "none") == folder_digest(tmp_path)
