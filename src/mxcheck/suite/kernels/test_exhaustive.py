"""mxcheck's kernel on every fp32 number: with `--mx-level=exhaustive`, minutes for each format.

Finished parts are kept in pytest's cache, so that a stopped run resumes. torch is imported inside the test,
so that collecting this file costs nothing.
"""

from __future__ import annotations

import os

import pytest

pytestmark = pytest.mark.usefixtures("mx_usual_settings")


def test_exhaustive(
    mx_exhaustive: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    """Check every bit pattern through each element cast and each scale rule of one format."""
    from mxcheck.conformance.exhaustive import run
    from mxcheck.conformance.sweeps import sweeps
    from mxcheck.kernels.device_choice import resolve_device
    from mxcheck.reporting.exhaustive import describe, progress_bar
    from mxcheck.reporting.screen import Screen

    config = request.config
    device = resolve_device(config.getoption("mx_device") or config.getini("mx_device") or "auto")
    # Without pytest's cache (-p no:cacheprovider) nothing is kept.
    kept = config.cache.mkdir("mxcheck-exhaustive") if hasattr(config, "cache") else None
    state = None if kept is None else kept / f"{mx_exhaustive}.json"
    with capsys.disabled():
        # xdist's workers share one terminal: no bars there.
        quiet = "PYTEST_XDIST_WORKER" in os.environ or not Screen(stderr=True).is_terminal
        if quiet:
            results = run(sweeps([mx_exhaustive]), device=device, state_path=state)
        else:
            with progress_bar(Screen(stderr=True)) as progress:
                results = run(sweeps([mx_exhaustive]), device=device, state_path=state, progress=progress)
    lines = [line for one in results for line in describe(one)]
    if lines:
        pytest.fail("\n".join(lines), pytrace=False)
