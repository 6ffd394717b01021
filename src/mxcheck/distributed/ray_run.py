"""The tasks of a run on a Ray cluster, one for each model, each with its demand on one node."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError, TaskCancelledError

from mxcheck.distributed import ray_task
from mxcheck.distributed.demand import Demand
from mxcheck.distributed.ray_cluster import Node, alive, in_short
from mxcheck.distributed.run_plan import PlannedModel

#: Maximum retries of a task whose node or process was lost. A red case is a result and is not retried.
RETRIES = 3
#: Seconds that a task waits for a suitable node after the last one was lost.
PATIENCE = 60.0
#: Seconds between polls of the nodes, and the time limit for cancelled tasks.
_LOOK, _CANCEL = 1.0, 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The outcome of a model's task: the text of its shard, or why there is none."""

    model: str
    shard: int
    node: str
    seconds: float
    text: str | None
    trouble: str


def run_models(
    models: Sequence[PlannedModel],
    demands: Mapping[str, Demand],
    *,
    arguments: Callable[[PlannedModel], list[str]],
    directory: str,
    version: str,
    say: Callable[[str], None],
    patience: float = PATIENCE,
) -> Generator[Outcome]:
    """Run each model's shard on some node and yield the outcomes as they end. `say` receives messages on lost
    nodes.

    Ray detects a lost node or worker process, and the task is retried, at most RETRIES times. Closing the
    generator early cancels the running tasks.
    """
    settings = {"max_retries": RETRIES, "retry_exceptions": False, "scheduling_strategy": "SPREAD"}
    send = ray.remote(**settings)(ray_task.run_shard)
    left: dict[Any, PlannedModel] = {
        send.options(
            num_cpus=demands[model.label].cpus,
            num_gpus=demands[model.label].gpus,
            memory=demands[model.label].memory or None,
            name=f"mxcheck {model.label}",
        ).remote(directory, version, arguments(model), len(models), model.shard): model
        for model in models  # costliest first
    }
    nodes = alive()
    known = dict(nodes)  # a result may come from a node that is now lost
    homeless: dict[Any, float] = {}  # the time since which no node could run it
    try:
        while left:
            ended, _ = ray.wait(list(left), num_returns=1, timeout=_LOOK)
            there = alive()
            known |= there
            for lost in nodes.keys() - there.keys():
                say(f"lost node {known[lost].name}: what it ran is tried again elsewhere")
            nodes = there
            for reference in ended:
                yield _outcome(reference, left.pop(reference), known)
            for reference, model in list(left.items()):
                if any(demands[model.label].fits(node.resources) for node in there.values()):
                    homeless.pop(reference, None)
                elif time.monotonic() - homeless.setdefault(reference, time.monotonic()) >= patience:
                    del left[reference]
                    ray.cancel(reference, force=True)
                    wanted = demands[model.label]
                    yield _failed(model, "", f"it needs {wanted} on one node, and no node left has that")
    finally:
        for reference in left:
            ray.cancel(reference)
        if left:
            ray.wait(list(left), num_returns=len(left), timeout=_CANCEL)


def _outcome(reference: Any, model: PlannedModel, known: Mapping[str, Node]) -> Outcome:
    try:
        found = ray.get(reference)
    except TaskCancelledError:
        return _failed(model, "", "its task was cancelled from outside this run")
    except RayTaskError as error:  # raised on the node, as by a full disk, and not retried
        return _failed(model, "", f"its task raised an error: {in_short(error)}")
    except RayError as error:
        return _failed(
            model, "", f"its task ended without a result, after {RETRIES} retries: {in_short(error)}"
        )
    node = known[found["node"]].name if found["node"] in known else found["node"]
    if found["complaint"]:
        return _failed(model, node, f"node {node} {found['complaint']}")
    if found["shard"] is None:
        how = f"exit code {found['code']}" if found["code"] >= 0 else f"signal {-found['code']}"
        why = f"pytest ended with {how} on node {node} and wrote no results"
        return _failed(model, node, f"{why}:\n{found['tail']}")
    return Outcome(
        model=model.label,
        shard=model.shard,
        node=node,
        seconds=found["seconds"],
        text=found["shard"],
        trouble="",
    )


def _failed(model: PlannedModel, node: str, why: str) -> Outcome:
    return Outcome(model=model.label, shard=model.shard, node=node, seconds=0.0, text=None, trouble=why)
