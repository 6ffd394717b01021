"""The model suite in pytest's surroundings: plugins that people have, options that they give, folders that
cannot be written to. What is green alone must be green there, what is red must be red, and nothing may end in
a traceback.

Makes an environment of its own below build/surroundings (each plugin in a folder, put on PYTHONPATH for its
runs), runs every row of the table, of two cases, one of which breaks a bound, and writes
docs/results/surroundings.md. Stopped, it goes on where it was.

    make surroundings
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from mxcheck.distributed.provenance import folder_digest

ROOT = Path(__file__).parents[1]

CASES = ("--mx-models=ref-llama", "--mx-precision=fp32,mxint8", "--mx-tier=B", "--mx-bounds=tight.toml")
SELECTED = "ref-llama-fp32 or ref-llama-mxint8-B]"
TIGHT = "[default]\nfp32 = { kl = 0 }\nmxint8-B = { kl = 1e-12 }\n"
#: A row that takes longer counts as hung.
LIMIT = 900
_RELEASES = ("pytest", "pytest-xdist", "syrupy", "torch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One surrounding.

    Attributes:
        name: as the table shows it.
        words: pytest's, added to the run's own.
        packages: what is installed for it, each with what it needs.
        environment: variables.
        refused: what the one line says where the run is refused, in place of green and red.
        unusable: what the plugin does to any test, where it cannot be used at all.
        symptom: the line that shows it.
        code: pytest's exit code of a run with a red test.
        ini: lines of the project's pytest.ini.
        read_only: the project's folder cannot be written to.
    """

    name: str
    words: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    refused: str = ""
    unusable: str = ""
    symptom: str = ""
    code: int = 1
    ini: str = ""
    read_only: bool = False


