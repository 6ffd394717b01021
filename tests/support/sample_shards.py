"""The shards of a small run: two models, a case and a skipped one each. What a test changes about them."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sample_record import build_record

from mxcheck.distributed.shard_file import Basis, ShardRun, encode, file_name
from mxcheck.gate.bounds_tables import Bounds
from mxcheck.gate.case import Case
from mxcheck.gate.drift import Drift
from mxcheck.gate.result import CaseResult, Outcome
from mxcheck.gate.verdict import Check

BASIS = Basis(
    mxcheck="0.1.0",
    commit="c" * 40,
    changes="",
    sources="5" * 16,
    baselines="b" * 16,
    selection="",
    arguments="tests/models",
    options="kernel eager",
    run="",
)
CASES = tuple(
    Case(model=model, precision=precision, tier=tier)
    for model in ("ref-llama", "ref-neo")
    for precision, tier in (("fp8_e4m3", "B"), ("te_mxfp8", "B"))
)


FAILURE = Check(step=4, key="cast codes", passed=False, message="bits")


def build_result(case: Case) -> CaseResult:
    if case.precision == "te_mxfp8":
        return CaseResult(case=case, outcome=Outcome.SKIPPED, reason="no Transformer Engine here")
    return CaseResult(
        case=case,
        outcome=Outcome.PASSED,
        record=build_record(model=case.model, precision=case.precision, tier=case.tier),
        bounds=Bounds(kl=0.004, rise=0.01),
        drift=Drift(
            **dict.fromkeys(("median", "rms", "max", "median_bound", "rms_bound", "max_bound"), 1e-4)
        ),
    )


def build_shard(index: int, **changes: Any) -> ShardRun:
    """The first or the second of two shards, all green."""
    part = CASES[:2] if index == 1 else CASES[2:]
    names = tuple(case.id for case in part)
    shard = ShardRun(
        index=index,
        count=2,
        basis=BASIS,
        cases=CASES,
        part=names,
        selected=names,
        results=tuple(map(build_result, part)),
        messages={},
        failures={},
        exit_status=0,
    )
    return replace(shard, **changes)


def red_shard(index: int, **changes: Any) -> ShardRun:
    """The same with its first case red."""
    shard = build_shard(index)
    name = shard.selected[0]
    first, *others = shard.results
    results = (replace(first, outcome=Outcome.FAILED, failures=(FAILURE,)), *others)
    messages = {name: f"{name}: step 4 (casts): bits"}
    return replace(shard, results=results, messages=messages, exit_status=1, **changes)


def put(folder: Path, *shards: ShardRun) -> list[Path]:
    """Write each as CI unpacks it: into a folder of its own."""
    paths = []
    for number, shard in enumerate(shards):
        path = folder / f"artefact-{number}" / file_name(shard.index, shard.count)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(encode(shard), encoding="utf-8")
        paths.append(path)
    return paths


def other_basis(**changes: str) -> Basis:
    return Basis(**{**asdict(BASIS), **changes})
