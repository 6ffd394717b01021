"""A conftest whose gate passes every case: for tests of what is around a case, not of its figures."""

from __future__ import annotations

from pathlib import Path

#: A case calls `deadly.die` if the project has a module `deadly`.
PASSING = f"""
import importlib.util, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import pytest
from mxcheck.gate.result import CaseResult, Outcome
from mxcheck.pytest_plugin.xdist.wire import keep_result
from sample_record import build_record

@pytest.fixture
def mx_gate(request):
    def run(case):
        if importlib.util.find_spec("deadly"):
            import deadly
            deadly.die("call")
        named = {{name: getattr(case, name) for name in ("model", "precision", "tier")}}
        record = build_record(**named, options=list(case.options))
        keep_result(request.node, CaseResult(case=case, outcome=Outcome.PASSED, record=record))
    return run
"""


def verdicts(output: str) -> list[str]:
    """The last words of the table's rows, in order."""
    rows = [line.split() for line in output.splitlines() if line.startswith((" ref-llama ", " ref-neo "))]
    return [row[-1] for row in rows]
