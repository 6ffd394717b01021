"""Connect to a Ray cluster or start one, and check its nodes before anything runs. Only this module and
`ray_run` import Ray, and they are imported where a run needs it."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mxcheck.distributed import ray_task
from mxcheck.distributed.demand import Demand
from mxcheck.files.printed import one_line

#: Seconds within which an address must answer, and a node must start a worker.
_ANSWER, _START = 10.0, 120.0
#: Maximum characters of a Ray error that are shown.
_LONGEST = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A living node: its id, a name for people, and its resources in Ray's units."""

    id: str
    name: str
    resources: Mapping[str, float]


def in_short(error: Exception) -> str:
    """Shorten an error of Ray's to a line: it prints the task's tracebacks, and pages of advice."""
    words = repr(error.cause) if isinstance(error, RayTaskError) else str(error)
    return one_line(words, _LONGEST) or type(error).__name__


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect this process as a driver to the cluster at `address`: `HOST:PORT`, `auto` for a cluster on this
    machine, `local` for a new single-node cluster for the duration of the run. Raises ValueError, in one
    line, where there is none."""
    own = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL, **own)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        raise ValueError(f"--ray {address}: {in_short(error)}") from error
    # Tasks are sent by value: a node without mxcheck must be able to report that.
    ray.cloudpickle.register_pickle_by_value(ray_task)
    try:
        yield
    finally:
        ray.shutdown()


def check_address(address: str) -> None:
    """Raise ValueError where `connected` could not reach the address: Ray tries for a minute, then prints
    pages."""
    if address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "//" in address:
        there = "; that is a path: write it before --ray" if Path(address).exists() else ""
        raise ValueError(
            f"--ray {address}: an address is HOST:PORT of the cluster's head (as `ray start --head` prints "
            f"it; the port is usually 6379), auto or local{there}"
        )
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER).close()
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"--ray {address}: nothing answers there ({error}); start a cluster with `ray start --head`, or "
            f"give --ray local for one of this machine"
        ) from error


def alive() -> dict[str, Node]:
    """Return the living nodes, by id."""
    return {
        node["NodeID"]: Node(id=node["NodeID"], name=_name(node), resources=node["Resources"])
        for node in ray.nodes()
        if node["Alive"]
    }


def _name(node: Mapping[str, str]) -> str:
    """Return the name given by `ray start --node-name`, and the address, which nodes of one machine share."""
    address = node["NodeManagerAddress"]
    name = node.get("NodeName") or address
    return f"{name} ({node['NodeID'][:8] if name == address else address})"


def check_nodes(nodes: Iterable[Node], demands: Iterable[Demand], *, directory: str, version: str) -> None:
    """Ask every node that may get a task whether it could run it. Raises ValueError, naming the first that
    cannot."""
    wanted = list(demands)
    ask = ray.remote(num_cpus=0, max_retries=0)(ray_task.complaint)
    asked = {
        ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node.id, soft=False)).remote(
            directory, version
        ): node
        for node in nodes
        if any(one.fits(node.resources) for one in wanted)
    }
    for reference, node in asked.items():
        try:
            words = ray.get(reference, timeout=_START)
        except GetTimeoutError:
            words = f"starts no worker within {_START:g} s; see `ray status`"
        except RayError as error:
            words = f"cannot run a task: {in_short(error)}"
        if words:
            raise ValueError(f"node {node.name} {words}")
