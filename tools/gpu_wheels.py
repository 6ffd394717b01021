"""Collect what a bare GPU machine lacks into build/gpu-wheels: the versions of constraints.txt, as wheels.

    python tools/gpu_wheels.py [--python 3.12]

The machine that is meant has Python 3.12, torch, transformers, numpy and safetensors, and no network; at most
64 MiB can be brought. tools/gpu_check.py installs from the folder.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
WHEELS = REPOSITORY / "build" / "gpu-wheels"
LIMIT = 64 * 2**20
#: pytest and its plugins come in the versions that the tests are written for, whatever is there; datasets and
#: pyarrow are not needed, because the reference models bring their own text.
PACKAGES = (
    *("pytest", "pluggy", "iniconfig", "packaging", "Pygments"),
    *("pytest-xdist", "execnet", "syrupy"),
    *("filelock", "rich", "markdown-it-py", "mdurl"),
    "nvidia-ml-py",
)
#: What a wheel may ask of the C library; pip takes each exactly as it is written.
_PLATFORMS = tuple(f"manylinux{kind}_x86_64" for kind in ("_2_28", "_2_17", "2014"))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: 0 where all is there and small enough, 1 where it is too large, else pip's status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", default="3.12", help="of the machine that is meant")
    options = parser.parse_args(arguments)
    shutil.rmtree(WHEELS, ignore_errors=True)
    WHEELS.mkdir(parents=True)
    done = subprocess.run(download(options.python), check=False)  # noqa: S603  (fixed words)
    return done.returncode or report(WHEELS)


def download(python: str) -> list[str]:
    """pip's command line."""
    where = [word for platform in _PLATFORMS for word in ("--platform", platform)]
    return [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
        *("--no-deps", "--only-binary=:all:", "--implementation", "cp", "--python-version", python),
        *where,
        *("--dest", str(WHEELS)),
        *pinned((REPOSITORY / "constraints.txt").read_text(encoding="utf-8")),
    ]


def pinned(constraints: str) -> list[str]:
    """`PACKAGES` as constraints.txt has them. Raises ValueError for one that it does not pin."""
    lines = {line.partition("==")[0].lower(): line for line in constraints.splitlines() if "==" in line}
    if unknown := [name for name in PACKAGES if name.lower() not in lines]:
        raise ValueError(f"constraints.txt does not pin {', '.join(unknown)}; add a line NAME==VERSION")
    return [lines[name.lower()] for name in PACKAGES]


def report(folder: Path, *, limit: int = LIMIT) -> int:
    """Say what is there; 1 where it is more than `limit` bytes."""
    sizes = {path.name: path.stat().st_size for path in sorted(folder.glob("*.whl"))}
    total = sum(sizes.values())
    print(f"{folder}: {len(sizes)} wheels, {total / 2**20:.1f} of {limit / 2**20:.0f} MiB")
    if total <= limit:
        return 0
    largest = max(sizes, key=lambda name: sizes[name])
    print(f"too large: at most {limit} bytes can be brought, got {total}; the largest is {largest}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
