"""The shards that came back, as files for the merge; and what stands for one that did not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mxcheck.gate.baseline import write_text
from mxcheck.reporting.shards import ShardRun, encode, file_name, read

if TYPE_CHECKING:
    from mxcheck.engines.ray_run import Outcome


def write_shards(folder: Path, outcomes: Sequence[Outcome], selected: Mapping[str, Sequence[str]]) -> bool:
    """Write each outcome's shard. `selected` are the ids of each model's selected cases.

    A lost one is written as the driver saw it: each selected case is red and says what became of the task, so
    that the others still have their table. Returns False where every one is lost, and then writes none.
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
        if one.text is None:
            lost = _lost(one, selected[one.model], like)
            write_text(folder / file_name(one.shard, count), encode(lost))
    return True


def _lost(outcome: Outcome, selected: Sequence[str], like: ShardRun) -> ShardRun:
    reason = f"no result: {outcome.trouble.partition(chr(10))[0]}"
    return replace(
        like,
        index=outcome.shard,
        part=tuple(case.id for case in like.cases if case.model == outcome.model),
        selected=tuple(selected),
        rows=tuple({"id": name, "verdict": "CRASH", "reason": reason} for name in selected),
        messages={name: f"{name}: {reason}" for name in selected},
        failures={},
        # A shard of which nothing is selected is lost all the same.
        exit_status=1,
    )
