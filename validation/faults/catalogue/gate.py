"""Faults of the gate itself, with nothing else wrong. All but one make it laxer."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from validation.faults.fault import Fault, Setting, rewrite
from validation.faults.fault_place import (
    assignment,
    call,
    comparison,
    condition,
    loop,
    mention,
    operation,
    returned,
    value,
)

_fault = partial(Fault, group="gate", formats=())
_DRIFT = "mxcheck.gate.drift"
_SUBLAYERS = "mxcheck.gate.sublayer_drift"
_VERDICT = "mxcheck.gate.verdict"
_DECISION = "mxcheck.gate.decision"


def _wider(figures: Any) -> Any:
    return {
        name: replace(one, typical=10 * one.typical, largest=10 * one.largest)
        for name, one in figures.items()
    }


def _ten_times(value: Any) -> Any:
    return tuple(10 * one for one in value) if isinstance(value, tuple) else 10 * value


FAULTS: tuple[Fault, ...] = (
    _fault(
        name="baseline_compared_with_itself",
        what="What is compared with the record is the record.",
        source="a porter's slip: the new file is written first and then read as the old one",
        changes=rewrite(f"{_VERDICT}:judge", to="baseline = None if baseline is None else record\nit"),
    ),
    *(
        _fault(
            name=f"{name.lower()}_ten_times",
            what=f"{what} is ten times as large.",
            source="a tolerance that was widened until a red case turned green",
            changes=tuple(Setting(target=f"{module}:{name}", value=_ten_times) for module in modules),
        )
        for name, what, modules in (
            ("EXACT_TOLERANCE", "The tolerance on a machine of the same arithmetic", (_DRIFT, _SUBLAYERS)),
            ("NOISE_MULTIPLE", "The multiple of the measured noise", (_DRIFT, _SUBLAYERS)),
            ("NOISE_FLOOR", "The floor of the noise", (_DRIFT,)),
            ("LOSS_SHARES", "The share of quantization's own effect on the losses", (_DRIFT,)),
            ("KL_SHARES", "The share of quantization's own effect on the KL", (_DRIFT,)),
            ("ENTROPY_SHARES", "The share of quantization's own effect on the entropies", (_DRIFT,)),
            ("TOP1_SHARE", "The scatter that the top-1 agreement may have", (_DRIFT,)),
            (
                "SHARE",
                "The share of an operand's elements whose count may move",
                ("mxcheck.gate.counter_changes",),
            ),
            (
                "ESTIMATES_Z",
                "The bound of two estimates of the KL, 80 standard errors,",
                ("mxcheck.gate.predictions",),
            ),
            (
                "SELF_SAMPLED_Z",
                "The bound of the reference on its own samples, 40 standard errors,",
                (_VERDICT,),
            ),
        )
    ),
    _fault(
        name="layer_bounds_ten_times",
        what="What other arithmetic may change of a layer's figures is ten times as large.",
        source="a tolerance that was widened until a red case turned green",
        changes=(Setting(target=f"{_SUBLAYERS}:FIGURES", value=_wider),),
    ),
    _fault(
        name="layers_by_their_median_alone",
        what="The place of a layer that moved most has no bound.",
        source="a porter's slip: the second half of a condition",
        changes=rewrite(f"{_SUBLAYERS}:_check", comparison("most"), to="True"),
    ),
    _fault(
        name="bytes_not_compared",
        what="The bytes of the weights are shown and not compared.",
        source="model cards that state a size which nobody holds",
        changes=rewrite(f"{_VERDICT}:_conversion", value("other"), to="[]"),
    ),
    _fault(
        name="absent_figures_not_compared",
        what="A figure that was accepted and is no longer measured is passed over.",
        source="a porter's slip: a check that is made only where both figures are there",
        changes=rewrite(f"{_VERDICT}:_conversion", value("lost"), to="(set(), it[1])"),
    ),
    _fault(
        name="drift_in_one_direction",
        what="Only what got worse counts as drift.",
        source="a porter's slip: regression taken for `the loss went up`, where a lower one is as suspicious",
        changes=rewrite(
            f"{_DRIFT}:drift", assignment("change"), to="it\nchange = [max(0.0, one) for one in change]"
        ),
    ),
    _fault(
        name="mean_for_root_mean_square",
        what="Drift is the mean of the changes, in which changes of opposite sign cancel.",
        source="gates that compare one average perplexity with another",
        changes=rewrite("mxcheck.gate.statistics:rms", returned(), to="abs(fmean(values))"),
    ),
    _fault(
        name="maximum_not_checked",
        what="The largest change of a sequence has no bound.",
        source="a porter's slip: the second half of a condition",
        changes=rewrite(f"{_DRIFT}:Drift.within", comparison("max"), to="True"),
    ),
    _fault(
        name="nan_passes",
        what="A drift that is no number is within its bounds.",
        source="a porter's slip: `fail if x > bound` is false for NaN",
        changes=rewrite(
            f"{_DRIFT}:Drift.within",
            returned(),
            to="not (self.median > self.median_bound or self.rms > self.rms_bound"
            " or self.max > self.max_bound)",
        ),
    ),
    _fault(
        name="nan_within_bounds",
        what="A KL divergence that is no number is within its bound.",
        source="a porter's slip: `fail if x > bound` is false for NaN",
        changes=rewrite(f"{_VERDICT}:_bounds", comparison("bounds"), to="not record.kl > bounds.kl"),
    ),
    _fault(
        name="always_another_machine",
        what="No machine counts as one with the baseline's arithmetic: the wide tolerance holds.",
        source="a porter's slip: a comparison of the whole environment, in which something always differs",
        changes=rewrite(
            f"{_DRIFT}:same_arithmetic", comparison("arithmetic"), to="record.arithmetic is None"
        ),
    ),
    _fault(
        name="bounds_ten_times",
        what="The KL divergence is compared with ten times its bound.",
        source="a porter's slip: percent and per mille",
        changes=rewrite(f"{_VERDICT}:_bounds", comparison("bounds"), to="record.kl <= 10 * bounds.kl"),
    ),
    _fault(
        name="bounds_of_another_tier",
        what="Tier A has the bound of tier B, which quantizes more.",
        source="a porter's slip: the last column of the table for every row",
        changes=rewrite(
            "mxcheck.gate.bounds_tables:_of",
            value("plain"),
            mention("bounds_key"),
            to="it.replace('-A', '-B')",
        ),
    ),
    _fault(
        name="rise_without_its_error",
        what="The rise of the loss is compared with its bound without its sampling error.",
        source="evaluation harnesses that report a mean alone",
        changes=rewrite(f"{_VERDICT}:rise", returned(), operation("+"), to="mean"),
    ),
    _fault(
        name="rise_by_its_lower_bound",
        what="The lower bound of the rise is compared with the bound, not the upper.",
        source="a porter's slip: a hypothesis test with its hypotheses swapped, red only if surely too large",
        changes=rewrite(f"{_VERDICT}:rise", returned(), operation("+"), to="mean - UPPER_95 * error"),
    ),
    _fault(
        name="fingerprints_not_compared",
        what="Fingerprints of weights, tokenizer and tokens are recorded and not compared.",
        source="run logs that hold a hash which nobody reads",
        changes=rewrite(f"{_VERDICT}:judge", call("fingerprints"), to="()"),
    ),
    _fault(
        name="fingerprint_of_the_first_tensor",
        what="The weights' fingerprint covers the first tensor alone.",
        source="a porter's slip: a return inside the loop, or a hash of a file's first bytes to save time",
        changes=rewrite("mxcheck.models.zoo.load:weights_fingerprint", call("sorted"), to="it[:1]"),
    ),
    _fault(
        name="digests_of_the_first_module",
        what="Casts are digested in the first module alone.",
        source="a porter's slip: one module taken to stand for all",
        changes=rewrite(
            "mxcheck.models.conversion.probe:digests", call("_of_weights"), loop(), to="list(it)[:1]"
        ),
    ),
    _fault(
        name="digests_in_common",
        what="Only modules that have a digest in both records are compared.",
        source="a porter's slip: the keys of both dictionaries taken as their intersection",
        changes=rewrite(
            "mxcheck.gate.held_casts:casts_held",
            operation("|"),
            to="record.digests.keys() & baseline.digests.keys()",
        ),
    ),
    _fault(
        name="lost_modules_not_reported",
        what="Modules that are no longer quantized pass.",
        source="a porter's slip: only what is new is looked at",
        changes=rewrite(f"{_VERDICT}:_modules", value("lost"), to="[]"),
    ),
    _fault(
        name="nothing_quantized_passes",
        what="A result that is bit-equal to the reference passes, whatever the recipe was to change.",
        source="a conversion that does nothing looks perfect in every other figure",
        changes=rewrite(f"{_VERDICT}:_bits", value("passed"), to="record.changes_bits or it"),
    ),
    _fault(
        name="one_passed_check_will_do",
        what="A case passes if any of its checks does.",
        source="a porter's slip: any() for all()",
        changes=rewrite(
            f"{_VERDICT}:Verdict.passed", returned(), to="any(check.passed for check in self.checks)"
        ),
    ),
    _fault(
        name="update_accepts_broken_bounds",
        what="An update stores what breaks its bound.",
        source="snapshot tools accept whatever they are given",
        changes=rewrite(f"{_DECISION}:decide", mention("acceptable"), to="True"),
    ),
    _fault(
        name="update_in_place_of_comparison",
        what="Every run updates: what changed is stored, and the case is green.",
        source="a porter's slip: an update option left on in a script",
        changes=rewrite(f"{_DECISION}:decide", value("updating"), to="True"),
    ),
    _fault(
        name="results_of_another_model",
        what="The resident model is measured, whichever was asked for.",
        source="a porter's slip: a cache without its key; results of one model stored under another's name",
        changes=rewrite(
            "mxcheck.measure.model_session:ModelSession.resident",
            condition("_resident"),
            comparison("label"),
            to="True",
        ),
    ),
    _fault(
        name="baseline_of_another_model",
        what="The baselines of one model serve all of them.",
        source="a porter's slip: a path that lacks the model's name",
        changes=rewrite(
            "mxcheck.gate.baseline:baseline_paths",
            value("common"),
            to='root / "ref-llama" / case.baseline.name',
        ),
    ),
    _fault(
        name="seal_not_checked",
        what="A baseline that was changed by hand is read like any other.",
        source="a porter's slip: the seal is looked for and not compared",
        changes=rewrite("mxcheck.gate.baseline:unseal", condition("seal"), to="seal is None"),
    ),
    _fault(
        name="figures_rounded_in_the_file",
        what="Figures are stored with six decimals.",
        source="a porter's slip: files made pretty; half of the last digit is 500 times the exact tolerance",
        changes=rewrite(
            "mxcheck.gate.baseline:encode",
            call("as_dict"),
            to="json.loads(json.dumps(it), parse_float=lambda text: round(float(text), 6))",
        ),
    ),
    _fault(
        name="noise_of_the_quietest_environment",
        what="Of the environments that were tried the one with the least noise is stored.",
        source="a porter's slip: min() for max(); the one of this group that makes the gate stricter",
        changes=rewrite("mxcheck.gate.noise:worst", value("figures"), mention("max"), to="min"),
    ),
    _fault(
        name="other_bits_taken_for_noise",
        what="An environment in which the casts gave other bits counts as noise, which widens the tolerance.",
        source="a porter's slip: a failure of what is measured, averaged into the measurement",
        changes=rewrite("mxcheck.gate.noise:worst", condition("digests"), to="False"),
    ),
    _fault(
        name="broken_library_skipped",
        what="A precision that was accepted here and cannot run any more is skipped.",
        source="importorskip: a library that broke passes for one that was never there",
        changes=rewrite("mxcheck.measure.case_run:run_case", condition("_accepted_here"), to="it and False"),
        survives="no library breaks while the suites run; tests/plugin/test_cases_fail_alone.py breaks one",
    ),
)
