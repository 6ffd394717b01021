"""Every check of the gate, one row each. `causes.toml` has the texts of their causes; `cause.py` refuses a
table in which a check has none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from mxcheck.gate.record import FINGERPRINTS
from mxcheck.gate.sublayer_drift import FIGURES

STEPS = {
    1: "inputs",
    2: "reference",
    3: "conversion",
    4: "casts",
    5: "bounds",
    6: "drift",
}

#: Symptoms that several checks share.
GROUPS = ("casts", "cast weight", "over bounds", "drift", "finer drift", "layers")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRow:
    """A check.

    Attributes:
        step: its step.
        key: its name in results and in causes.toml.
        groups: symptoms that it shares with other checks.
        excusable: a line with a reason in the model's bounds.toml lets a case in that fails it.
    """

    step: int
    key: str
    groups: tuple[str, ...] = ()
    excusable: bool = False


def _rows(step: int, *keys: str, groups: tuple[str, ...] = (), excusable: bool = False) -> list[CheckRow]:
    return [CheckRow(step=step, key=key, groups=groups, excusable=excusable) for key in keys]


def registered(rows: Iterable[CheckRow]) -> Mapping[str, CheckRow]:
    """Return the rows by key. Raises ValueError for a row that cannot be one."""
    found: dict[str, CheckRow] = {}
    for row in rows:
        if row.step not in STEPS:
            raise ValueError(f"check {row.key!r} has step {row.step}; allowed: {', '.join(map(str, STEPS))}")
        if unknown := set(row.groups) - set(GROUPS):
            raise ValueError(f"check {row.key!r} is in {sorted(unknown)}; allowed: {', '.join(GROUPS)}")
        if row.key in found:
            raise ValueError(f"two checks are called {row.key!r}; give one another key")
        found[row.key] = row
    return MappingProxyType(found)


CHECKS: Mapping[str, CheckRow] = registered(
    [
        *_rows(1, "case", "corpus", *FINGERPRINTS),
        *_rows(1, "zeros", excusable=True),
        *_rows(2, "smoke check", "own samples", "estimates", "reference", "reference entropies"),
        *_rows(2, "causal", "uniform", excusable=True),
        *_rows(3, "bits", "modules", "bytes", "figures"),
        *_rows(4, "kernel", "kernel operands", "steady casts"),
        *_rows(4, "oracle", excusable=True),
        *_rows(4, "cast codes", "cast scales", groups=("casts", "cast weight")),
        *_rows(4, "cast operands", groups=("casts",)),
        *_rows(5, "no bounds"),
        *_rows(5, "KL bound", "rise bound", groups=("over bounds",)),
        *_rows(5, "reversed", "signs", excusable=True),
        *_rows(6, "losses", "KL", groups=("drift",)),
        *_rows(6, "entropy", "k3", "predictions", "top-1", "counts", groups=("finer drift",)),
        *_rows(6, *(f"layers: {name}" for name in ("places", *FIGURES)), groups=("layers", "finer drift")),
        *_rows(6, "metrics"),
    ]
)
