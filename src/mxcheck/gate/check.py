"""One assertion of the gate, and wording that its messages share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mxcheck.gate.drift import Drift


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One assertion of one step: the question, whether it held, and the figures. `key` names the assertion,
    so that gate/cause.py can distinguish the checks of one step."""

    step: int
    key: str
    passed: bool
    message: str


def check(step: int, key: str, passed: bool, message: str) -> Check:
    return Check(step=step, key=key, passed=passed, message=message)


def drift_check(step: int, key: str, what: str, found: Drift) -> Check:
    """Check that a drift is within its bounds."""
    return check(
        step,
        key,
        found.within,
        f"{what} moved by sequence: median {found.median:.2e} (bound {found.median_bound:.2e}), "
        f"rms {found.rms:.2e} (bound {found.rms_bound:.2e}), "
        f"max {found.max:.2e} (bound {found.max_bound:.2e})",
    )


def count_check(step: int, key: str, now: Sequence[float], then: Sequence[float]) -> Check:
    """Return the failed check for sequences that cannot be paired."""
    return check(step, key, False, f"{len(now)} sequences, accepted {len(then)}")


def changes(now: Mapping[str, Any], then: Mapping[str, Any]) -> list[str]:
    """Return `key is a, accepted b` for each key whose values differ."""
    keys = sorted(now.keys() | then.keys())
    pairs = {key: (now.get(key, "unset"), then.get(key, "unset")) for key in keys}
    return [f"{key} is {a}, accepted {b}" for key, (a, b) in pairs.items() if a != b]


def some(names: Sequence[str], most: int = 3) -> str:
    """Return the first names, and the number of the others."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
