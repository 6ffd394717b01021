"""The command that a red case prints accepts that case alone."""

from __future__ import annotations

import shlex
from types import SimpleNamespace
from typing import Any

import pytest

from mxcheck.gate.case import Case
from mxcheck.pytest_plugin.session import GateSession


@pytest.mark.parametrize("arguments", [("tests/models",), ("--pyargs", "mxcheck.suite.models")])
def test_the_accept_command_takes_one_case(arguments: tuple[str, ...]) -> None:
    """Without its brackets `-k` takes each case whose name contains this one: `-A+attention`, too."""
    session: Any = SimpleNamespace(_arguments=arguments)
    case = Case(model="ref-llama", precision="mxfp8_e4m3", tier="A")
    words = shlex.split(GateSession._accept_command(session, case))
    assert words[-3:] == ["-k", "[ref-llama-mxfp8_e4m3-A]", "--snapshot-update"]
