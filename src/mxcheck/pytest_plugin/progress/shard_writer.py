"""Write a shard's file for `mxcheck merge`, in the controller, beside the report."""

from __future__ import annotations

from collections.abc import Generator
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mxcheck.distributed.provenance import basis
from mxcheck.files.printed import printable
from mxcheck.files.write import WriteError, write_text
from mxcheck.pytest_plugin.options.neighbours import is_update
from mxcheck.pytest_plugin.options.selection import collected, narrowing
from mxcheck.pytest_plugin.progress.run_report import RunReport
from mxcheck.pytest_plugin.xdist.placement_plan import parameter_of
from mxcheck.run.settings import Settings
from mxcheck.scheduling.split_models import Shard

if TYPE_CHECKING:
    from mxcheck.distributed.shard_file import Basis

#: Not for a collection that found nothing, as with `-k`: that one has ended.
_NO_COLLECTION = "no collection has ended, so nothing ran: look at the log for what ended the workers"


class ShardReport:
    """Collect failures besides the report's rows, and write the shard's file when the run ends."""

    def __init__(self, config: pytest.Config, run: Settings, shard: Shard, report: RunReport) -> None:
        from mxcheck.distributed.shard_file import file_name

        assert run.report is not None  # settings refuse a shard without it
        self._config = config
        self._run = run
        self._shard = shard
        self._report = report
        self._path = run.report / file_name(shard.index, shard.count)
        self._basis: Basis | None = None
        self._selected: list[str] | None = None  # until a collection has ended, if ever
        self._failed: dict[str, str] = {}

    def pytest_sessionstart(self) -> None:
        try:
            self._path.unlink(missing_ok=True)  # of an earlier run: it must not stand for this one
        except OSError as error:
            raise pytest.UsageError(f"mxcheck: {WriteError(self._path, error)}") from error
        try:
            self._basis = basis(
                self._config.rootpath,
                self._run.baselines,
                selection=narrowing(self._config),
                arguments=collected(self._config),
                options=_deciding(self._run, updates=is_update(self._config)),
            )
        except ValueError as error:
            raise pytest.UsageError(f"mxcheck: {error}") from error

    # First, since the report may end the run where this host cannot hold it.
    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._selected = [item.nodeid for item in session.items]

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        self._selected = ids

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note(report)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._note(report)

    def _note(self, report: pytest.CollectReport | pytest.TestReport) -> None:
        if report.failed:
            words = [self._failed.get(report.nodeid, ""), report.longreprtext.strip()]
            self._failed[report.nodeid] = "\n".join(dict.fromkeys(filter(None, words)))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, Any, Any]:
        """Runs last: the report may add rows until then, and other plugins may change the exit status."""
        result = yield
        self._write(session)
        return result

    def _write(self, session: pytest.Session) -> None:
        from mxcheck.distributed.shard_file import ShardRun, encode

        assert self._basis is not None
        results = self._report.results
        selected = self._selected or []
        known = {case.id for case in self._run.cases}
        names = {node_id: parameter_of(node_id) for node_id in (*selected, *self._failed)}
        cases = {node_id: name for node_id, name in names.items() if name is not None and name in known}
        red = {name for name, result in results.items() if result.outcome.red}
        text = encode(
            ShardRun(
                index=self._shard.index,
                count=self._shard.count,
                basis=self._basis,
                cases=self._run.whole,
                part=tuple(case.id for case in self._run.cases),
                selected=tuple(dict.fromkeys(cases[name] for name in selected if name in cases)),
                results=tuple(results[case.id] for case in self._run.cases if case.id in results),
                messages={
                    cases[name]: words for name, words in self._failed.items() if cases.get(name) in red
                },
                failures={
                    **({"collection": _NO_COLLECTION} if self._selected is None else {}),
                    **{name: words for name, words in self._failed.items() if name not in cases},
                },
                exit_status=int(session.exitstatus),
            )
        )
        try:
            write_text(self._path, text)
            written = f"shard {self._shard} written to {self._path}"
            words = f"{written}; join all with: mxcheck merge DIR, the folder that all of them lie below"
        except WriteError as error:
            session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED
            words = f"red: {error}"
        reporter: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line(printable(f"mxcheck: {words}"))


def _deciding(run: Settings, *, updates: bool) -> str:
    """Return the options that affect a verdict and are no part of a case's name."""
    bounds = sha256(Path(run.bounds).read_bytes()).hexdigest()[:16] if run.bounds else "ours"
    words = {
        "kernel": run.kernel,
        "device": run.device,
        "metrics": ", ".join(run.metrics) or "none",
        "bounds": bounds,
        "baselines": "accepted anew" if updates else "as accepted",
    }
    return "; ".join(f"{name} {value}" for name, value in words.items())
