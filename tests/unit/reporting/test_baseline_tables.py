"""Baselines as people look at them: list, difference, and what git has."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table
from sample_record import build_digests, build_record

from mxcheck.files.write import write_text
from mxcheck.gate.baseline import BaselineError, encode
from mxcheck.gate.record import Record
from mxcheck.reporting.baseline_tables import diff_table, list_table, read_directory, read_revision

FP8, BF16 = "ref-llama/mxfp8_e4m3-B.json", "ref-llama/bf16.json"


def rows(table: Table | None) -> list[list[str]]:
    """The table's cells, row by row."""
    assert table is not None
    return [list(row) for row in zip(*(map(str, column.cells) for column in table.columns), strict=True)]


def write(root: Path, records: Mapping[str, Record]) -> None:
    for name, record in records.items():
        write_text(root / name, encode(record))


# A directory


def test_read_directory(tmp_path: Path) -> None:
    write(tmp_path, {FP8: build_record(), BF16: build_record(precision="bf16", tier=None)})
    (tmp_path / "ref-llama" / "tokens.safetensors").write_bytes(b"\xff")
    (tmp_path / "ref-llama" / "mxint8-A.json").write_text("{")
    found = read_directory(tmp_path)
    assert list(found) == [BF16, FP8, "ref-llama/mxint8-A.json"]
    assert found[FP8] == build_record()
    assert isinstance(found["ref-llama/mxint8-A.json"], BaselineError)
    assert str(tmp_path) in str(found["ref-llama/mxint8-A.json"])


def test_what_is_no_file_of_a_record_is_kept_as_its_error(tmp_path: Path) -> None:
    contradicts = replace(build_record(), perplexity=1.0)
    write(tmp_path, {FP8: build_record(), "contradicts.json": contradicts})
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "link.json").symlink_to(tmp_path / "absent")
    (tmp_path / "nested.json").write_text("[" * 100_000)
    (tmp_path / "digits.json").write_text('{"kl": ' + "9" * 5_000 + "}")
    found = read_directory(tmp_path)
    assert isinstance(found.pop(FP8), Record)
    words = {name: str(error) for name, error in found.items() if isinstance(error, BaselineError)}
    assert words.keys() == found.keys()
    assert all(str(tmp_path / name) in text and "\n" not in text for name, text in words.items())
    assert "the record contradicts itself: perplexity 1.0" in words["contradicts.json"]
    assert "it is a directory" in words["folder.json"]
    assert "it is a dangling link" in words["link.json"]
    assert "nested too deeply" in words["nested.json"]
    assert "not JSON" in words["digits.json"]


def test_an_empty_directory_holds_nothing(tmp_path: Path) -> None:
    assert read_directory(tmp_path) == {}


def test_a_directory_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"baselines directory .*absent does not exist; name one"):
        read_directory(tmp_path / "absent")


# A list


def test_list() -> None:
    table = list_table(
        {
            FP8: build_record(),
            BF16: build_record(noise=None, environment={}),
            "x.json": BaselineError("baseline x.json was changed"),
        }
    )
    assert [str(column.header) for column in table.columns] == [
        "baseline",
        "perplexity",
        "KL",
        "top-1 %",
        "modules",
        "noise (loss rms)",
        "accepted with",
    ]
    assert rows(table) == [
        [FP8, "7.493", "0.001000", "98.75", "2", "1.0e-04", "torch 2.9.0, AVX2"],
        [BF16, "7.493", "0.001000", "98.75", "2", "", "torch ?, ?"],
        ["x.json", "", "", "", "", "", "baseline x.json was changed"],
    ]
    assert [row.style for row in table.rows] == [None, None, "bold red"]


# What changed

RECORD = build_record()
LOSSES = RECORD.sequence_losses
OTHER_DIGEST = build_digests(q="codes")


def test_no_difference_is_none() -> None:
    assert diff_table({}, {}) is None
    assert diff_table({FP8: build_record()}, {FP8: build_record()}) is None


@pytest.mark.parametrize(
    ("changes", "what", "figures"),
    [
        pytest.param(
            {"recipe": {"block_size": 16}}, "recipe", ["7.493 → 7.493", "0.001000 → 0.001000", "0.0e+00", ""]
        ),
        pytest.param(
            {"fingerprints": {**RECORD.fingerprints, "tokens": "x", "weights": "x"}},
            "tokens, weights",
            ["7.493 → 7.493", "0.001000 → 0.001000", "0.0e+00", ""],
        ),
        pytest.param(
            {"replaced": {"layers.0.up": "mlp"}},
            "modules",
            ["7.493 → 7.493", "0.001000 → 0.001000", "0.0e+00", ""],
        ),
        pytest.param(
            {"digests": OTHER_DIGEST}, "casts", ["7.493 → 7.493", "0.001000 → 0.001000", "0.0e+00", "1 of 2"]
        ),
        pytest.param({"digests": {}}, "casts", ["7.493 → 7.493", "0.001000 → 0.001000", "0.0e+00", "2 of 2"]),
        pytest.param(
            {"sequence_losses": [value + 0.25 for value in LOSSES], "perplexity": 9.5, "kl": 0.25},
            "figures",
            ["7.493 → 9.500", "0.001000 → 0.250000", "2.5e-01", ""],
        ),
        pytest.param(
            {"sequence_kl": [0.0, 0.0, 0.0, 0.0]},
            "figures",
            ["7.493 → 7.493", "0.001000 → 0.001000", "0.0e+00", ""],
        ),
        pytest.param(
            {"sequence_losses": LOSSES[:3]},
            "figures",
            ["7.493 → 7.493", "0.001000 → 0.001000", "n/a", ""],
        ),
        pytest.param(
            {"environment": {"torch": "3"}, "noise": None},
            "environment, noise",
            ["7.493 → 7.493", "0.001000 → 0.001000", "0.0e+00", ""],
        ),
        pytest.param(
            {"arithmetic": "x"}, "arithmetic", ["7.493 → 7.493", "0.001000 → 0.001000", "0.0e+00", ""]
        ),
        pytest.param(
            {"unconverted": {"head": "too small"}},
            "other",
            ["7.493 → 7.493", "0.001000 → 0.001000", "0.0e+00", ""],
        ),
    ],
    ids=[
        "recipe",
        "fingerprints",
        "modules",
        "one-digest",
        "no-digests",
        "losses",
        "kl",
        "fewer-sequences",
        "environment-and-noise",
        "arithmetic",
        "what-no-column-shows",
    ],
)
def test_a_change_is_named(changes: dict[str, Any], what: str, figures: list[str]) -> None:
    same = {BF16: build_record(precision="bf16")}
    table = diff_table({FP8: RECORD, **same}, {FP8: replace(RECORD, **changes), **same})
    assert rows(table) == [[FP8, what, *figures]]


