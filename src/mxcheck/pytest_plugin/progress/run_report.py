"""Header and table, in the controller; workers send results with their reports."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import pytest

from mxcheck.files.printed import one_line, printable, some_of
from mxcheck.files.write import WriteError, write_text
from mxcheck.gate.bounds_tables import load_bounds
from mxcheck.gate.case import Case
from mxcheck.gate.kernel_cells import NOT_COMPARED
from mxcheck.gate.result import CaseResult, Outcome, result_from_dict
from mxcheck.gate.shipped import taken_from_ours
from mxcheck.kernels.compiled import library
from mxcheck.kernels.registry import OWN
from mxcheck.models.zoo.cards import GIB
from mxcheck.models.zoo.known_models import known_labels
from mxcheck.pytest_plugin.options.read_settings import settings
from mxcheck.pytest_plugin.progress.live import PLUGIN
from mxcheck.pytest_plugin.xdist.placement_plan import (
    check_host,
    expected_of,
    parameter_of,
    remember,
    selected_cases,
)
from mxcheck.pytest_plugin.xdist.wire import sent_cell, sent_result
from mxcheck.run.cost import estimated
from mxcheck.run.settings import Settings


class RunReport:
    """Collect and print the results of a run. Does nothing where no test requests a case."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._results: dict[str, CaseResult] = {}
        self._cells: list[dict[str, Any]] = []
        self._selected: list[Case] = []
        self._session: pytest.Session | None = None

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        self._session = session

    @cached_property
    def _by_id(self) -> dict[str, Case]:
        return {case.id: case for case in self._selected}

    @property
    def _live(self) -> Any:
        return self._config.pluginmanager.get_plugin(PLUGIN)

    @property
    def _settings(self) -> Settings:
        return settings(self._config)

    @pytest.hookimpl(tryfirst=True)  # the reporter asks for our lines in its own hook
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._begin([item.nodeid for item in session.items], workers=1)

    def pytest_report_collectionfinish(self) -> list[str]:
        return self._header()

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        if self._selected:
            return
        self._begin(ids, workers=len(self._config.option.tx))
        reporter: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None or not (lines := self._header()):
            return
        reporter.ensure_newline()
        for line in ["", *lines] if reporter.isatty else lines:  # ends xdist's status line
            reporter.write_line(printable(line))

    def _begin(self, node_ids: list[str], workers: int) -> None:
        """Check, once the tests are known, whether a case is among them and whether this host can hold the
        run."""
        self._selected = selected_cases(self._config, node_ids)
        if not self._selected or self._config.option.collectonly:
            return
        check_host(self._config, node_ids, workers)
        self._live.begin(expected_of(self._config, self._settings, self._selected))

    def _header(self) -> list[str]:
        selected = self._selected
        if not selected:
            return []
        run = self._settings
        models, precisions, tiers = (
            ", ".join(dict.fromkeys(values))
            for values in (
                [case.model for case in selected],
                [case.precision for case in selected],
                [case.tier for case in selected if case.tier],
            )
        )
        return [
            f"mxcheck: {len(selected)} cases of {models}",
            f"mxcheck: precisions {precisions}; tiers {tiers or 'none'}",
            (
                f"mxcheck: scale rule {run.scale_rule}, rounding {run.rounding}, blocks of {run.block_size}, "
                f"kernel {run.kernel}, device {run.device}, "
                f"baselines {_relative(run.baselines, self._config)}"
            ),
            *(["mxcheck: --mx-measure: nothing is judged"] if run.measure else []),
            *self._notes(selected),
        ]

    def _notes(self, selected: list[Case]) -> list[str]:
        """Return notes on options without effect, and on precisions omitted for want of a library, so that
        nothing is silent."""
        lines = []
        for label in dict.fromkeys(label for case in selected for label in case.options):
            if self._stands_beside(label):
                continue  # nobody requested it
            without = dict.fromkeys(case.precision for case in selected if label not in case.options)
            if without:
                lines.append(f"mxcheck: +{label} does not apply to {', '.join(without)}")
        for model in dict.fromkeys(case.model for case in selected):
            if (known := estimated(self._settings, model)) is not None and known.guessed:
                lines.append(
                    f"mxcheck: memory of {model} estimated by the sizes of its files, "
                    f"{known.bytes_needed / GIB:.1f} GiB: {known.guessed}"
                )
        models = list(dict.fromkeys(case.model for case in selected))
        if ours := taken_from_ours(self._settings.baselines, models):
            lines.append(f"mxcheck: baselines that come with mxcheck: {', '.join(ours)}")
        run = self._settings
        bounds = load_bounds(run.bounds, run.own, baselines=run.baselines)
        if others := set(bounds.labels).difference(known_labels(run.baselines, run.models)):
            lines.append(f"mxcheck: {run.bounds} has bounds of unknown models: {some_of(sorted(others))}")
        if absent := self._settings.left_out:
            lines.append(f"mxcheck: left out, their library is not installed: {', '.join(absent)}")
        return lines

    def _stands_beside(self, label: str) -> bool:
        """Return whether a case with this option is run in addition to the one without it."""
        cases = self._settings.recipes
        return any(
            label in case.options
            and replace(case, options=tuple(one for one in case.options if one != label)) in cases
            for case in cases
        )

    @property
    def has_rows(self) -> bool:
        """True if a test of the suites has been seen."""
        return bool(self._selected or self._cells)

    @property
    def results(self) -> dict[str, CaseResult]:
        """The results so far, by the case's id, for other reporters of the run."""
        return self._results

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if (cell := sent_cell(report)) is not None:
            self._cells.append(cell)
        name = parameter_of(report.nodeid)
        if name is None or name not in self._by_id:
            return
        if (sent := sent_result(report)) is not None:
            self._results[name] = result_from_dict(sent)
        result = self._results.get(name)
        if report.skipped and hasattr(report, "wasxfail"):
            self._end(
                name,
                Outcome.SKIPPED,
                reason=f"red, as its xfail mark says ({report.wasxfail or 'no reason'})",
            )
        elif report.skipped and (result is None or result.outcome is not Outcome.SKIPPED):
            self._end(name, Outcome.SKIPPED, reason="skipped before it ran")
        elif report.failed and (result is None or result.outcome.green):
            # A test that raised, or a worker that died, has no result.
            when: str = report.when  # xdist's "???" is no phase that pytest knows
            self._end(name, Outcome.CRASHED if when == "???" else Outcome.ERROR)
        if report.when == "call" or not report.passed:
            self._live.case_ended(name, None if result is None else result.seconds)

    def _end(self, name: str, outcome: Outcome, *, reason: str = "") -> None:
        """Record an outcome that differs from the case's result, or replaces a missing one."""
        before = self._results.get(name) or CaseResult(case=self._by_id[name], outcome=outcome)
        self._results[name] = replace(before, outcome=outcome, reason=reason or before.reason)

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem: str, report: pytest.TestReport) -> None:
        """Record why a worker died, if it could report it."""
        if why := self._live.last_words.get(parameter_of(crashitem) or ""):
            report.longrepr = f"{report.longrepr}: {why}"

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Add a row for each selected case that did not run, and fail such a run."""
        option = self._config.option
        if self._kernels_not_compared:
            session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED
        if not self._selected or option.collectonly or option.setuponly:
            return
        self._note_unfinished(session)
        if self._compared_nothing or self._kernel_not_asked:
            session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED
        remember(self._config, self._settings, self._results)

    def _note_unfinished(self, session: pytest.Session) -> None:
        for case in self._selected:
            if case.id not in self._results:
                self._results[case.id] = CaseResult(case=case, outcome=Outcome.NOT_RUN)
                session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED

    @property
    def _kernel_not_asked(self) -> str:
        """The reason why no case of the run compared a bit of the named kernel with the oracle; empty where
        one did. For a shard, the other shards may."""
        name = self._settings.kernel
        if name in OWN or self._settings.shard is not None:
            return ""
        records = [one.record for one in self._results.values() if one.record is not None]
        cells = [one for record in records for one in record.kernel_cells.values()]
        if not records or any(one.verdict != NOT_COMPARED for one in cells):
            return ""
        why = f"its first refusal: {cells[0].words}" if cells else "no case of this run uses it"
        return f"no result of {name} was compared with the oracle; {why}"

    @property
    def _slower_kernel(self) -> str:
        """The reason why eager cast on a CPU, where `auto` was to take the fastest; empty where it did not,
        or was told to. pytest keeps what the casts log about it."""
        run = self._settings
        cast = {case.id for case, recipe in run.recipes.items() if recipe.operands}
        records = [one.record for name, one in self._results.items() if name in cast]
        where = [(one.environment.get("device"), one.environment.get("kernel")) for one in records if one]
        if run.kernel != "auto" or ("cpu", "eager") not in where or library.is_off():
            return ""
        return library.missing() or "a worker has no compiled casts, and -n 0 shows why"

    @property
    def _compared_nothing(self) -> bool:
        """True if each case was skipped. For a shard, the merge checks the whole run."""
        skipped = all(
            result.outcome is Outcome.SKIPPED and result.record is None for result in self._results.values()
        )
        return bool(self._results) and skipped and self._settings.shard is None

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self._cells:
            self._conformance(terminalreporter)
        if not self._results:
            return
        from mxcheck.reporting.table import lines_below, render, results_table, what_next

        # the order of the ladder, whichever worker was first
        rows = [self._results[case.id] for case in self._settings.cases if case.id in self._results]
        terminalreporter.ensure_newline()
        color = terminalreporter._tw.hasmarkup
        _show(terminalreporter, render(results_table(rows, wide=self._settings.wide), color=color))
        for line in lines_below(rows):
            terminalreporter.write_line(printable(line))
        if self._settings.layers:
            self._list_layers(terminalreporter, rows, color=color)
        if self._settings.cost:
            from mxcheck.reporting.cost_table import cost_table

            if (table := cost_table(rows)) is not None:
                _show(terminalreporter, render(table, color=color))
        for line in what_next(rows):
            terminalreporter.write_line(printable(line))
        if why := self._slower_kernel:
            words = (
                f"kernel auto was eager, which is slower: {one_line(why)}; {library.SWITCH}=0 silences this"
            )
            terminalreporter.write_line(printable(f"mxcheck: {words}"))
        if why := self._kernel_not_asked:
            terminalreporter.write_line(printable(f"mxcheck: red: {why}"))
        if self._compared_nothing:
            terminalreporter.write_line("mxcheck: red: every case was skipped, so nothing was compared")
        self._keep(terminalreporter, {"accuracy.json": json.dumps([row.as_dict() for row in rows])})
        if self._settings.debug:
            self._list_modules(terminalreporter)

    @property
    def _kernels_not_compared(self) -> dict[str, str]:
        """Named kernels of which no cell was compared, each with its first refusal. Where none is named, all
        installed kernels are tested, and some of them cast on other machines only."""
        if not self._settings.kernels:
            return {}
        by_name: dict[str, list[dict[str, Any]]] = {}
        for cell in self._cells:
            by_name.setdefault(cell["implementation"], []).append(cell)
        return {
            name: cells[0]["reason"]
            for name, cells in by_name.items()
            if all(cell["verdict"] == "unsupported" for cell in cells)
        }

    def _conformance(self, terminalreporter: Any) -> None:
        from mxcheck.conformance.cases.cells import cells
        from mxcheck.reporting.matrix import as_json, in_order, markdown, nothing_compared, rendered

        order = [(cell.format, cell.rule) for cell in cells("full")]
        found = sorted(self._cells, key=lambda row: order.index((row["format"], row["rule"])))
        rows = in_order(found)  # whichever worker was first
        terminalreporter.ensure_newline()
        _show(terminalreporter, rendered(rows, color=terminalreporter._tw.hasmarkup))
        for line in dict.fromkeys(
            f"{row['implementation']} was asked inside its domain, {row['domain']}{_compared(row, rows)}"
            for row in rows
            if row["domain"]
        ):
            terminalreporter.write_line(printable(f"mxcheck: {line}"))
        for name, reason in self._kernels_not_compared.items():
            terminalreporter.write_line(printable(f"mxcheck: {nothing_compared(name, reason)}"))
        self._keep(terminalreporter, {"conformance.md": markdown(rows), "conformance.json": as_json(rows)})

    def _keep(self, terminalreporter: Any, texts: dict[str, str]) -> None:
        """Write the report's files, if requested. A failure makes the run red, and the run continues."""
        if (folder := self._settings.report) is None:
            return
        try:
            for name, text in texts.items():
                write_text(folder / name, text)
        except WriteError as error:
            if self._session is not None:
                self._session.exitstatus = self._session.exitstatus or pytest.ExitCode.TESTS_FAILED
            terminalreporter.write_line(f"mxcheck: red: {error}")
        else:
            terminalreporter.write_line(printable(f"mxcheck: written to {_relative(folder, self._config)}"))

    def _list_layers(self, terminalreporter: Any, rows: list[CaseResult], *, color: bool) -> None:
        from mxcheck.reporting.layers_table import layers_table, without_layers
        from mxcheck.reporting.table import render

        for record in [row.record for row in rows if row.record is not None]:
            if why := without_layers(record):
                terminalreporter.write_line(printable(f"mxcheck: {why}"))
            else:
                _show(terminalreporter, render(layers_table(record), color=color))

    def _list_modules(self, terminalreporter: Any) -> None:
        terminalreporter.section("mxcheck: replaced modules")
        for name, result in sorted(self._results.items()):
            if (record := result.record) is None:
                continue
            for module, role in record.replaced.items():
                terminalreporter.write_line(printable(f"{name}: {module} ({role})"))
            for module, reason in record.unconverted.items():
                terminalreporter.write_line(printable(f"{name}: {module} not replaced: {reason}"))


def _show(terminalreporter: Any, table: str) -> None:
    """Print a table line by line: where a terminal cannot encode a character, pytest escapes the newlines
    too."""
    for line in table.splitlines():
        terminalreporter.write_line(line)


def _relative(path: Any, config: pytest.Config) -> str:
    return str(path.relative_to(config.rootpath) if path.is_relative_to(config.rootpath) else path)


def _compared(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Return how many cells were compared for a kernel whose domain was learned."""
    if not row["domain"].startswith("learned"):
        return ""
    own = [one for one in rows if one["implementation"] == row["implementation"]]
    compared = sum(one["verdict"] != "unsupported" for one in own)
    return f"; {compared} of {len(own)} cells were compared"
