"""What a run's verdicts rest on: the commit, the package, the accepted baselines."""

from __future__ import annotations

import subprocess
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from mxcheck.gate.digest import folder_digest

if TYPE_CHECKING:
    from mxcheck.reporting.shards import Basis

_PACKAGE = Path(__file__).parent.parent
#: In place of a commit: an installed package, an unpacked archive, a machine without git.
NO_COMMIT = "no commit known to git"


def basis(root: Path, baselines: Path, *, selection: str) -> Basis:
    """What a run that starts now in `root` rests on."""
    from mxcheck.reporting.shards import Basis

    commit, changes = commit_of(root)
    return Basis(
        mxcheck=version("mxcheck"),
        commit=commit,
        changes=changes,
        sources=folder_digest(_PACKAGE),
        baselines=folder_digest(baselines, "*.json"),
        selection=selection,
    )


def commit_of(root: Path) -> tuple[str, str]:
    """The commit that is checked out in `root`, or `NO_COMMIT`, and a digest of the tracked files that are
    not as it has them; empty where all are."""
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    if commit is None:
        return NO_COMMIT, ""
    top = _git(root, "rev-parse", "--show-toplevel")
    changed = _git(root, "diff", "--name-only", "-z", "--no-renames", "HEAD")
    if not changed or top is None:
        return commit.strip(), ""
    digest = sha256()
    for name in sorted(filter(None, changed.split("\0"))):
        path = Path(top.rstrip("\n")) / name
        digest.update(f"{name}\0".encode())
        digest.update(sha256(path.read_bytes()).digest() if path.is_file() else b"deleted")
    return commit.strip(), digest.hexdigest()[:16]


def _git(root: Path, *words: str) -> str | None:
    """What git prints, or None where it is not installed or knows no repository with a commit here."""
    command = ["git", "-C", str(root), *words]
    try:
        done = subprocess.run(command, capture_output=True, check=False)  # noqa: S603  (git, no shell)
    except FileNotFoundError:
        return None
    return None if done.returncode else done.stdout.decode(errors="surrogateescape")
