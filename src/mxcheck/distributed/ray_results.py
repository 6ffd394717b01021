"""Write the returned shards as files for the merge, and substitutes for lost ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mxcheck.distributed.shard_file import ShardRun, encode, file_name, read
from mxcheck.files.write import write_text
from mxcheck.gate import result

if TYPE_CHECKING:
    from mxcheck.distributed.ray_run import Outcome


def write_shards(folder: Path, outcomes: Sequence[Outcome], selected: Mapping[str, Sequence[str]]) -> bool:
    """Write each outcome's shard. `selected` are the ids of each model's selected cases.

    A lost shard is written from the driver's view: each selected case is red with the task's outcome as
    message, so that the other models still have their table. So is a shard with other selected cases than the
    driver's, for example because its workers died before collection. Returns False, and writes nothing, where
    no shard came back.
    """
    folder.mkdir(parents=True, exist_ok=True)
    count = len(outcomes)
    there = [one for one in outcomes if one.text is not None]
    for one in outcomes:
        if one.text is not None:
            write_text(folder / file_name(one.shard, count), one.text)
    if not there:
        return False
    like = read(folder / file_name(there[0].shard, count))
    for one in outcomes:
        path, wanted = folder / file_name(one.shard, count), selected[one.model]
        if one.text is None:
            write_text(path, encode(_lost(one, wanted, like, why=one.trouble.partition("\n")[0])))
        elif set((found := read(path)).selected) != set(wanted):
            why = f"node {one.node} selected {len(found.selected)} cases, and the driver {len(wanted)}"
            lost = _lost(one, wanted, found, why=why)
            write_text(path, encode(replace(lost, failures=found.failures)))  # they may explain it
    return True


def _lost(outcome: Outcome, selected: Sequence[str], like: ShardRun, *, why: str) -> ShardRun:
    reason = f"no result: {why}"
    return replace(
        like,
        index=outcome.shard,
        part=tuple(case.id for case in like.cases if case.model == outcome.model),
        selected=tuple(selected),
        results=tuple(
            result.CaseResult(case=case, outcome=result.Outcome.CRASHED, reason=reason)
            for case in like.cases
            if case.id in selected
        ),
        messages={name: f"{name}: {reason}" for name in selected},
        failures={},
        # A shard without selected cases counts as lost too.
        exit_status=1,
    )
