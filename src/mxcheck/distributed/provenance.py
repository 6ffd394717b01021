"""The basis of a run's verdicts: the commit, the package, the accepted baselines."""

from __future__ import annotations

import os
import subprocess
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from mxcheck.files.printed import WORDS, one_line
from mxcheck.gate.shipped import SHIPPED, shipped, taken_from_ours

if TYPE_CHECKING:
    from mxcheck.distributed.shard_file import Basis

_PACKAGE = Path(__file__).parent.parent
#: Environment variable that names a run, so that shards of different runs are not merged.
RUN = "MXCHECK_RUN"
#: Used instead of a commit: no repository (an installed package, an unpacked archive), or no git installed.
NO_COMMIT = "no commit known to git"


def basis(root: Path, baselines: Path, *, selection: str, arguments: str, options: str) -> Basis:
    """Return the basis of a run that starts now in `root`."""
    from mxcheck.distributed.shard_file import Basis

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
    """Return the digest of the records and each model's bounds.toml: the project's, and ours for models
    without a folder in the project."""
    digests = [folder_digest(baselines, "*.[jt]*")]
    ours = shipped()
    for model in taken_from_ours(baselines, list(SHIPPED)):
        assert ours is not None
        digests.append(f"{model} {folder_digest(ours / model, '*.[jt]*')}")
    return digests[0] if len(digests) == 1 else sha256("\n".join(digests).encode()).hexdigest()[:16]


def commit_of(root: Path) -> tuple[str, str]:
    """Return the commit checked out in `root`, or `NO_COMMIT`, and a digest of the modified tracked files,
    empty where there are none. Raises ValueError where git is installed but fails in a repository: an unknown
    commit must not pass for none."""
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
    """Return git's output. Raises FileNotFoundError where git is not installed, another OSError where it
    cannot be started, CalledProcessError where it finds no repository with a commit here."""
    command = ["git", "-C", str(root), *words]
    done = subprocess.run(command, capture_output=True, check=True)  # noqa: S603  (git, no shell)
    return done.stdout.decode(errors="surrogateescape")


def folder_digest(folder: Path, pattern: str = "*") -> str:
    """Return 16 hexadecimal digits over the files below a folder that match `pattern`, by path. Files that
    Python compiles are excluded: imports in other processes create and remove them under temporary names. A
    missing folder counts as empty."""
    digest = sha256()
    for path in sorted(folder.rglob(pattern)):
        name = path.relative_to(folder)
        if "__pycache__" not in name.parts and path.suffix != ".pyc" and path.is_file():
            digest.update(f"{name.as_posix()}\0".encode())
            digest.update(sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]
