"""`mxcheck run --ray`, as far as it goes without a cluster."""

from __future__ import annotations

import pytest

from mxcheck.cli import main
from mxcheck.distributed import collect_plan


def test_ctrl_c_while_the_run_is_planned(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_ENABLE_UV_RUN_RUNTIME_ENV", "RAY_task_oom_retries"):
        monkeypatch.setenv(name, "0")  # the command sets them
    monkeypatch.setattr(collect_plan, "plan_run", interrupted)
    assert main(["run", "--ray", "local"]) == 130
    assert capsys.readouterr().err == "mxcheck: stopped\n"
