"""One assertion of the gate, and wording that its messages share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mxcheck.gate.check_table import CHECKS
from mxcheck.gate.drift import Drift


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One assertion of one step: whether it held, and the figures. `key` names its row of `CHECKS`."""

    step: int
    key: str
    passed: bool
    message: str


def check(key: str, passed: bool, message: str) -> Check:
    """Return the result of a check of `CHECKS`."""
    return Check(step=CHECKS[key].step, key=key, passed=passed, message=message)


def drift_check(key: str, what: str, found: Drift) -> Check:
    """Check that a drift is within its bounds."""
    return check(
        key,
        found.within,
        f"{what} moved by sequence: median {found.median:.2e} (bound {found.median_bound:.2e}), "
        f"rms {found.rms:.2e} (bound {found.rms_bound:.2e}), "
        f"max {found.max:.2e} (bound {found.max_bound:.2e})",
    )


def count_check(key: str, now: Sequence[float], then: Sequence[float]) -> Check:
    """Return the failed check for sequences that cannot be paired."""
    return check(key, False, f"{len(now)} sequences, accepted {len(then)}")


def changes(now: Mapping[str, Any], then: Mapping[str, Any]) -> list[str]:
    """Return `key is a, accepted b` for each key whose values differ."""
    return [f"{key} is {a}, accepted {b}" for key, (a, b) in differing(now, then).items()]


def differing(now: Mapping[str, Any], then: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return both values of each key whose values differ, in the order of the keys; `unset` where a key is
    missing."""
    keys = sorted(now.keys() | then.keys())
    pairs = {key: (now.get(key, "unset"), then.get(key, "unset")) for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def some(names: Sequence[str], most: int = 3) -> str:
    """Return the first names, and the number of the others."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
