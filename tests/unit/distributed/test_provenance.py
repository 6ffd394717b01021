"""What a run rests on: each thing that may differ shows."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mxcheck.distributed import provenance
from mxcheck.distributed.provenance import NO_COMMIT, basis, commit_of
from mxcheck.distributed.shard_file import Basis


@pytest.fixture(autouse=True)
def no_git_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with one commit; what pytest runs in lies in a folder of it."""
    folder = tmp_path / "repository" / "project"
    folder.mkdir(parents=True)
    (folder / "casts.py").write_text("right")
    (folder.parent / "other file\n.py").write_text("right")
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run(["git", *identity, *words], cwd=folder.parent, check=True, capture_output=True)
    return folder


def head(root: Path) -> str:
    return subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=root, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_a_clean_checkout(root: Path) -> None:
    assert commit_of(root) == (head(root), "")


def test_files_that_git_does_not_know_do_not_count(root: Path) -> None:
    (root / "new.py").write_text("new")
    assert commit_of(root) == (head(root), "")


def test_every_change_of_a_tracked_file_shows(root: Path) -> None:
    seen = {commit_of(root)}
    for words in ("wrong", "wrong too"):
        (root / "casts.py").write_text(words)
        seen.add(commit_of(root))
    (root / "casts.py").unlink()
    seen.add(commit_of(root))
    (root.parent / "other file\n.py").write_text("wrong")
    seen.add(commit_of(root))
    assert len(seen) == 5
    assert {commit for commit, _ in seen} == {head(root)}


def test_equal_changes_are_equal(root: Path) -> None:
    (root / "casts.py").write_text("wrong")
    first = commit_of(root)
    assert first[1]
    subprocess.run(["git", "add", "."], cwd=root, check=True)  # staged or not is the same
    assert commit_of(root) == first


def test_outside_of_git(tmp_path: Path) -> None:
    assert commit_of(tmp_path) == (NO_COMMIT, "")


def test_a_repository_that_git_refuses(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that another user owns, in a container: its changes would go unseen."""
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(
        ValueError, match=r"^git does not say what is checked out in .*dubious ownership"
    ) as e:
        commit_of(root)
    assert "\n" not in str(e.value)


def test_a_repository_without_a_commit(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    with pytest.raises(ValueError, match="git does not say what is checked out"):
        commit_of(tmp_path)


def test_a_git_that_cannot_be_started(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "git")

    monkeypatch.setattr(subprocess, "run", refused)
    with pytest.raises(ValueError, match="Permission denied"):
        commit_of(root)
    assert commit_of(tmp_path) == (NO_COMMIT, "")


def test_without_git(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert commit_of(root) == (NO_COMMIT, "")


def test_the_basis_has_the_name_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("", "17"):
        monkeypatch.setenv("MXCHECK_RUN", name)
        assert basis(tmp_path, tmp_path / "b", selection="", arguments="", options="").run == name


def test_the_basis_sees_package_and_baselines(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package"
    package.mkdir()
    monkeypatch.setattr(provenance, "_PACKAGE", package)

    def found() -> Basis:
        return basis(root, root / "baselines", selection="", arguments="", options="")

    before = found()
    (package / "casts.py").write_text("x")
    after = found()
    assert before.sources != after.sources
    (root / "baselines").mkdir()
    (root / "baselines" / "fp32.json").write_text("{}")
    with_a_record = found().baselines
    assert with_a_record != after.baselines
    (root / "baselines" / "bounds.toml").write_text("fp32 = { kl = 0 }")
    assert found().baselines != with_a_record
    assert after.commit == head(root)


def test_the_basis_sees_whose_baselines_are_read(tmp_path: Path) -> None:
    """A project's folder for a model of ours: the project's alone counts, whatever it lacks."""

    def found() -> str:
        return basis(tmp_path, tmp_path / "b", selection="", arguments="", options="").baselines

    (tmp_path / "b").mkdir()
    seen = [found()]
    (tmp_path / "b" / "ref-llama").mkdir()
    seen.append(found())
    (tmp_path / "b" / "ref-llama" / "fp32.json").write_text("{}")
    seen.append(found())
    assert len(set(seen)) == 3
