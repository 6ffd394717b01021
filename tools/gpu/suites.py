"""What a run of the product suites left behind: tests counted, the matrix of casts, the rows of the gate.

The one place that reads their files.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from gpu.branches import REPOSITORY

_BASELINES = REPOSITORY / "baselines"
_MOST_FAILURES = 40
#: What `gpu.test_log` writes, and the variable that names it.
LOG, LOG_VARIABLE = "tests.jsonl", "MXCHECK_GPU_TESTS"
_QUANTITIES = ("reference", "loss", "kl")


def pytest_command(words: list[str], folder: Path, device: str) -> list[str]:
    """pytest on a machine whose other plugins are unknown: only ours are loaded, and a warning, which another
    version of anything may give, is shown and not an error."""
    plugins = ("xdist", "syrupy", "mxcheck.pytest_plugin.plugin", "gpu.seen_lines", "gpu.test_log")
    return [
        *(sys.executable, "-m", "pytest", *words),
        *(word for name in plugins for word in ("-p", name)),
        *(f"--mx-device={device}", f"--mx-report={folder}", f"--mx-leases={folder / 'leases'}"),
        *("-p", "no:cacheprovider"),
        *("-W", "default", "-q", "-rfE", "--tb=short", "--no-header"),
    ]


def read(folder: Path) -> dict[str, Any]:
    """Everything that is there: a run that was stopped leaves some of it."""
    log = folder / LOG
    tests = [json.loads(line) for line in log.read_text("utf-8").splitlines()] if log.is_file() else []
    found: dict[str, Any] = {"tests": _tests(tests)}
    if cells := [test["cell"] for test in tests if test["cell"] is not None]:
        found["conformance"] = dict(Counter(str(cell["verdict"]) for cell in cells))
    report = folder / "accuracy.json"  # written when the run ends; the log has its rows before
    rows = json.loads(report.read_text("utf-8")) if report.is_file() else [test["case"] for test in tests]
    if cases := [_case(row) for row in rows if row is not None]:
        found["cases"] = cases
    return found


def _tests(tests: list[dict[str, Any]]) -> dict[str, Any]:
    failures = [
        {"test": test["test"], "message": test["message"]} for test in tests if test["outcome"] == "failed"
    ]
    return {**Counter(test["outcome"] for test in tests), "failures": failures[:_MOST_FAILURES]}


def _case(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the gate in short: how it ended, its figures, and its drift as shares of what is allowed."""
    record = row.get("record")
    found = {
        "id": row["id"],
        "outcome": row["outcome"],
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

    try:
        now = record_from_dict(record)
        then = read(_BASELINES / now.case.baseline)
        shares = {name: drift(now, then, name).share for name in _QUANTITIES}
    except (BaselineError, FileNotFoundError, ValueError) as error:
        return {"not_compared": str(error)}
    changed = [name for name in then.digests if now.digests.get(name) != then.digests[name]]
    return {
        "drift_shares": shares,
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
