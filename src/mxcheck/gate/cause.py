"""The cause of a red case, determined from the table of symptoms in causes.toml.

The links of the chain are environment, weights, tokenizer, tokens, reference, conversion and numerics. A
failure that none of them explains lies in the bounds or in the gate's own files.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from dataclasses import dataclass
from functools import cache
from importlib import resources

from mxcheck.gate.drift import same_arithmetic
from mxcheck.gate.record import Record
from mxcheck.gate.verdict import Verdict, rise


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of the table. It matches where all symptoms of `when` and none of `unless` are present. `cause`
    fills in `{…}` in the texts."""

    link: str
    when: frozenset[str]
    unless: frozenset[str]
    means: str
    look: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """The broken link, one sentence that gives the evidence, and what to inspect first."""

    link: str
    means: str
    look: str


@cache
def table() -> tuple[Row, ...]:
    """Return the rows of causes.toml, in order."""
    text = resources.files("mxcheck.gate").joinpath("causes.toml").read_text(encoding="utf-8")
    return tuple(
        Row(
            link=row["link"],
            when=frozenset(row["when"]),
            unless=frozenset(row.get("unless", ())),
            means=row["means"],
            look=row["look"],
        )
        for row in tomllib.loads(text)["row"]
    )


def cause(verdict: Verdict, record: Record, baseline: Record | None) -> Cause:
    """Return the cause for a red verdict, or for one without a baseline, from the first matching row. Raises
    ValueError where nothing is wrong."""
    seen = symptoms(verdict, record, baseline)
    for row in table():
        if row.when <= seen and not row.unless & seen:
            words = _words(record, record if baseline is None else baseline)
            return Cause(link=row.link, means=row.means.format_map(words), look=row.look.format_map(words))
    raise ValueError(f"{record.id} has no cause: no check failed, and there is a baseline; ask of red cases")


def symptoms(verdict: Verdict, record: Record, baseline: Record | None) -> frozenset[str]:
    """Return the keys of the failed checks, and other symptoms."""
    failed = {check.key for check in verdict.failures}
    layers = any(key.startswith("layers: ") for key in failed)
    facts = {
        "cast weight": bool(failed & {"cast codes", "cast scales"}),
        "casts": bool(failed & {"cast codes", "cast scales", "cast operands"}),
        "drift": bool(failed & {"losses", "KL"}),
        "layers": layers,
        "finer drift": layers or bool(failed & {"entropy", "top-1", "k3", "predictions", "counts"}),
        "over bounds": bool(failed & {"KL bound", "rise bound"}),
        "changes bits": record.changes_bits is True,
        "library": _library(record) is not None,
        "whole model": not record.replaced,
        "no baseline": baseline is None,
        "named kernel": record.asked_kernel is not None,
    }
    if baseline is not None:
        facts |= _compared(record, baseline)
        # Accepted figures that are no better break the same bound.
        facts["accepted too"] = ("KL bound" not in failed or _no_better(record, baseline)) and (
            "rise bound" not in failed or rise(baseline)[2] >= rise(record)[2]
        )
    return frozenset(failed | {name for name, holds in facts.items() if holds})


def _no_better(record: Record, baseline: Record) -> bool:
    return record.kl is not None and baseline.kl is not None and baseline.kl >= record.kl


def _compared(record: Record, baseline: Record) -> dict[str, bool]:
    versions, library = _versions(record, baseline), _library(record)
    roles = _roles_of_changed_casts(record, baseline)
    return {
        "another id": record.id != baseline.id,
        "other size": record.original_bytes != baseline.original_bytes,
        "other count": len(record.reference_losses) != len(baseline.reference_losses)
        or len(record.sequence_losses) != len(baseline.sequence_losses),
        "other versions": bool(versions),
        "other transformers": "transformers" in versions,
        "other library": library in versions,
        "other kernel": record.environment.get("kernel") != baseline.environment.get("kernel"),
        "other products": record.arithmetic != baseline.arithmetic,
        "reference exact": record.reference_losses == baseline.reference_losses,
        "elsewhere": not same_arithmetic(record, baseline),
        "whole roles": all(changed == total for changed, total in roles.values()),
    }


def _library(record: Record) -> str | None:
    """Return the package that casts and multiplies, or None if it is mxcheck."""
    library = record.recipe.get("library")
    return None if library is None else str(library["name"])


def _roles_of_changed_casts(record: Record, baseline: Record) -> dict[str, tuple[int, int]]:
    """Return by role the number of modules with changed casts, and the number of modules."""
    now, then = record.digests, baseline.digests
    role = {name: record.replaced.get(name, name) for name in now.keys() | then.keys()}
    total = Counter(role.values())
    changed = Counter(role[name] for name in role if now.get(name) != then.get(name))
    return {name: (count, total[name]) for name, count in changed.items()}


def _versions(record: Record, baseline: Record) -> dict[str, str]:
    """Return libraries whose version differs from the accepted one: `torch` -> `torch 2.14.0, accepted with
    2.13.0`."""
    libraries = {"python", "torch", "transformers", _library(record)} - {None}
    return {name: text for name, text in _environment(record, baseline).items() if name in libraries}


def _environment(record: Record, baseline: Record) -> dict[str, str]:
    now, then = record.environment, baseline.environment
    return {
        name: f"{name} {now.get(name, 'unset')}, accepted with {then.get(name, 'unset')}"
        for name in sorted(now.keys() | then.keys())
        if now.get(name) != then.get(name)
    }


def _words(record: Record, baseline: Record) -> dict[str, str]:
    """Return the values for the placeholders in the table's texts."""
    versions = _versions(record, baseline)
    others = [text for name, text in _environment(record, baseline).items() if name not in versions]
    return {
        "versions": "; ".join(versions.values()) or "libraries as accepted",
        "settings": "; ".join(others) or "nothing that the record names differs",
        "bytes": f"{record.original_bytes:,}",
        "accepted bytes": f"{baseline.original_bytes:,}",
        "kernel": record.environment.get("kernel", "unset"),
        "accepted kernel": baseline.environment.get("kernel", "unset"),
        "roles": ", ".join(sorted(_roles_of_changed_casts(record, baseline))),
    }
