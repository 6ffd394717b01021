"""How long a run takes on a simulated host, beside the least that it could take.

Our scheduler, xdist's `load` and `worksteal` run in turns: 60 cases of 12 models, two of which need two
devices, on four devices. The runs are real (pytest, xdist, the ledger); cases sleep. The lower bound has
every device busy all the time and every model loaded once.

    python tools/benchmark_scheduling.py [--rounds 5] [--scale 0.8]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from simulated_host import Host, Memory, draw_models

#: Name, and the words of each run that is started at once.
SETUPS: dict[str, list[list[str]]] = {
    "mxcheck, 4 workers": [["-n", "4"]],
    "load, 4 workers": [["-n", "4", "--dist", "load"]],
    "worksteal, 4 workers": [["-n", "4", "--dist", "worksteal"]],
    "mxcheck, 8 workers": [["-n", "8"]],
    "mxcheck, two runs of 4 at once": [["-n", "4"], ["-n", "4", "--results", "second.json"]],
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=0.8, help="a case's mean seconds")
    options = parser.parse_args()
    ratios: dict[str, list[float]] = {name: [] for name in SETUPS}
    over = 0
    for seed in track(range(options.rounds), description="rounds"):
        models = draw_models(seed, count=12, cases=5, wide=2, scale=options.scale)
        for name, runs in SETUPS.items():
            with tempfile.TemporaryDirectory() as folder:
                host = Host(folder=Path(folder), models=models, devices=4).write()
                processes = [host.start(*words) for words in runs]
                for process in processes:
                    finish(process)
                ratios[name].append(host.makespan / (host.seconds * len(runs)))
                over += len(Memory(host.folder, host).oversubscribed)
    table = Table("", "makespan / lower bound (median)", "least", "most", box=None)
    for name, values in ratios.items():
        table.add_row(
            name, *[f"{figure:.3f}" for figure in (statistics.median(values), min(values), max(values))]
        )
    console = Console()
    console.print(table)
    console.print(f"{options.rounds} rounds; devices oversubscribed: {over}")


def finish(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(output)


if __name__ == "__main__":
    main()
