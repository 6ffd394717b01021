"""Faults of the gate, and of the run around it, written before any run searched for them.

The latter are faults of pytest's plugin, of shards and their merge, and of printed output. Several of them
show only outside a measuring run: in an acceptance, a merge, or after a worker's death.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from validation.faults.fault import Fault, Setting, rewrite
from validation.faults.fault_place import (
    argument,
    assignment,
    call,
    comparison,
    constant,
    function,
    loop,
    mention,
    operation,
    returned,
    statement,
    value,
)

_fault = partial(Fault, group="gate", formats=(), unseen=True)
_STATISTICS = "mxcheck.gate.statistics"
_VERDICT = "mxcheck.gate.verdict"
_TABLE = "mxcheck.reporting.table"
_MERGE = "mxcheck.distributed.merge"
_REPORT = "mxcheck.pytest_plugin.progress.run_report:RunReport"
_SESSION = "mxcheck.pytest_plugin.fixtures.gate_session:GateSession"


def _with_undecided(allowed: Any) -> Any:
    return {**allowed, "holds": ("holds", "undecided")}


FAULTS: tuple[Fault, ...] = (
    _fault(
        name="error_by_the_population",
        what="A standard error divides by the number of sequences, not by one less.",
        source="ddof: 0 in numpy, 1 in statistics.stdev and in R",
        changes=rewrite(
            f"{_STATISTICS}:mean_and_error",
            call("stdev"),
            to="it * math.sqrt((len(values) - 1) / len(values))",
        ),
    ),
    _fault(
        name="rise_at_90_percent",
        what="The upper bound of the rise is the 90 % one.",
        source="a porter's slip: one-sided and two-sided quantiles",
        changes=(Setting(target=f"{_VERDICT}:UPPER_95", value=lambda _: 1.2815515655446004),),
    ),
    _fault(
        name="rise_unpaired",
        what="The error of the rise is that of two independent samples, as if the sequences were others.",
        source="harnesses that report a standard error for each model, which readers then combine",
        changes=rewrite(
            f"{_VERDICT}:rise",
            assignment("mean"),
            to="it\n"
            "error = math.hypot(\n"
            "    mean_and_error(record.sequence_losses)[1], mean_and_error(record.reference_losses)[1]\n"
            ")",
        ),
    ),
    _fault(
        name="sequences_paired_by_rank",
        what="Sequences are paired by the order of their losses, not by which they are.",
        source="a porter's slip: lists sorted for a quantile, and used again",
        changes=rewrite(f"{_STATISTICS}:differences", call("zip"), to="zip(sorted(after), sorted(before))"),
    ),
    _fault(
        name="median_of_signed_changes",
        what="The typical change is the median of the changes, in which opposite signs cancel.",
        source="a porter's slip: abs() forgotten in one of three figures",
        changes=rewrite(f"{_STATISTICS}:median_abs", call("abs"), to="value"),
    ),
    _fault(
        name="largest_rise_alone",
        what="The largest change is the largest rise, whatever fell further.",
        source="a porter's slip: abs() forgotten in one of three figures",
        changes=rewrite(f"{_STATISTICS}:largest", call("abs"), to="value"),
    ),
    _fault(
        name="allowance_by_the_fourth_root",
        what="The sampling error that a rise is allowed shrinks with the fourth root of the tokens.",
        source="a porter's slip: a square root taken in two places",
        changes=rewrite(f"{_VERDICT}:sampling_allowance", mention("scored_tokens"), to="math.sqrt(it)"),
    ),
    _fault(
        name="noise_of_the_losses_for_the_kl",
        what="The drift of the KL is allowed what other arithmetic did to the losses.",
        source="a porter's slip: one of two names in a call",
        changes=rewrite("mxcheck.gate.drift:drift", call("_noise_bounds"), argument(2), to="'loss'"),
    ),
    _fault(
        name="fingerprints_in_common",
        what="A fingerprint that only one of record and baseline has is passed over.",
        source="a porter's slip: the keys of both tables taken as their intersection",
        changes=rewrite(
            "mxcheck.gate.accepted_inputs:fingerprints",
            operation("|"),
            to="record.fingerprints.keys() & baseline.fingerprints.keys()",
        ),
    ),
    _fault(
        name="operands_not_held",
        what="Digests of activations as they enter a product are recorded and not compared.",
        source="gates that compare quantized weights, which are files, and nothing that happens in a run",
        changes=rewrite(
            "mxcheck.gate.held_casts:casts_held",
            mention("_KINDS"),
            to="[one for one in it if one[0] != 'operands']",
        ),
    ),
    _fault(
        name="counts_of_weights_not_held",
        what="What the casts of weights did is counted and not compared.",
        source="a porter's slip: weights have digests, so nothing else was thought to be needed",
        changes=rewrite(
            "mxcheck.gate.counter_changes:changes",
            call("_operands"),
            to="[one for one in it if one.operand != 'weights']",
        ),
    ),
    _fault(
        name="missing_baseline_passes",
        what="A case without a baseline is not red.",
        source="snapshot tools that write what is missing and pass",
        changes=rewrite(
            "mxcheck.gate.result:Outcome.red", returned(), to="it and self is not Outcome.MISSING"
        ),
    ),
    _fault(
        name="all_skipped_is_green",
        what="A run of whose cases none was measured is green.",
        source="pytest's own exit status where every test was skipped",
        changes=rewrite(
            "mxcheck.gate.result:all_green", returned(), to="not any(outcome.red for outcome in outcomes)"
        ),
    ),
    _fault(
        name="cause_by_the_last_row",
        what="The cause of a red case is the last row of the table that fits, not the first.",
        source="a porter's slip: a loop that goes on after it has found",
        changes=rewrite("mxcheck.gate.cause:cause", mention("ROWS"), to="it[::-1]"),
    ),
    _fault(
        name="baseline_without_options",
        what="A case with options has the baseline of the plain case.",
        source="a porter's slip: a file name that lacks what was added to the test's name later",
        changes=rewrite("mxcheck.gate.case:Case.baseline", mention("name"), to="self.plain"),
        options=("--mx-block-size", "16"),
    ),
    _fault(
        name="missing_seal_passes",
        what="A baseline from which the seal was taken away is read like any other.",
        source="a porter's slip: checks that hold only where there is something to check",
        changes=rewrite("mxcheck.gate.baseline:unseal", comparison("seal"), to="seal is not None and it"),
    ),
    _fault(
        name="own_text_taken_for_a_corpus",
        what="The reference is not held to its own entropy on the text that was sampled from it.",
        source="a porter's slip: a name that changed in one of two places",
        changes=rewrite("mxcheck.gate.record:Record.self_sampled", constant("self"), to="'own'"),
    ),
    _fault(
        name="layers_noise_of_the_first_environment",
        what="Of the environments that were tried the first alone says how far layers may move.",
        source="a porter's slip: an index for a loop",
        changes=rewrite("mxcheck.gate.noise:worst", call("sublayer_noise"), argument(2), to="it[:1]"),
    ),
    _fault(
        name="undecided_orders_pass",
        what="An order of two precisions that has to be clear may be too close to call.",
        source="a tolerance that was widened until a red case turned green",
        changes=(Setting(target="mxcheck.gate.orderings:_ALLOWED", value=_with_undecided),),
    ),
    _fault(
        name="result_of_the_tier_before",
        what="A tier gets the result of the one that ran before it under the same precision.",
        source="a porter's slip: a cache whose key lacks what was added later",
        changes=rewrite(
            f"{_SESSION}.run",
            value("result"),
            to="replace(\n"
            "    self.__dict__.setdefault('_kept', {}).setdefault((case.model, case.precision), it),\n"
            "    case=case,\n"
            ")",
        ),
    ),
    _fault(
        name="accept_command_takes_more",
        what="The command that a red case prints accepts other cases too, whose names contain its name.",
        source="pytest's -k matches parts of names",
        changes=rewrite(
            f"{_SESSION}._accept_command",
            value("words"),
            call("own_options"),
            statement(),
            to="it\nwords = [case.id if one == f'[{case.id}]' else one for one in words]",
        ),
    ),
    _fault(
        name="new_only_overwrites",
        what="An update of what is missing accepts what has changed too.",
        source="a porter's slip: two options of one library, of which one includes the other",
        changes=rewrite(
            "mxcheck.pytest_plugin.options.neighbours:asked_update",
            call("Update"),
            argument("changed"),
            to="it or bool(config.getoption('update_new_snapshots_only', False))",
        ),
        options=("--snapshot-update-new-only",),
    ),
    _fault(
        name="measured_noise_dropped",
        what="An acceptance measures noise and stores that of before.",
        source="a porter's slip: the branches of a condition swapped",
        changes=rewrite(
            "mxcheck.gate.decision:stored",
            returned(nth=1),
            to="replace(record, noise=None if accepted.record is None else accepted.record.noise)",
        ),
    ),
    _fault(
        name="red_cases_leave_no_record",
        what="A red case raises before its record is handed on: reports have a row without figures.",
        source="a porter's slip: a line below one that raises",
        changes=rewrite(
            "mxcheck.pytest_plugin.fixtures.mx_fixtures:mx_gate",
            function("measure_and_compare"),
            call("keep_result"),
            statement(),
            to="if not result.outcome.red:\n    it",
        ),
    ),
    _fault(
        name="last_tier_left_out",
        what="Of several tiers that are asked for the last one is not run.",
        source="a porter's slip: a range that ends one too early",
        changes=rewrite(
            "mxcheck.run.laid_out_cases:chosen_tiers",
            returned(nth=3),
            to="([tier for tier in everywhere if tier in named] or ['B'])[: max(1, len(named) - 1)]",
        ),
    ),
    _fault(
        name="cases_that_never_ran_pass",
        what="A run that ends before all of its cases ran is green if those that ran are.",
        source="pytest-xdist issue 466: what a lost worker had not begun",
        changes=rewrite(f"{_REPORT}._note_unfinished", assignment("session.exitstatus"), to="pass"),
    ),
    _fault(
        name="report_without_red_rows",
        what="The file of a run's rows has those of green cases alone.",
        source="a porter's slip: rows with a record, in the wrong sense",
        changes=rewrite(
            f"{_REPORT}.pytest_terminal_summary",
            call("dumps"),
            argument(1),
            to="[row.as_dict() for row in rows if row.outcome.green]",
        ),
    ),
    _fault(
        name="kernel_that_raises_is_skipped",
        what="A cell in which the kernel raises an error counts as not supported.",
        source="suites that skip on NotImplementedError, and catch more than that",
        changes=rewrite(
            "mxcheck.pytest_plugin.fixtures.kernel_runner:KernelRunner.run",
            returned(nth=3),
            to="(row, 'unsupported' if row['verdict'] == 'error' else verdict, it[2])",
        ),
        formats=("fp8_e4m3",),
    ),
    _fault(
        name="first_kernel_serves_all",
        what="All kernels of one library are the first of them that was loaded.",
        source="a porter's slip: a cache by the module's name, from which several functions come",
        changes=rewrite(
            "mxcheck.pytest_plugin.fixtures.kernel_runner:KernelRunner.kernel",
            assignment("told"),
            to="from dataclasses import replace\n\none = replace(one, name=one.library or 'ours')\nit",
        ),
        formats=("fp8_e4m3", "fp4_e2m1"),
    ),
    _fault(
        name="shard_written_too_early",
        what="A shard's file is written before the report has added the cases that never ran.",
        source="a porter's slip: hooks in the order in which plugins were registered",
        changes=rewrite(
            "mxcheck.pytest_plugin.progress.shard_writer:ShardReport.pytest_sessionfinish",
            to="self._write(int(session.exitstatus))\nreturn (yield)",
        ),
    ),
    _fault(
        name="rows_lost_in_the_merge",
        what="A selected case that has no row is left out of the whole run.",
        source="joins that keep what both sides have",
        changes=rewrite(
            f"{_MERGE}:_joined",
            call("_never_ran"),
            loop(),
            to="[name for name in it if name in of_case]",
        ),
    ),
    _fault(
        name="shards_of_other_baselines_merged",
        what="Shards that were compared with different baselines are joined.",
        source="caches of CI that are older on one machine than on another",
        changes=rewrite(
            f"{_MERGE}:_same_basis",
            call("_groups"),
            argument(2),
            to="(lambda shard: 'any') if key == 'baselines' else it",
        ),
    ),
    _fault(
        name="drift_column_shows_the_median",
        what="The table's drift is the median of the changes, not their root mean square.",
        source="a porter's slip: figures beside each other in one class",
        changes=rewrite(f"{_TABLE}:_drift", mention("rms", nth=2), to="row.drift.median"),
    ),
    _fault(
        name="saturation_of_weights_alone",
        what="The table's share of saturated elements leaves activations out.",
        source="a porter's slip: a loop over the first of several operands",
        changes=rewrite(
            f"{_TABLE}:_saturated",
            call("isinstance"),
            loop(),
            to="list(it)[:1]",
        ),
    ),
    _fault(
        name="best_layers_named_worst",
        what="A red case names the layers whose error turned least.",
        source="a porter's slip: the sign of a sort key",
        changes=rewrite(
            "mxcheck.reporting.failure:worst_layers",
            value("worst"),
            call("turned"),
            to="-it",
        ),
    ),
    _fault(
        name="model_in_no_shard",
        what="Of models that cost the same, one is in no part of a run that is split.",
        source="a porter's slip: models known by their cost",
        changes=(
            *rewrite(
                "mxcheck.scheduling.split_models:split",
                call("sorted"),
                to="list({costs[name]: name for name in it}.values())",
            ),
            *rewrite(
                "mxcheck.scheduling.split_models:split", comparison("part_of"), to="part_of.get(name) == part"
            ),
        ),
    ),
    _fault(
        name="cases_of_a_dead_worker_lost",
        what="What a worker that died had been given and had not begun is run by nobody.",
        source="pytest-xdist issue 466: what becomes of the queue of a lost worker",
        changes=rewrite(
            "mxcheck.pytest_plugin.xdist.xdist_scheduling:ModelScheduling.remove_node",
            call("again"),
            statement(),
            to="pass",
        ),
    ),
)
