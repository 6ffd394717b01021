"""`mxcheck run --ray`: run the model suite on a Ray cluster, with one task for each model."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from contextlib import closing, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mxcheck.cli.merge_command import merge_and_show
from mxcheck.cli.progress_lines import progress_bar
from mxcheck.extras import install
from mxcheck.kernels.device_choice import DEVICES
from mxcheck.models.zoo.cards import DEVICE_BYTES, GIB
from mxcheck.reporting.screen import Screen, say

if TYPE_CHECKING:
    from mxcheck.distributed.ray_run import Outcome
    from mxcheck.distributed.run_plan import Plan


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "run",
        allow_abbrev=False,
        help="run the model suite on a Ray cluster; other arguments go to pytest, such as -k mxfp8_e4m3",
        description="Run each model as a Ray task with the resources that it needs; repeat it if its node or "
        "process is lost; join the shards as `mxcheck merge` does. Arguments that are not listed "
        "here go to pytest. Exit code 0 if everything is green, 1 if anything is red, 2 for bad input.",
    )
    command.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="HOST:PORT of the cluster's head, auto, or local (default: RAY_ADDRESS, else local: a cluster "
        "of this machine, for this run)",
    )
    command.add_argument(
        "--device-gib",
        type=float,
        default=DEVICE_BYTES / GIB,
        metavar="GIB",
        help=f"memory of a GPU, which determines how many a model needs (default: "
        f"{DEVICE_BYTES / GIB:g}, what a GPU of 80 GB has for tensors)",
    )
    command.add_argument("--mx-device", choices=DEVICES, help="auto: GPUs if the cluster has any")
    # Parsed in order to be refused.
    command.add_argument("-n", "--numprocesses", help=argparse.SUPPRESS)
    command.set_defaults(run=_run, passes_on=True)


def _run(options: argparse.Namespace) -> int:
    if options.ray is None:
        raise ValueError(
            "mxcheck run spreads models over a Ray cluster: add --ray [ADDRESS]; on one machine use pytest "
            "(pytest --pyargs mxcheck.suite.models -n 8)"
        )
    if options.numprocesses is not None:
        raise ValueError(
            "-n: a task is one model and has one worker, and Ray says how many run at once; leave it out"
        )
    if not options.device_gib > 0:
        raise ValueError(f"--device-gib must be a number of GiB above 0, got {options.device_gib:g}")
    _import_ray()
    from mxcheck.distributed.collect_plan import plan_run
    from mxcheck.distributed.ray_cluster import check_address

    address = options.ray or os.environ.get("RAY_ADDRESS") or "local"
    check_address(address)
    try:
        words, plan = plan_run(options.pytest)
    except KeyboardInterrupt:
        return _stopped()
    _check(plan)
    with tempfile.TemporaryDirectory(prefix="mxcheck-ray-") as temporary:
        folder = Path(plan.report or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        _check_folder(folder)
        try:
            # Ray prints pages of its own state to the driver's standard output where a node is lost.
            with (folder / "ray.log").open("w", encoding="utf-8") as log, redirect_stdout(log):
                outcomes = _over_ray(address, plan, words, options, folder)
        except KeyboardInterrupt:
            return _stopped("; the tasks are cancelled")
        return _judge(plan, outcomes, folder, keep=bool(plan.report))


def _stopped(more: str = "") -> int:
    say(f"mxcheck: stopped{more}", error=True)
    return 130


def _import_ray() -> None:
    """Raise ValueError where Ray is not installed. Sets the variables that it reads at import first."""
    # Disable Ray's usage reports; and under `uv run` Ray would send this directory to the nodes, replacing
    # their own.
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    # By default, Ray retries tasks that it killed for want of memory without limit.
    os.environ.setdefault("RAY_task_oom_retries", "3")
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise ValueError(f"--ray needs Ray ({error}): {install('ray')}") from error


def _check(plan: Plan) -> None:
    if plan.updates:
        raise ValueError(
            "--snapshot-update: baselines are not accepted through Ray, as its nodes may write to checkouts "
            "of their own; accept on one machine, or by --mx-shard on a shared file system"
        )
    if plan.shard:
        raise ValueError(
            f"--mx-shard={plan.shard}: a run on Ray makes its own shards, one a model; leave it out"
        )


def _check_folder(folder: Path) -> None:
    """Refuse a folder with other shards in subfolders, where the merge would find them."""
    from mxcheck.distributed.shard_file import find

    for path in find(folder):
        if path.parent != folder:
            raise ValueError(f"--mx-report={folder}: there is a shard of another run, {path}; remove it")


def _clear(folder: Path) -> None:
    """Remove an earlier run's files, which would be merged with this run's, or stand for it if it dies."""
    from mxcheck.distributed.shard_file import find

    for path in (*find(folder), folder / "accuracy.json"):
        path.unlink(missing_ok=True)


def _over_ray(
    address: str, plan: Plan, words: Sequence[str], options: argparse.Namespace, folder: Path
) -> list[Outcome]:
    from mxcheck import __version__
    from mxcheck.distributed.demand import check_feasible, demand
    from mxcheck.distributed.ray_cluster import alive, check_nodes, connected
    from mxcheck.distributed.ray_run import run_models

    device = options.mx_device or plan.device
    screen = Screen(stderr=True, soft_wrap=True)
    with connected(address):
        nodes = alive()
        on_gpus = device != "cpu" and any(node.resources.get("GPU") for node in nodes.values())
        if device == "cuda" and not on_gpus:
            raise ValueError(
                "--mx-device=cuda: the cluster has no GPU; start its nodes with --num-gpus, or use cpu"
            )
        device_bytes = int(options.device_gib * GIB)
        demands = {one.label: demand(one, on_gpus=on_gpus, device_bytes=device_bytes) for one in plan.models}
        check_feasible(demands, [node.resources for node in nodes.values()])
        directory = str(Path.cwd())
        check_nodes(nodes.values(), demands.values(), directory=directory, version=__version__)
        _clear(folder)
        for model in plan.models:
            cases = f"{len(model.cases)} case{'' if len(model.cases) == 1 else 's'}"
            screen.print(f"mxcheck: {model.label}: {cases}, {demands[model.label]}")
        tasks = run_models(
            plan.models,
            demands,
            # Never auto: a task with GPUs must not run without them, nor one without GPUs on one.
            arguments=lambda model: [*words, f"--mx-device={'cuda' if demands[model.label].gpus else 'cpu'}"],
            say=lambda line: screen.print(f"mxcheck: {line}"),
            directory=directory,
            version=__version__,
        )
        outcomes = []
        with progress_bar(screen, "models") as progress, closing(tasks):
            for outcome in tasks:
                outcomes.append(outcome)
                how = f"{outcome.seconds:.1f} s on node {outcome.node}" if outcome.text else "no result"
                progress(f"{outcome.model}: {how}", len(outcomes), len(plan.models))
    return outcomes


def _judge(plan: Plan, outcomes: Sequence[Outcome], folder: Path, *, keep: bool) -> int:
    """Write and merge the shards, and print what an undivided run would; also write rows to the report
    folder."""
    from mxcheck.distributed.ray_results import write_shards

    for outcome in outcomes:
        if outcome.trouble:
            say(f"mxcheck: {outcome.model}: {outcome.trouble}", error=True)
    if not write_shards(folder, outcomes, {model.label: model.cases for model in plan.models}):
        say("mxcheck: red: no model has a result", error=True)
        return 1
    return merge_and_show(folder, summary=None, rows=folder / "accuracy.json" if keep else None)
