"""What a run's verdicts rest on: the commit, the package, the accepted baselines."""

from __future__ import annotations

import os
import subprocess
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from mxcheck.files.printed import WORDS, one_line
from mxcheck.gate.digest import folder_digest
from mxcheck.gate.shipped import SHIPPED, shipped, taken_from_ours

if TYPE_CHECKING:
    from mxcheck.reporting.shards import Basis

_PACKAGE = Path(__file__).parent.parent
#: The environment variable that names a run, so that no shard of another one is joined to its.
RUN = "MXCHECK_RUN"
#: In place of a commit: no repository (an installed package, an unpacked archive), or no git installed.
NO_COMMIT = "no commit known to git"


def basis(root: Path, baselines: Path, *, selection: str, arguments: str, options: str) -> Basis:
    """What a run that starts now in `root` rests on."""
    from mxcheck.reporting.shards import Basis

    commit, changes = commit_of(root)
    return Basis(
        mxcheck=version("mxcheck"),
        commit=commit,
        changes=changes,
        sources=folder_digest(_PACKAGE),
        baselines=_digest_of(baselines),
        selection=selection,
        arguments=arguments,
        options=options,
        run=os.environ.get(RUN, ""),
    )


def _digest_of(baselines: Path) -> str:
    """Of the records, and each model's bounds.toml: the project's, and ours of models that it has no folder
    for."""
    digests = [folder_digest(baselines, "*.[jt]*")]
    ours = shipped()
    for model in taken_from_ours(baselines, list(SHIPPED)):
        assert ours is not None
        digests.append(f"{model} {folder_digest(ours / model, '*.[jt]*')}")
    return digests[0] if len(digests) == 1 else sha256("\n".join(digests).encode()).hexdigest()[:16]


def commit_of(root: Path) -> tuple[str, str]:
    """The commit that is checked out in `root`, or `NO_COMMIT`, and a digest of the tracked files that are
    not as it has them; empty where all are. Raises ValueError where git is there and fails in a repository:
    a commit that it would not tell must not pass for none."""
    try:
        commit = _git(root, "rev-parse", "--verify", "HEAD").strip()
        top = Path(_git(root, "rev-parse", "--show-toplevel").rstrip("\n"))
        changed = _git(root, "diff", "--name-only", "-z", "--no-renames", "HEAD")
    except FileNotFoundError:
        return NO_COMMIT, ""
    except (OSError, subprocess.CalledProcessError) as error:
        if not any((folder / ".git").exists() for folder in (root, *root.parents)):
            return NO_COMMIT, ""
        words = str(error)
        if isinstance(error, subprocess.CalledProcessError):
            words = error.stderr.decode(errors="replace")
        raise ValueError(
            f"git does not say what is checked out in {root} ({one_line(words, WORDS)}); mend that: shards "
            f"are joined by their commit"
        ) from error
    digest = sha256()
    for name in sorted(filter(None, changed.split("\0"))):
        path = top / name
        digest.update(f"{name}\0".encode(errors="surrogateescape"))
        digest.update(sha256(path.read_bytes()).digest() if path.is_file() else b"deleted")
    return commit, digest.hexdigest()[:16] if changed else ""


def _git(root: Path, *words: str) -> str:
    """What git prints. Raises FileNotFoundError where it is not installed, another OSError where it cannot be
    started, CalledProcessError where it knows no repository with a commit here."""
    command = ["git", "-C", str(root), *words]
    done = subprocess.run(command, capture_output=True, check=True)  # noqa: S603  (git, no shell)
    return done.stdout.decode(errors="surrogateescape")
