"""What a run of the product suites left behind: tests counted, the matrix of casts, the rows of the gate.

The one place that reads their files.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from gpu.branches import REPOSITORY

_BASELINES = REPOSITORY / "baselines"
#: The word for how a case ended, by the name that its row gives it.
_OUTCOMES = ("outcome", "verdict")
_MOST_FAILURES = 40
_QUANTITIES = ("reference", "loss", "kl")


def pytest_command(words: list[str], folder: Path, device: str) -> list[str]:
    """pytest on a machine whose other plugins are unknown: only ours are loaded, and a warning, which another
    version of anything may give, is shown and not an error."""
    plugins = ("xdist", "syrupy", "mxcheck.pytest_plugin.plugin", "gpu.seen_lines")
    return [
        *(sys.executable, "-m", "pytest", *words),
        *(word for name in plugins for word in ("-p", name)),
        *("--mx-device", device, "--mx-report", str(folder), f"--junitxml={folder / 'junit.xml'}"),
        *("--mx-leases", str(folder / "leases"), "-p", "no:cacheprovider"),
        *("-W", "default", "-q", "-rfE", "--tb=short", "--no-header"),
    ]


def read(folder: Path) -> dict[str, Any]:
    """Everything that is there: a run that was stopped leaves some of it."""
    found: dict[str, Any] = {}
    if (path := folder / "junit.xml").is_file():
        found["tests"] = _tests(path)
    if (path := folder / "conformance.json").is_file():
        found["conformance"] = _conformance(json.loads(path.read_text(encoding="utf-8")))
    if (path := folder / "accuracy.json").is_file():
        found["cases"] = [_case(row) for row in json.loads(path.read_text(encoding="utf-8"))]
    return found


def _tests(path: Path) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    failures = []
    for test in ElementTree.parse(path).iter("testcase"):  # noqa: S314  (pytest wrote it here a moment ago)
        bad = next((one for one in test if one.tag in ("failure", "error")), None)
        word = "failed" if bad is not None else "skipped" if test.find("skipped") is not None else "passed"
        counts[word] += 1
        if bad is not None:
            lines = (bad.get("message") or bad.text or "").strip().splitlines()
            failures.append({"test": test.get("name", "?"), "message": "\n".join(lines[:4])[:600]})
    return {**counts, "failures": failures[:_MOST_FAILURES]}


def _conformance(matrix: Any) -> dict[str, int]:
    rows = matrix["rows"] if isinstance(matrix, dict) else matrix
    return dict(Counter(str(row["verdict"]) for row in rows))


def _case(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the gate in short: how it ended, its figures, and its drift as shares of what is allowed."""
    record = row.get("record")
    found = {
        "id": row["id"],
        "outcome": str(next((row[name] for name in _OUTCOMES if name in row), "no outcome")),
        "reason": row.get("reason"),
        "seconds": row.get("seconds"),
    }
    return found if record is None else found | _figures(record)


def _figures(record: dict[str, Any]) -> dict[str, Any]:
    return {
        "kl": record["kl"],
        "reference_cross_entropy": record["reference_cross_entropy"],
        "digests": len(record.get("digests", {})),
        **_against_the_baseline(record),
    }


def _against_the_baseline(record: dict[str, Any]) -> dict[str, Any]:
    """Shares of the drift that is allowed, and the checks that failed, as the gate itself has them."""
    from mxcheck.gate.baseline import BaselineError, read
    from mxcheck.gate.drift import drift
    from mxcheck.gate.record import record_from_dict

    tier = "" if record["tier"] is None else f"-{record['tier']}"
    path = _BASELINES / record["model"] / f"{record['precision']}{tier}.json"
    try:
        now, then = record_from_dict(record), read(path)
    except (BaselineError, ValueError) as error:
        return {"not_compared": str(error)}
    changed = [name for name in then.digests if now.digests.get(name) != then.digests[name]]
    return {
        "drift_shares": {name: drift(now, then, name).share for name in _QUANTITIES},
        "kl_accepted": then.kl,
        "digests_changed": len(changed),
    }


def worst_shares(cases: list[dict[str, Any]]) -> dict[str, tuple[float, str]]:
    """By quantity, the largest share of its allowed drift, and whose it is."""
    found = {}
    for name in _QUANTITIES:
        shares = [(case["drift_shares"][name], case["id"]) for case in cases if "drift_shares" in case]
        if shares:
            found[name] = max(shares)
    return found
