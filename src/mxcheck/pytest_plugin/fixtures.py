"""Fixtures of the suites' tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from mxcheck.files.printed import printable
from mxcheck.gate.result import Outcome
from mxcheck.pytest_plugin.neighbours import check_snapshot, is_update
from mxcheck.pytest_plugin.run_settings import settings
from mxcheck.pytest_plugin.wire import keep_calls, keep_cell, keep_ordering, keep_result

if TYPE_CHECKING:
    from collections.abc import Generator

    from mxcheck.pytest_plugin.kernel_bench import KernelBench, NotLoadedError
    from mxcheck.pytest_plugin.session import GateSession

#: This worker's gate, once a case has requested it.
GATE = pytest.StashKey["GateSession"]()


@pytest.fixture(scope="session")
def mx_session(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Generator[GateSession, None, None]:
    """This worker's gate: the resident model and its reference."""
    from mxcheck.pytest_plugin.session import GateSession

    shared = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):
        shared = shared.parent  # xdist's workers share the parent of their folders
    gate = GateSession(request.config, settings(request.config), request.session.items, shared)
    request.config.stash[GATE] = gate
    yield gate
    gate.close()


@pytest.fixture
def mx_gate(mx_session: GateSession, request: pytest.FixtureRequest, snapshot: Any) -> Any:
    """Measure a case, compare it with its baseline (or accept it), and fail with the gate's message."""
    try:
        check_snapshot(snapshot)
    except ValueError as error:
        pytest.fail(f"mxcheck: {error}", pytrace=False)

    def hold(case: Any) -> None:
        result = mx_session.timed(case, snapshot)
        keep_result(request.node, result)
        if result.outcome is Outcome.SKIPPED:
            pytest.skip(printable(result.message))
        if result.outcome.red:
            pytest.fail(printable(result.message), pytrace=False)

    return hold


@pytest.fixture
def mx_in_order(request: pytest.FixtureRequest) -> Any:
    """Compare the accepted baselines of two precisions with the known ordering, or with its exception."""
    from mxcheck.pytest_plugin.orderings import hold

    def ordered(one: Any) -> None:
        if is_update(request.config):
            pytest.skip("this run accepts baselines: run it again without --snapshot-update for their order")
        found = hold(one, settings(request.config).baselines)
        keep_ordering(request.node, ratio=found.ratio, margin=found.margin)

    return ordered


@pytest.fixture(scope="session")
def mx_kernels(request: pytest.FixtureRequest) -> KernelBench:
    """This worker's kernels, loaded once each."""
    from mxcheck.pytest_plugin.kernel_bench import KernelBench

    return KernelBench(device=settings(request.config).device)


@pytest.fixture
def mx_usual_settings(mx_kernels: KernelBench) -> Generator[None, None, None]:
    """Restore torch's and numpy's default settings, whatever the project's conftest has set, and use one
    thread: with small tensors and many calls, waiting for a second thread on a busy machine took four times
    as long. Fails where subnormal numbers become zero."""
    from mxcheck.kernels.usual_settings import usual_settings
    from mxcheck.pytest_plugin.kernel_bench import NotLoadedError

    with usual_settings(threads=1):
        try:
            mx_kernels.check_process()
        except NotLoadedError as error:
            _refuse(error)
        yield


def _refuse(error: NotLoadedError) -> NoReturn:
    """Fail the first test that needs it; skip the worker's other tests with the same line."""
    if error.told:
        pytest.skip(printable(str(error)))
    pytest.fail(printable(str(error)), pytrace=False)


@pytest.fixture
def mx_many_calls(mx_kernels: KernelBench, request: pytest.FixtureRequest) -> Any:
    """Call a kernel thousands of times with the same numbers, and from two threads."""

    def hold(one: Any, level: str) -> None:
        from mxcheck.pytest_plugin.kernel_bench import NotLoadedError

        try:
            calls, found = mx_kernels.many_calls(one, level)
        except NotLoadedError as error:
            _refuse(error)
        except NotImplementedError as error:
            pytest.skip(printable(str(error)))
        keep_calls(request.node, calls)
        if found:
            pytest.fail(printable("\n".join(found)), pytrace=False)

    return hold


@pytest.fixture
def mx_conformance(mx_kernels: KernelBench, request: pytest.FixtureRequest) -> Any:
    """Compare a cell of a kernel with the oracle. Fails with the smallest counterexample; a known finding is
    an expected failure, and an unsupported cell is skipped with the kernel's own reason."""

    def hold(case: Any) -> None:
        row, verdict, message = mx_kernels.hold(case)
        keep_cell(request.node, row, verdict)
        if verdict in ("unsupported", "told"):
            pytest.skip(printable(message))
        if verdict == "known":
            pytest.xfail(f"known: {', '.join(row['findings'])}")
        if verdict == "red":
            pytest.fail(printable(message), pytrace=False)

    return hold


@pytest.fixture
def mx_reproduce(mx_kernels: KernelBench) -> Any:
    """Apply a finding's kernel to its counterexample, and return the current result."""

    def reproduce(finding: Any) -> dict[str, Any]:
        from mxcheck.conformance.run import reproduce
        from mxcheck.kernels.registry import implementation
        from mxcheck.pytest_plugin.kernel_bench import NotLoadedError

        try:
            kernel = mx_kernels.kernel(implementation(finding.implementation))
        except NotLoadedError as error:
            _refuse(error)
        return reproduce(kernel, finding)

    return reproduce