ROWS = (
    Row(name="nothing else"),
    Row(name="pytest-cov", words=("--cov=mxcheck", "--cov-report="), packages=("pytest-cov", "coverage")),
    Row(
        name="pytest-cov, two workers",
        words=("--cov=mxcheck", "--cov-report=", "-n", "2"),
        packages=("pytest-cov", "coverage"),
    ),
    Row(name="pytest-timeout", words=("--timeout=800",), packages=("pytest-timeout",)),
    Row(
        name="pytest-timeout by thread, two workers",
        words=("--timeout=800", "--timeout-method=thread", "-n", "2"),
        packages=("pytest-timeout",),
    ),
    Row(name="pytest-randomly", words=("-p", "randomly"), packages=("pytest-randomly",)),
    Row(name="pytest-randomly, two workers", words=("-n", "2"), packages=("pytest-randomly",)),
    Row(name="pytest-rerunfailures", words=("--reruns=1",), packages=("pytest-rerunfailures",)),
    Row(
        name="pytest-rerunfailures, two workers",
        words=("--reruns=1", "-n", "2"),
        packages=("pytest-rerunfailures",),
    ),
    Row(
        name="pytest-repeat",
        words=("--count=2",),
        packages=("pytest-repeat",),
        refused="gives cases names that no baseline has",
    ),
    Row(name="pytest-asyncio", words=("--asyncio-mode=auto",), packages=("pytest-asyncio",)),
    Row(
        name="pytest-html",
        words=("--html=report.html", "--self-contained-html"),
        packages=("pytest-html", "pytest-metadata"),
    ),
    Row(name="pytest-sugar", words=("-n", "2"), packages=("pytest-sugar", "termcolor")),
    Row(
        name="pytest-forked",
        words=("--forked",),
        packages=("pytest-forked", "py"),
        unusable="red: with pytest 9.2, pytest-forked 1.7.5 loses the report of any test",
        symptom="running the test EXITED with status 3",
    ),
    Row(
        name="pytest-snapshot, found before mxcheck",
        words=("-p", "mxcheck"),
        packages=("pytest-snapshot",),
        refused="both define --snapshot-update; leave one out",
    ),
    Row(name="pytest-snapshot, left out", words=("-p", "no:snapshot"), packages=("pytest-snapshot",)),
    Row(name="--lf", words=("--lf",)),
    Row(name="--ff, two workers", words=("--ff", "-n", "2")),
    Row(name="--sw", words=("--sw",), code=2),  # pytest's own, where it stops at a red test
    Row(name="--dist loadfile", words=("-n", "2", "--dist=loadfile")),
    Row(name="--dist worksteal", words=("-n", "2", "--dist=worksteal")),
    Row(name="-p no:cacheprovider", words=("-p", "no:cacheprovider")),
    Row(name="-p no:terminal", words=("-p", "no:terminal")),
    Row(name="-p no:xdist", words=("-p", "no:xdist")),
    Row(
        name="-p no:syrupy",
        words=("-p", "no:syrupy"),
        refused="baselines are stored by pytest's plugin syrupy",
    ),
    Row(name="-p no:logging -s", words=("-p", "no:logging", "-s")),
    Row(name="--import-mode=importlib", words=("--import-mode=importlib",)),
    Row(name="-W error", words=("-W", "error")),
    Row(name="-W error, two workers", words=("-W", "error", "-n", "2")),
    Row(name="filterwarnings = error", ini="filterwarnings = error"),
    Row(name="--strict", words=("--strict",)),
    Row(name="--junitxml, warnings as errors", words=("--junitxml=junit.xml",), ini="filterwarnings = error"),
    Row(name="PYTHONOPTIMIZE=1", environment={"PYTHONOPTIMIZE": "1"}),
    Row(
        name="PYTHONOPTIMIZE=2",
        environment={"PYTHONOPTIMIZE": "2"},
        refused="transformers cannot be imported under python -OO",
    ),
    Row(
        name="PYTHONOPTIMIZE=1 --assert=plain",
        words=("--assert=plain",),
        environment={"PYTHONOPTIMIZE": "1"},
        refused="no assertion is executed",
    ),
    Row(
        name="nothing compiled before, warnings as errors",
        ini="filterwarnings = error",
        environment={"PYTHONPYCACHEPREFIX": "/nonexistent/cache"},
    ),
    Row(name="a checkout that cannot be written to", read_only=True),
    Row(name="the same, two workers", words=("-n", "2"), read_only=True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a run ended."""

    code: int
    output: str
    seconds: float

    def trouble(self, row: Row) -> str:
        """What is not as it should be; empty where nothing is."""
        if row.unusable:
            return self._traceback or ("" if row.symptom in self.output else "another outcome than is known")
        if self.code not in ((2, 4) if row.refused else (row.code,)):
            return f"exit code {self.code}"
        if row.refused:
            return "" if row.refused in self.output else "no line that says why"
        if self._traceback:
            return self._traceback
        if "no:terminal" in row.words:
            return ""
        verdicts = [line.split()[-1] for line in self.output.splitlines() if line.startswith(" ref-llama ")]
        return "" if verdicts == ["pass", "5"] else f"the table says {verdicts}"

    @property
    def _traceback(self) -> str:
        found = any(word in self.output for word in ("INTERNALERROR", "Traceback (most recent call last)"))
        return "a traceback" if found else ""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "surroundings")
    parser.add_argument("--summary", type=Path, default=ROOT / "docs" / "results" / "surroundings.md")
    parser.add_argument(
        "-k", dest="only", default="", help="rows whose name has this in it; writes no summary"
    )
    options = parser.parse_args()
    chosen = [row for row in ROWS if options.only in row.name]
    folder = options.folder.resolve()
    results = {}
    began = time.monotonic()
    for number, row in enumerate(chosen, start=1):
        results[row.name] = outcome = _kept(folder, row)
        spent = time.monotonic() - began
        left = spent / number * (len(chosen) - number)
        print(f"{number}/{len(chosen)} {row.name}: {outcome['word']} ({left / 60:.0f} min left)", flush=True)
    if not options.only:
        options.summary.parent.mkdir(parents=True, exist_ok=True)
        options.summary.write_text(_markdown(chosen, results), encoding="utf-8")
    wrong = [row for row in chosen if results[row.name]["word"] not in ("as alone", "one line", row.unusable)]
    return 1 if wrong else 0


def _kept(folder: Path, row: Row) -> dict[str, str]:
    """The row's outcome, of this run or of one that was stopped and rests on the same."""
    places = [_installed(folder, package) for package in row.packages]
    path = folder / "results" / f"{_file_name(row)}.json"
    identity = _identity(row, places)
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept.get("identity") == identity:
            return dict(kept["outcome"])
    outcome = _try(folder, row, places)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"identity": identity, "outcome": outcome}), encoding="utf-8")
    return outcome


