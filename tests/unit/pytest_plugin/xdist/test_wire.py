"""What a test tells reports, where it runs more than once."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from sample_record import build_record

from mxcheck.gate.result import CaseResult, Outcome
from mxcheck.pytest_plugin.xdist.wire import keep_result


def test_the_last_run_of_a_test_says_how_it_ended() -> None:
    """As with pytest-rerunfailures: a name stands once, and what only an earlier run had is gone."""
    item: Any = SimpleNamespace(stash=pytest.Stash(), user_properties=[("theirs", 1), ("theirs", 2)])
    record = build_record()
    red = CaseResult(case=record.case, outcome=Outcome.ERROR, reason="out of memory")
    for result in (red, replace(red, outcome=Outcome.PASSED, record=record, reason="")):
        keep_result(item, result)
    assert item.user_properties == [
        ("theirs", 1),
        ("theirs", 2),
        ("mx_verdict", "pass"),
        ("mx_kl", record.kl),
        ("mx_perplexity", record.perplexity),
    ]
