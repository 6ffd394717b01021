"""The orderings of accepted baselines, through the real pytest: what is asserted, of whom, how it fails."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from gate_project import Project

from mxcheck.files.write import write_text
from mxcheck.gate.baseline import encode, read
from mxcheck.gate.record import Record

LLAMA = ("-k", "test_ordering", "--mx-models", "ref-llama")


def swap(project: Project, lower: str, higher: str) -> None:
    """Give two accepted records each other's KLs, sealed as an update would: a merge of wrong files, or a
    fault that was accepted."""
    paths = [project.baselines / f"{name}.json" for name in (lower, higher)]
    one, other = map(read, paths)
    for path, record, figures in zip(paths, (one, other), (other, one), strict=True):
        write_text(path, encode(with_distances(record, figures)))


def with_distances(record: Record, other: Record) -> Record:
    """A record with another's KLs, and with the figures that a KL must agree with."""
    names = ("kl", "sequence_kl", "predictions", "entropy", "top1_agreement")
    return replace(record, **{name: getattr(other, name) for name in names})


def failures(output: str) -> set[str]:
    return set(re.findall(r"^FAILED \S*::(\S+)", output, re.MULTILINE))


def test_what_is_committed_is_in_order(accepted: Project) -> None:
    run = accepted.gate("-k", "test_ordering", "-n", "2", "-rs")
    assert run.code == 0, run.output
    assert "205 passed" in run.output
    assert "skipped" not in run.output


def test_swapped_steps_are_red(accepted: Project) -> None:
    finer, coarser = (
        read(accepted.baselines / f"ref-llama/{name}-B.json").kl for name in ("mxfp8_e4m3", "mxfp6_e3m2")
    )
    assert finer is not None
    assert coarser is not None
    swap(accepted, "ref-llama/mxfp6_e3m2-B", "ref-llama/mxfp8_e4m3-B")
    run = accepted.gate(*LLAMA)
    assert run.code == 1
    names = failures(run.output)
    assert "test_ordering[ref-llama-mxfp8_e4m3-B-below-mxfp6_e3m2-B]" in names
    assert all("mxfp8_e4m3-B" in name or "mxfp6_e3m2-B" in name for name in names)
    (line,) = re.findall(r"^ref-llama-mxfp8_e4m3-B-below-mxfp6_e3m2-B: (.*)$", run.output, re.MULTILINE)
    assert line == "reversed, expected: holds (fewer significant bits, more damage)"
    assert f"KL {finer / coarser:.3g} times as large, paired difference {finer - coarser:+.3g}" in run.output
    assert "baselines: ref-llama/mxfp8_e4m3-B.json, ref-llama/mxfp6_e3m2-B.json" in run.output


def test_an_exception_that_vanishes_is_red(accepted: Project) -> None:
    swap(accepted, "ref-llama/mxfp4_e3m0-A", "ref-llama/mxfp4_e3m0-B")
    run = accepted.gate(*LLAMA)
    assert run.code == 1
    assert "test_ordering_exception[ref-llama-mxfp4_e3m0-A-below-mxfp4_e3m0-B]" in failures(run.output)
    assert "holds, expected: reversed (under floor fp4_e3m0 shrinks what it casts" in run.output
    assert "this model is listed as an exception" in run.output


def test_a_step_that_equals_another_is_red(accepted: Project) -> None:
    """Not reversed, but no longer shown: one file's figures under two names."""
    here = accepted.baselines / "ref-neo"
    e4m3, e5m2 = (read(here / f"{name}-A.json") for name in ("mxfp8_e4m3", "mxfp8_e5m2"))
    write_text(here / "mxfp8_e4m3-A.json", encode(with_distances(e4m3, e5m2)))
    run = accepted.gate("-k", "test_ordering and mxfp8_e4m3-A-below-mxfp8_e5m2-A", "--mx-models", "ref-neo")
    assert run.code == 1
    assert "ref-neo-mxfp8_e4m3-A-below-mxfp8_e5m2-A: undecided, expected: holds" in run.output


def test_an_unsealed_baseline_is_red(accepted: Project) -> None:
    path = accepted.baselines / "ref-llama" / "mixed-D.json"
    path.write_text(path.read_text().replace('"kl": ', '"kl": 1'))
    run = accepted.gate(*LLAMA, "-k", "test_ordering and mixed-C-below-mixed-D")
    assert run.code == 1
    assert "was changed by hand or by a merge" in run.output


def test_a_missing_baseline_is_a_skip_with_the_reason(accepted: Project) -> None:
    (accepted.baselines / "ref-llama" / "mixed-D.json").unlink()
    run = accepted.gate(*LLAMA, "-k", "test_ordering and mixed-C", "-rs")
    assert run.code == 0, run.output
    assert "3 passed, 1 skipped" in run.output
    assert re.search(r"SKIPPED .*no accepted baseline \S*baselines/ref-llama/mixed-D\.json", run.output)


@pytest.mark.parametrize("option", ["--snapshot-update", "--snapshot-update-new-only"])
def test_a_run_that_accepts_says_nothing_of_orders(accepted: Project, option: str) -> None:
    before = accepted.files()
    run = accepted.gate(*LLAMA, option, "-rs")
    assert run.code == 0, run.output
    assert "41 skipped" in run.output
    assert "this run accepts baselines" in run.output
    assert accepted.files() == before


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        ((), 5 * 41),
        (("-k", "ref-llama"), 41),
        (("-m", "ref-moe"), 41),
        (("--mx-models", "ref-neo,outlier-llama"), 2 * 41),
        (("--mx-models", "ref-neo", "--mx-precision", "mxfp8_e4m3"), 1),
        (("--mx-models", "ref-neo", "--mx-precision", "mxfp8_e4m3,mxfp4_e2m1,mixed", "--mx-tier", "C,B"), 6),
        (("--mx-models", "ref-neo", "--mx-precision", "mxfp8_e4m3", "--mx-global", "bf16"), 1),
        # Other cases than those that showed them, and other people's models: none, not even a skip.
        (("--mx-max-samples", "16"), 0),
        (("--mx-scale-rule", "rceil", "--mx-precision", "mxfp8_e4m3,bf16_operands"), 0),
        (("--mx-models", "some/model"), 0),
        (("--mx-models", "ref-llama", "--mx-precision", "fp32"), 0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_who_is_asked(project: Project, arguments: tuple[str, ...], count: int) -> None:
    run = project.gate("--collect-only", "-q", *arguments)
    assert run.code == 0, run.output
    assert len(re.findall(r"::test_ordering(?:_exception)?\[", run.output)) == count
