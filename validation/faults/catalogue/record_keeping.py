"""Faults in keeping, comparing, storing and merging records, while every measurement is right."""

from __future__ import annotations

from functools import partial

from mxcheck.gate.result import Outcome
from validation.faults.fault import Fault, Rewrite, Setting, rewrite
from validation.faults.fault_place import (
    argument,
    assignment,
    call,
    choice,
    comparison,
    condition,
    loop,
    mention,
    operation,
    returned,
    statement,
    value,
)

_fault = partial(Fault, group="record keeping", formats=())
_DECISION = "mxcheck.gate.decision"
_DRIFT = "mxcheck.gate.drift:drift"
_NOISE = "mxcheck.gate.noise"
_PATHS = "mxcheck.gate.baseline:baseline_paths"
_REPORT = "mxcheck.pytest_plugin.progress.run_report:RunReport"
_MERGE = "mxcheck.distributed.merge"


def _not_called(function: str) -> Rewrite:
    return Rewrite(target=function, at=(call("check_figures"), statement()), to="pass")


FAULTS: tuple[Fault, ...] = (
    _fault(
        name="contradicting_figures_judged",
        what="A record whose figures contradict each other is judged like any other.",
        source="a porter's slip: the check stayed behind when the function that called it was split",
        changes=(_not_called(f"{_DECISION}:decide"), _not_called("mxcheck.measure.measure_case:_checked")),
    ),
    _fault(
        name="override_of_a_device_ignored",
        what="The common baseline is read where a device's own is there.",
        source="a porter's slip: the path is made before anybody looks whether the file exists",
        changes=rewrite(
            _PATHS,
            assignment("there"),
            to="there = [path for path in read_from if path.is_file() and path.name == common.name]",
        ),
    ),
    _fault(
        name="override_of_a_device_always_read",
        what="A device's own baseline is read whether it is there or not.",
        source="a porter's slip: the same",
        changes=rewrite(_PATHS, assignment("there"), to="there = [override]"),
    ),
    _fault(
        name="override_of_a_device_written_over",
        what="A GPU that has no baseline of its own writes over the common one.",
        source="snapshot tools that know one file a test",
        changes=rewrite(_PATHS, choice("override"), to="common"),
    ),
    _fault(
        name="digests_of_the_baseline_s_modules",
        what="Only modules that had a digest when accepted are compared.",
        source="a porter's slip: a loop over what is expected, which never meets what is new",
        changes=rewrite("mxcheck.gate.held_casts:casts_held", operation("|"), to="baseline.digests.keys()"),
    ),
    _fault(
        name="reference_losses_in_part",
        what="The last of the reference's losses is not compared.",
        source="a porter's slip: a range that ends one early",
        changes=rewrite(_DRIFT, value("change"), to="it[:-1] if quantity == 'reference' else it"),
    ),
    _fault(
        name="losses_in_part",
        what="The first of a case's losses is not compared.",
        source="a porter's slip: a warm-up left out of what is timed, and then of what is judged",
        changes=rewrite(_DRIFT, value("change"), to="it[1:] if quantity == 'loss' else it"),
    ),
    _fault(
        name="machine_told_by_its_first_loss",
        what="A machine has the baseline's arithmetic if the first of the reference's losses is equal.",
        source="a porter's slip: one value taken to stand for all",
        changes=rewrite(
            "mxcheck.gate.drift:same_arithmetic",
            comparison("reference_losses"),
            to="record.reference_losses[:1] == baseline.reference_losses[:1]",
        ),
    ),
    _fault(
        name="reference_entropies_not_held",
        what="The reference's entropies are shown and not compared.",
        source="a column of a table that nobody asserts",
        changes=rewrite("mxcheck.gate.verdict:_reference", condition("same_arithmetic"), to="False"),
    ),
    _fault(
        name="entropies_not_held",
        what="The model's entropies are shown and not compared.",
        source="the same",
        changes=rewrite(
            "mxcheck.gate.held_figures:_predictions", call("drift_check", nth=1), statement(), to="pass"
        ),
    ),
    _fault(
        name="figures_of_tokens_not_held",
        what="Percentiles, parts and probability changes are shown and not compared.",
        source="the same",
        changes=rewrite("mxcheck.gate.held_figures:_predictions", value("other"), to="[]"),
    ),
    _fault(
        name="scored_tokens_not_held",
        what="Another number of scored tokens passes.",
        source="the same; the allowance for the sampling error follows it",
        changes=rewrite("mxcheck.gate.accepted_inputs:same_corpus", condition("scored_tokens"), to="False"),
    ),
    _fault(
        name="noise_twice_as_large",
        what="The noise that an acceptance measures is doubled.",
        source="a safety margin, and later a multiple of it",
        changes=rewrite(
            f"{_NOISE}:worst", value("figures"), to="{name: 2 * value for name, value in it.items()}"
        ),
    ),
    _fault(
        name="noise_inflated_as_it_is_stored",
        what="A baseline is written with ten times the noise of the losses that was measured.",
        source="a unit that is converted twice",
        changes=rewrite(
            f"{_DECISION}:stored",
            returned(nth=1),
            to="replace(it, noise=replace(it.noise, loss_median=10 * it.noise.loss_median))",
        ),
    ),
    _fault(
        name="noise_lost_as_it_is_recentred",
        what="A baseline that is re-centred loses the noise that was accepted with it.",
        source="a porter's slip: a new record, which has none",
        changes=rewrite(f"{_DECISION}:stored", returned(nth=2), to="record"),
    ),
    _fault(
        name="any_order_will_do",
        what="An order of two precisions that is too close to call passes for one that holds.",
        source="a porter's slip: not reversed, taken for in order",
        changes=rewrite(
            "mxcheck.gate.orderings:unexpected_result",
            condition("shows"),
            to="found.shows != 'reversed'",
        ),
    ),
    _fault(
        name="order_by_its_mean_alone",
        what="Of two precisions the one with the larger mean costs more, whatever the scatter.",
        source="leader boards",
        changes=rewrite("mxcheck.gate.orderings:OrderingResult.shows", mention("UPPER_95", nth=1), to="0.0"),
    ),
    _fault(
        name="order_of_the_arguments",
        what="The lower precision is taken from the higher with the sign reversed.",
        source="a porter's slip: two arguments of one type",
        changes=rewrite("mxcheck.gate.orderings:compare_kl", value("change"), to="[-one for one in it]"),
    ),
    _fault(
        name="crash_counted_good",
        what="A case whose process died counts as green.",
        source="a set of good ends that lists the bad ones by mistake",
        changes=(
            Setting(target="mxcheck.gate.result:_GREEN", value=lambda green: green | {Outcome.CRASHED}),
        ),
    ),
    _fault(
        name="row_that_is_missing_counted_good",
        what="A case of a shard that has no row counts as green.",
        source="the same",
        changes=(Setting(target="mxcheck.gate.result:_GREEN", value=lambda green: green | {Outcome.NO_ROW}),),
    ),
    _fault(
        name="death_of_a_worker_not_noted",
        what="A worker's death changes nothing in the row of the case that it died of.",
        source="a phase of a test that the code does not know of is passed over",
        changes=rewrite(
            f"{_REPORT}.pytest_runtest_logreport", condition("failed"), to="it and report.when != '???'"
        ),
    ),
    _fault(
        name="end_after_the_call_not_noted",
        what="What fails after a case has passed changes nothing in its row.",
        source="reporters that look at the call alone",
        changes=rewrite(
            f"{_REPORT}.pytest_runtest_logreport", condition("failed"), to="it and report.when != 'teardown'"
        ),
    ),
    _fault(
        name="case_that_never_ran_left_out",
        what="A case that was selected and never ran has no row, and the run stays green.",
        source="a run that ends early looks like a short one",
        changes=rewrite(f"{_REPORT}._note_unfinished", condition("id"), to="False"),
    ),
    _fault(
        name="last_shard_lost_in_a_merge",
        what="What the last shard says is no part of the verdict.",
        source="a porter's slip: a range that ends one early",
        changes=rewrite(f"{_MERGE}:_joined", value("cases"), loop(), to="it[:-1]"),
    ),
    _fault(
        name="failures_of_the_last_shard_lost",
        what="Failed tests of the last shard that are no cases are left out.",
        source="the same",
        changes=rewrite(
            f"{_MERGE}:_joined", value("failures", nth=2), to="{} if shard is shards[-1] else it"
        ),
    ),
    _fault(
        name="exit_status_excused",
        what="A shard whose pytest was interrupted, or broke, is joined like any other.",
        source="|| true in a script, so that the artefacts are uploaded",
        changes=rewrite(f"{_MERGE}:_accounted", returned(nth=3), to="True"),
    ),
    _fault(
        name="unnamed_failures_excused",
        what="A shard whose pytest says that tests failed, and names none, is joined like any other.",
        source="the same",
        changes=rewrite(f"{_MERGE}:_accounted", returned(nth=1), to="True"),
    ),
    _fault(
        name="missing_row_skipped",
        what="A selected case of a shard that has no row counts as skipped.",
        source="a default for what is not there",
        changes=rewrite(f"{_MERGE}:_never_ran", argument("outcome"), to="Outcome.SKIPPED"),
    ),
    _fault(
        name="shards_of_other_baselines_joined",
        what="Shards that were compared with other baselines, or ran other sources, are joined.",
        source="artefacts of two runs in one folder",
        changes=rewrite(f"{_MERGE}:_same_basis", condition("groups"), to="False"),
    ),
    _fault(
        name="failures_beside_cases_not_red",
        what="A merge is green although tests failed that are no cases.",
        source="a verdict by the table's rows alone",
        changes=rewrite(f"{_MERGE}:Merged.green", returned(), to="all_green(self.results.values())"),
    ),
)
