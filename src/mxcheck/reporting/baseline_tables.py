"""Baselines as tables: a list, and the differences between two sets."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

from rich.table import Table

from mxcheck.gate.baseline import BaselineError, decode, read
from mxcheck.gate.record import Record
from mxcheck.gate.statistics import differences, rms
from mxcheck.reporting.numbers import figure

#: One set of baselines: by path relative to its root. An unreadable file is represented by its error.
Baselines = Mapping[str, Record | BaselineError]


def read_directory(root: Path) -> dict[str, Record | BaselineError]:
    """Read every baseline below `root`. Raises ValueError where there is no such directory."""
    if not root.is_dir():
        raise ValueError(f"baselines directory {root} does not exist; name one with --baselines")
    found: dict[str, Record | BaselineError] = {}
    for path in sorted(root.rglob("*.json")):
        name = path.relative_to(root).as_posix()
        try:
            found[name] = read(path)
        except BaselineError as error:
            found[name] = error
    return found


def read_revision(revision: str, root: Path) -> dict[str, Record | BaselineError]:
    """Read the baselines below `root` from a git revision. Raises ValueError, with git's message, where git
    does not know the revision or the directory."""
    if not root.is_dir():
        raise ValueError(
            f"{revision!r} is not a directory, and baselines directory {root}, where it could be a git "
            f"revision, does not exist; name one with --baselines"
        )
    # Resolve its name first: `git archive` would take one that begins with - for an option.
    named = _git(root, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")
    # From a subdirectory, git archives only that directory, with names relative to it.
    done = named if named.returncode else _git(root, "archive", "--format=tar", named.stdout.decode().strip())
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip().splitlines()
        raise ValueError(
            f"{revision!r} is neither a directory nor a git revision with baselines at {root}: "
            f"{words[-1] if words else 'git failed'}; name two directories, or run this in a git checkout"
        )
    found: dict[str, Record | BaselineError] = {}
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        for member in archive.getmembers():
            file = archive.extractfile(member) if member.name.endswith(".json") else None
            if file is None:
                continue
            try:
                found[member.name] = decode(file.read().decode(), where=f"{revision}:{member.name}")
            except BaselineError as error:
                found[member.name] = error
            except UnicodeDecodeError:
                found[member.name] = BaselineError(
                    f"corrupt baseline {revision}:{member.name}: not UTF-8 text"
                )
    return dict(sorted(found.items()))


def _git(root: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    command = ["git", "-C", str(root), *words]
    return subprocess.run(command, capture_output=True, check=False)  # noqa: S603  (git, no shell)


def list_table(baselines: Baselines) -> Table:
    """Return the table of every accepted case and its figures."""
    table = Table("baseline", box=None, pad_edge=False)
    for name in ("perplexity", "KL", "top-1 %", "modules", "noise (loss rms)", "accepted with"):
        table.add_column(name, justify="right")
    for name, record in baselines.items():
        if isinstance(record, BaselineError):
            table.add_row(name, *[""] * 5, str(record), style="bold red")
            continue
        environment = record.environment
        table.add_row(
            name,
            f"{record.perplexity:.3f}",
            figure(record.kl, ".6f"),
            figure(record.top1_agreement, ".2f", times=100),
            str(len(record.replaced)),
            "" if record.noise is None else f"{record.noise.loss_rms:.1e}",
            f"torch {environment.get('torch', '?')}, {environment.get('capability', '?')}",
        )
    return table


def diff_table(before: Baselines, after: Baselines) -> Table | None:
    """Return the table of changes from one set to the other, one row for each case; None where there are
    none."""
    table = Table("baseline", "what", box=None, pad_edge=False)
    for name in ("perplexity", "KL", "loss rms", "digests"):
        table.add_column(name, justify="right")
    for name in sorted(before.keys() | after.keys()):
        row = _difference(before.get(name), after.get(name))
        if row is not None:
            table.add_row(name, *row)
    return table if table.row_count else None


def _difference(old: Record | BaselineError | None, new: Record | BaselineError | None) -> list[str] | None:
    if isinstance(old, BaselineError) or isinstance(new, BaselineError):
        return [f"unreadable: {old if isinstance(old, BaselineError) else new}", "", "", "", ""]
    if old is None or new is None:
        present = new or old
        assert present is not None
        what = "added" if old is None else "removed"
        return [what, f"{present.perplexity:.3f}", figure(present.kl, ".6f"), "", ""]
    if old == new:
        return None
    changes = [
        title
        for title, changed in (
            ("recipe", old.recipe != new.recipe),
            *(
                (name, old.fingerprints.get(name) != new.fingerprints.get(name))
                for name in sorted(new.fingerprints)
            ),
            ("modules", old.replaced != new.replaced),
            ("casts", old.digests != new.digests),
            ("figures", old.sequence_losses != new.sequence_losses or old.sequence_kl != new.sequence_kl),
            ("predictions", old.predictions != new.predictions),
            ("layers", old.sublayers != new.sublayers),
            ("counts", old.counters != new.counters),
            ("bytes", (old.weight_bytes, old.original_bytes) != (new.weight_bytes, new.original_bytes)),
            ("absent figures", old.absent != new.absent),
            ("metrics", old.metrics != new.metrics),
            ("text", old.corpus != new.corpus),
            ("arithmetic", old.arithmetic != new.arithmetic),
            ("environment", old.environment != new.environment),
            ("noise", old.noise != new.noise),
        )
        if changed
    ]
    same_length = len(old.sequence_losses) == len(new.sequence_losses)
    modules = old.digests.keys() | new.digests.keys()
    moved = sum(old.digests.get(name) != new.digests.get(name) for name in modules)
    return [
        ", ".join(changes) or "other",
        f"{old.perplexity:.3f} → {new.perplexity:.3f}",
        f"{figure(old.kl, '.6f')} → {figure(new.kl, '.6f')}",
        f"{rms(differences(new.sequence_losses, old.sequence_losses)):.1e}" if same_length else "n/a",
        f"{moved} of {len(modules)}" if moved else "",
    ]
