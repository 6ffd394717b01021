"""The cause of a red case, determined from the table of symptoms in causes.toml.

The links of the chain are environment, weights, tokenizer, tokens, reference, conversion and numerics. A
failure that none of them explains lies in the bounds or in the gate's own files.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources

from mxcheck.formats.choices import choose
from mxcheck.gate.check import differing
from mxcheck.gate.check_table import CHECKS, GROUPS
from mxcheck.gate.drift import same_arithmetic
from mxcheck.gate.record import Record
from mxcheck.gate.verdict import Verdict, rise
from mxcheck.kernels.registry import OWN

#: The links of the chain, and what lies beyond it.
LINKS = (
    "environment",
    "weights",
    "tokenizer",
    "tokens",
    "reference",
    "conversion",
    "numerics",
    "bounds",
    "gate",
)


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


def cause(verdict: Verdict, record: Record, baseline: Record | None) -> Cause:
    """Return the cause for a red verdict, or for one without a baseline, from the first matching row. Raises
    ValueError where nothing is wrong."""
    seen = symptoms(verdict, record, baseline)
    for row in ROWS:
        if row.when <= seen and not row.unless & seen:
            words = _words(record, record if baseline is None else baseline)
            return Cause(link=row.link, means=row.means.format_map(words), look=row.look.format_map(words))
    raise ValueError(f"{record.id} has no cause: no check failed, and there is a baseline; ask of red cases")


def symptoms(verdict: Verdict, record: Record, baseline: Record | None) -> frozenset[str]:
    """Return the keys of the failed checks, their groups, and the facts that hold."""
    failed = {check.key for check in verdict.failures}
    found = failed | {group for key in failed for group in CHECKS[key].groups}
    found |= {name for name, holds in _FACTS.items() if holds(record)}
    if baseline is None:
        return frozenset(found | {NO_BASELINE})
    found |= {name for name, holds in _CHANGES.items() if holds(record, baseline)}
    # Accepted figures that are no better break the same bound.
    if ("KL bound" not in failed or _no_better(record, baseline)) and (
        "rise bound" not in failed or rise(baseline)[2] >= rise(record)[2]
    ):
        found.add(ACCEPTED_TOO)
    return frozenset(found)


def _no_better(record: Record, baseline: Record) -> bool:
    return record.kl is not None and baseline.kl is not None and baseline.kl >= record.kl


def _library(record: Record) -> str | None:
    """Return the package that casts and multiplies, or None if it is mxcheck."""
    library = record.recipe.get("library")
    return None if library is None else str(library["name"])


def _roles_of_changed_casts(record: Record, baseline: Record) -> dict[str, tuple[int, int]]:
    """Return by role the number of modules with changed casts, and the number of modules."""
    now, then = record.digests, baseline.digests
    role = {name: record.replaced.get(name, name) for name in now.keys() | then.keys()}
    total = Counter(role.values())
    changed = Counter(role[name] for name in differing(now, then))
    return {name: (count, total[name]) for name, count in changed.items()}


def _versions(record: Record, baseline: Record) -> dict[str, str]:
    """Return libraries whose version differs from the accepted one: `torch` -> `torch 2.14.0, accepted with
    2.13.0`."""
    libraries = {"python", "torch", "transformers", _library(record)} - {None}
    return {
        name: f"{name} {text}"
        for name, text in environment_changes(record, baseline).items()
        if name in libraries
    }


def environment_changes(record: Record, baseline: Record) -> dict[str, str]:
    """Return `now, accepted with then` for each entry of the environment that differs; not for our kernels,
    which give the same bits."""
    found = differing(record.environment, baseline.environment)
    if _kernel(record) == _kernel(baseline):
        found.pop("kernel", None)
    return {name: f"{now}, accepted with {then}" for name, (now, then) in found.items()}


def _words(record: Record, baseline: Record) -> dict[str, str]:
    """Return the values for the placeholders in the table's texts."""
    versions = _versions(record, baseline)
    others = [
        f"{name} {text}"
        for name, text in environment_changes(record, baseline).items()
        if name not in versions
    ]
    return {
        "versions": "; ".join(versions.values()) or "libraries as accepted",
        "settings": "; ".join(others) or "nothing that the record names differs",
        "bytes": f"{record.original_bytes:,}",
        "accepted bytes": f"{baseline.original_bytes:,}",
        "kernel": record.environment.get("kernel", "unset"),
        "accepted kernel": baseline.environment.get("kernel", "unset"),
        "roles": ", ".join(sorted(_roles_of_changed_casts(record, baseline))),
    }


def _kernel(record: Record) -> str | None:
    """Return the kernel's name; ours have one, as all give the same bits."""
    name = record.environment.get("kernel")
    return OWN[0] if name in OWN else name


NO_BASELINE, ACCEPTED_TOO = "no baseline", "accepted too"
_FACTS: Mapping[str, Callable[[Record], bool]] = {
    "changes bits": lambda record: record.changes_bits is True,
    "library": lambda record: _library(record) is not None,
    "whole model": lambda record: not record.replaced,
    "named kernel": lambda record: record.asked_kernel is not None,
}
#: What differs from the accepted record.
_CHANGES: Mapping[str, Callable[[Record, Record], bool]] = {
    "another id": lambda now, then: now.id != then.id,
    "other size": lambda now, then: now.original_bytes != then.original_bytes,
    "other count": lambda now, then: (
        len(now.reference_losses) != len(then.reference_losses)
        or len(now.sequence_losses) != len(then.sequence_losses)
    ),
    "other versions": lambda now, then: bool(_versions(now, then)),
    "other transformers": lambda now, then: "transformers" in _versions(now, then),
    "other library": lambda now, then: _library(now) in _versions(now, then),
    "other kernel": lambda now, then: _kernel(now) != _kernel(then),
    "other products": lambda now, then: now.arithmetic != then.arithmetic,
    "reference exact": lambda now, then: now.reference_losses == then.reference_losses,
    "elsewhere": lambda now, then: not same_arithmetic(now, then),
    "whole roles": lambda now, then: all(
        changed == total for changed, total in _roles_of_changed_casts(now, then).values()
    ),
}
_SYMPTOMS = frozenset({*CHECKS, *GROUPS, *_FACTS, *_CHANGES, NO_BASELINE, ACCEPTED_TOO})


def read_rows(text: str) -> tuple[Row, ...]:
    """Parse the rows of causes.toml, in order.

    Raises:
        ValueError: a row with an unknown link or symptom; a check whose failure alone matches no row.
    """
    rows = tuple(
        Row(
            link=row["link"],
            when=frozenset(row["when"]),
            unless=frozenset(row.get("unless", ())),
            means=row["means"],
            look=row["look"],
        )
        for row in tomllib.loads(text)["row"]
    )
    for row in rows:
        choose("link of causes.toml", row.link, LINKS)
        for name in sorted(row.when | row.unless):
            choose("symptom of causes.toml", name, _SYMPTOMS)
    for key, one in CHECKS.items():
        if not any(row.when <= {key, *one.groups} and not row.unless for row in rows):
            raise ValueError(
                f"causes.toml has no row for the check {key!r} of step {one.step}; add a [[row]] with "
                f'link, when = ["{key}"], means and look'
            )
    return rows


#: The table, read at import: a check without a cause stops every run, not the message of a red case.
ROWS = read_rows(resources.files("mxcheck.gate").joinpath("causes.toml").read_text(encoding="utf-8"))
