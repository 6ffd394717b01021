"""Step 1: whether a record and its baseline are of the same case, on the same inputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mxcheck.gate.check import Check, changes, check
from mxcheck.gate.record import Record

#: What names a case. A record of another one under this name was stored, or copied, where it does not belong.
_IDENTITY = ("kind", "subject", "model", "precision", "tier", "options")


def comparable(record: Record, baseline: Record) -> Check:
    """Records of different cases, or of different recipes, are not comparable."""
    now, then = ({key: getattr(one, key) for key in _IDENTITY} for one in (record, baseline))
    another = {
        "case": changes(now, then),
        "recipe": changes(_leaves(record.recipe), _leaves(baseline.recipe)),
    }
    parts = [f"another {title}: {'; '.join(parts)}" for title, parts in another.items() if parts]
    return check(1, "case", not parts, "; ".join(parts) or "same case, same recipe")


def _leaves(data: dict[str, Any], path: str = "") -> dict[str, Any]:
    """A nested table as one, by path: `roles.mlp.weights.block_size`."""
    leaves: dict[str, Any] = {}
    for key, value in data.items():
        leaves |= _leaves(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}": value}
    return leaves


#: Facts of a corpus that say how it was come by, not what was read: the fingerprints hold that.
_INCIDENTAL = ("asked", "because", "revision")


def same_corpus(record: Record, baseline: Record) -> Check:
    keys = sorted((record.corpus.keys() | baseline.corpus.keys()) - set(_INCIDENTAL))
    moved = [key for key in keys if record.corpus.get(key) != baseline.corpus.get(key)]
    parts = [f"{key} is {record.corpus.get(key)}, accepted {baseline.corpus.get(key)}" for key in moved]
    if record.scored_tokens != baseline.scored_tokens:
        parts.append(f"{record.scored_tokens} scored tokens, accepted {baseline.scored_tokens}")
    return check(1, "corpus", not parts, f"another corpus: {'; '.join(parts)}" if parts else "same corpus")


def fingerprints(record: Record, baseline: Record) -> Iterator[Check]:
    names = record.fingerprints.keys() | baseline.fingerprints.keys()
    for name in sorted(names, key=lambda name: (name == "states", name)):  # other weights have other states
        now, then = record.fingerprints.get(name, "none"), baseline.fingerprints.get(name, "none")
        yield check(
            1,
            name,
            now == then,
            f"{name} are not the accepted ones: {now[:16]}…, accepted {then[:16]}…"
            if now != then
            else f"{name} are the accepted ones",
        )
