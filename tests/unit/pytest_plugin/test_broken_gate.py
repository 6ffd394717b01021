"""A gate with a fault of its own judges no case."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from mxcheck.gate.result import CaseResult, Outcome
from mxcheck.pytest_plugin.session import GateSession
from mxcheck.pytest_plugin.settings import Settings
from validation.faults.fault import Fault, Setting, applied

Lay = Callable[..., Settings]

#: A tolerance ten times too wide.
FAULT = Fault(
    name="tenfold",
    group="gate",
    what="a drift of 1e-8 is taken for none",
    source="this test",
    changes=(Setting(target="mxcheck.gate.drift:EXACT_TOLERANCE", value=lambda value: value * 10),),
)


def test_every_case_is_red_in_one_line(
    lay: Lay, configure: Callable[..., pytest.Config], snapshot: SnapshotAssertion, tmp_path: Path
) -> None:
    settings = lay("--mx-precision", "mxfp8_e4m3", "--mx-tier", "A,B")
    with applied(FAULT):
        session = GateSession(configure(), settings, [], tmp_path)
    assert len(settings.cases) == 2
    for case in settings.cases:
        result = session.hold(case, snapshot)
        message = result.message
        reason = message.removeprefix(f"{case.id}: ")
        assert result == CaseResult(case=case, outcome=Outcome.ERROR, reason=reason, message=message)
        assert message.startswith(f"{case.id}: the gate misjudges a known record (changed: losses by 1e-8): ")
        assert "steps that must fail: 6, got: none" in message
        assert "mxcheck itself is broken" in message
        assert "\n" not in message
    assert list(tmp_path.glob("mxcheck-*")) == []  # nothing was measured


def test_a_sound_gate_goes_on_to_the_case(
    lay: Lay, configure: Callable[..., pytest.Config], snapshot: SnapshotAssertion, tmp_path: Path
) -> None:
    settings = lay("--mx-precision", "mxfp8_e4m3", "--mx-tier", "A", "--mx-sequence-length", "999")
    session = GateSession(configure(), settings, [], tmp_path)
    (case,) = settings.cases
    message = session.hold(case, snapshot).message
    assert "known record" not in message
    assert "--mx-sequence-length=999" in message
