"""The smoke check: silent on this gate, loud on one that sees nothing in a step or cries wolf."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from mxcheck.gate import smoke
from mxcheck.gate.check_table import STEPS
from mxcheck.gate.smoke import broken_gate
from mxcheck.gate.verdict import Verdict


def test_this_gate_is_sound_and_it_is_asked_with_the_standard_library_only() -> None:
    code = (
        "import sys; from mxcheck.gate.smoke import broken_gate; assert not broken_gate(); "
        "print({'torch', 'numpy', 'pytest', 'transformers'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("blind", STEPS)
def test_a_gate_that_sees_nothing_in_one_step_is_told_in_one_line(
    blind: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = smoke.judge

    def judged(*words: object) -> Verdict:
        verdict = judge(*words)  # type: ignore[arg-type]
        checks = (replace(one, passed=True) if one.step == blind else one for one in verdict.checks)
        return replace(verdict, checks=tuple(checks))

    monkeypatch.setattr(smoke, "judge", judged)
    said = broken_gate()
    assert said.startswith("the gate misjudges a known record (changed: ")
    assert f"steps that must fail: {blind}, got: none; mxcheck itself is broken" in said
    assert "\n" not in said


@pytest.mark.parametrize(("factor", "seen"), [(10.0, "losses by 1e-8"), (1e-3, "")])
def test_a_wider_tolerance_is_seen(factor: float, seen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A narrower one is not: nothing that passes here moved at all."""
    monkeypatch.setattr("mxcheck.gate.drift.EXACT_TOLERANCE", factor * 1e-9)
    assert (f"(changed: {seen})" in broken_gate()) == bool(seen)


def test_a_gate_that_cries_wolf_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Verdict, "failed_steps", property(lambda _: (1, 2)))
    assert "(changed: nothing): steps that must fail: none, got: 1, 2; " in broken_gate()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            RuntimeError("two\nlines"),
            "steps that must fail: none, got: RuntimeError: two lines; mxcheck itself",
        ),
        (MemoryError(), "the gate's smoke check ran out of memory; run fewer workers (-n)"),
    ],
)
def test_what_is_raised_is_told(error: Exception, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(*_: object) -> Verdict:
        raise error

    monkeypatch.setattr(smoke, "judge", raises)
    assert said in broken_gate()
