"""Step 1: check that a record and its baseline are of the same case and the same inputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mxcheck.gate.check import Check, changes, check
from mxcheck.gate.record import Record

#: Fields that identify a case. A record of another case under this name was stored or copied by mistake.
_IDENTITY = ("kind", "subject", "model", "precision", "tier", "options")


def comparable(record: Record, baseline: Record) -> Check:
    """Check that two records are of the same case and recipe."""
    now, then = ({key: getattr(one, key) for key in _IDENTITY} for one in (record, baseline))
    another = {
        "case": changes(now, then),
        "recipe": changes(_leaves(record.recipe), _leaves(baseline.recipe)),
    }
    parts = [f"another {title}: {'; '.join(parts)}" for title, parts in another.items() if parts]
    return check("case", not parts, "; ".join(parts) or "same case, same recipe")


def _leaves(data: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Flatten a nested table by path: `roles.mlp.weights.block_size`."""
    leaves: dict[str, Any] = {}
    for key, value in data.items():
        leaves |= _leaves(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}": value}
    return leaves


#: Facts about the origin of a corpus, not its content, which the fingerprints cover.
_INCIDENTAL = ("asked", "because", "revision")


def same_corpus(record: Record, baseline: Record) -> Check:
    now, then = (
        {key: value for key, value in one.corpus.items() if key not in _INCIDENTAL}
        for one in (record, baseline)
    )
    parts = changes(now, then)
    if record.scored_tokens != baseline.scored_tokens:
        parts.append(f"{record.scored_tokens} scored tokens, accepted {baseline.scored_tokens}")
    return check("corpus", not parts, f"another corpus: {'; '.join(parts)}" if parts else "same corpus")


def fingerprints(record: Record, baseline: Record) -> Iterator[Check]:
    names = record.fingerprints.keys() | baseline.fingerprints.keys()
    for name in sorted(names, key=lambda name: (name == "states", name)):  # other weights have other states
        now, then = record.fingerprints.get(name, "none"), baseline.fingerprints.get(name, "none")
        yield check(
            name,
            now == then,
            f"{name} are not the accepted ones: {now[:16]}…, accepted {then[:16]}…"
            if now != then
            else f"{name} are the accepted ones",
        )