def _file_name(row: Row) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", row.name).strip("-")


def _identity(row: Row, places: Sequence[Path]) -> dict[str, object]:
    """What an outcome rests on: sources, baselines, this file, the row, and releases."""
    return {
        "row": repr(row),
        "tool": sha256(Path(__file__).read_bytes()).hexdigest()[:16],
        "sources": folder_digest(ROOT / "src" / "mxcheck"),
        "baselines": folder_digest(ROOT / "baselines" / "ref-llama"),
        "python": sys.version,
        "releases": [version(name) for name in _RELEASES],
        "plugins": sorted(path.name for place in places for path in place.glob("*.dist-info")),
    }


def _try(folder: Path, row: Row, places: Sequence[Path]) -> dict[str, str]:
    ended = _run(_project(folder, row), row, places)
    (folder / f"{_file_name(row)}.txt").write_text(ended.output, encoding="utf-8")
    word = ended.trouble(row) or row.unusable or ("one line" if row.refused else "as alone")
    return {"word": word, "seconds": f"{ended.seconds:.0f}"}


def _installed(folder: Path, package: str) -> Path:
    place = folder / "plugins" / package
    if not place.is_dir():
        subprocess.run(  # noqa: S603  (pip of this interpreter)
            [
                *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
                *("--no-deps", "--target", str(place), package),
            ],
            env={**os.environ, "PIP_CONSTRAINT": ""},
            check=True,
        )
    return place


def _project(folder: Path, row: Row) -> Path:
    """A fresh one, with the accepted baselines of the cases."""
    project = folder / "project"
    if project.exists():
        project.chmod(0o755)
        shutil.rmtree(project)
    (project / "baselines").mkdir(parents=True)
    shutil.copytree(ROOT / "baselines" / "ref-llama", project / "baselines" / "ref-llama")
    (project / "pytest.ini").write_text(f"[pytest]\n{row.ini}\n")
    (project / "tight.toml").write_text(TIGHT)
    return project


def _run(project: Path, row: Row, places: Sequence[Path]) -> Ended:
    words = ["--pyargs", "mxcheck.suite.models", *CASES, "-k", SELECTED, *row.words]
    command = [sys.executable, "-m", "pytest", *words]
    inherited = {
        name: value for name, value in os.environ.items() if name != "CI" and not name.startswith("PYTEST_")
    }
    environment = {
        **inherited,
        "PYTHONPATH": os.pathsep.join([*map(str, places), str(ROOT / "src")]),
        "OMP_NUM_THREADS": "1",
        "MXCHECK_LEASES": str(project.parent / "leases"),
        **row.environment,
    }
    if row.read_only:
        # In a mount namespace of its own: permissions do not hold root.
        script = f'mount --bind "{project}" "{project}" && mount -o remount,ro,bind "{project}" && exec "$@"'
        command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", *command]
        command = ["unshare", "--mount", *command[4:]] if os.geteuid() == 0 else command
    began = time.monotonic()
    done = subprocess.run(  # noqa: S603  (pytest of this interpreter)
        command, cwd=project, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    return Ended(code=done.returncode, output=done.stdout + done.stderr, seconds=time.monotonic() - began)


def _markdown(rows: Sequence[Row], results: Mapping[str, Mapping[str, str]]) -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in _RELEASES)
    lines = [
        "# The suites in pytest's surroundings",
        "",
        f"Written by `make surroundings` on {date.today().isoformat()} ({packages}).",
        "",
        "Each row is a run of the model suite on ref-llama: of fp32, and of mxint8 against a bound that it",
        "breaks. *As alone*: fp32 passes, mxint8 is red by that bound, the exit code is 1, and there is no",
        "traceback. *One line*: the run is refused before anything is measured, in a line that says why.",
        "",
        "| surroundings | pytest's words | also installed | outcome |",
        "|---|---|---|---|",
    ]
    for row in rows:
        words = " ".join([*(f"{name}={value}" for name, value in row.environment.items()), *row.words])
        shown = words or row.ini
        lines.append(
            f"| {row.name} | {f'`{shown}`' if shown else ''} | {', '.join(row.packages)} | "
            f"{results[row.name]['word']} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())