def test_added_removed_and_unreadable() -> None:
    error = BaselineError("corrupt baseline b.json")
    before: dict[str, Record | BaselineError] = {"a.json": RECORD, "b.json": RECORD, "c.json": error}
    after: dict[str, Record | BaselineError] = {"b.json": error, "c.json": RECORD, "d.json": RECORD}
    table = diff_table(before, after)
    assert table is not None
    assert [str(column.header) for column in table.columns] == [
        "baseline",
        "what",
        "perplexity",
        "KL",
        "loss rms",
        "digests",
    ]
    assert rows(table) == [
        ["a.json", "removed", "7.493", "0.001000", "", ""],
        ["b.json", "unreadable: corrupt baseline b.json", "", "", "", ""],
        ["c.json", "unreadable: corrupt baseline b.json", "", "", "", ""],
        ["d.json", "added", "7.493", "0.001000", "", ""],
    ]


# A git revision


def git(repository: Path, *words: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *words], cwd=repository, check=True, capture_output=True)


@pytest.fixture(params=["", "baselines", "project/baselines"], ids=["top-level", "below", "deep"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A baselines directory at the top of a repository or below it, with two commits; JSON beside it."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # set where a hook runs these tests
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")
    root = tmp_path / str(request.param)
    write(root, {FP8: build_record()})
    if request.param:
        (tmp_path / "package.json").write_text("{}")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    git(tmp_path, "tag", "first")
    write(
        root,
        {FP8: build_record(kl=0.5, sequence_kl=[0.5] * 4), BF16: build_record(precision="bf16", tier=None)},
    )
    (root / "ref-llama" / "tokens.safetensors").write_bytes(b"\xff")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "second")
    return root


@pytest.mark.parametrize("relative", [False, True], ids=["absolute", "relative"])
def test_read_revision(root: Path, monkeypatch: pytest.MonkeyPatch, relative: bool) -> None:
    if relative:
        monkeypatch.chdir(root.parent)
    place = Path(root.name) if relative else root
    write(root, {FP8: build_record(kl=0.75, sequence_kl=[0.75] * 4)})  # the working tree is not asked
    assert read_revision("first", place) == {FP8: build_record()}
    second = read_revision("HEAD", place)
    assert list(second) == [BF16, FP8]
    assert second[FP8] == build_record(kl=0.5, sequence_kl=[0.5] * 4)
    assert read_revision("HEAD~1", place) == read_revision("first", place)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"{", "not JSON", id="corrupt"),
        pytest.param(b"\xff", "not UTF-8 text", id="no-utf8"),
        pytest.param(encode(RECORD).replace("0.9875", "0.9876").encode(), "seal", id="edited"),
    ],
)
def test_a_bad_file_of_a_revision_is_kept_as_its_error(root: Path, content: bytes, words: str) -> None:
    (root / FP8).write_bytes(content)
    git(root, "commit", "-qam", "bad")
    error = read_revision("HEAD", root)[FP8]
    assert isinstance(error, BaselineError)
    assert f"HEAD:{FP8}" in str(error)
    assert words in str(error)


def test_an_unknown_revision_is_refused_in_git_s_words(root: Path) -> None:
    with pytest.raises(
        ValueError, match=r"'absent' is neither a directory nor a git revision .*: fatal: "
    ) as caught:
        read_revision("absent", root)
    assert str(root) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_directory_that_the_revision_has_not_is_refused(root: Path) -> None:
    new = root / "new"
    new.mkdir()
    with pytest.raises(ValueError, match=r"git revision with baselines at .*new: fatal: "):
        read_revision("HEAD", new)


def test_a_directory_outside_any_repository_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.delenv("GIT_DIR", raising=False)
    with pytest.raises(ValueError, match="not a git repository"):
        read_revision("HEAD", tmp_path)


def test_a_revision_of_a_directory_that_does_not_exist_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not answered with every JSON file of the repository around."""
    monkeypatch.chdir(root)
    with pytest.raises(ValueError, match=r"baselines directory absent, .*does not exist; name one"):
        read_revision("HEAD", Path("absent"))
