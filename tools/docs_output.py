"""Run the commands of the documentation's blocks of output, and rewrite the blocks: `make docs-output`.

    python tools/docs_output.py [--check] [--only WORD] [PAGE ...]

A block of output is a fence after a comment that says what prints it:

    <!-- output: mxcheck identify my_casts:mxfp8 | sed -n 1p -->

    ```
    $ mxcheck identify my_casts:mxfp8
    looks like scale rule `floor` with ties to even
    ```

- The command is run by bash with pipefail; its standard output becomes the block, cut by `sed` as here.
  Where it should end with another exit code than 0, the comment says so: `<!-- output (exit 1): … -->`.
- Lines of the block that begin with `$ `, and their continuations, stay. SHOWN in the command stands for the
  first of them.
- It runs in a new folder, which holds the page's files: each fence of code whose first line is a comment with
  the file's name, such as `# my_casts.py`; fences of one name follow each other. In a command
  `docs_output --files PAGE` adds another page's files.
- `$ROOT` is the repository. Nothing is read from the network. Tables are 150 columns wide.
- What differs from run to run is replaced: seconds, and the paths of the folder and of the repository.

A command that fails leaves its block as it is. What cannot run everywhere has a comment
`<!-- recorded: DATE, MACHINE, why -->` instead; tests/unit/test_docs_pages.py wants one or the other of every
block.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from mxcheck.files.write import write_text

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(
    r"<!-- output(?: \(exit (?P<code>\d)\))?: (?P<command>(?:(?!-->).)+) -->\n\n?```\n"
    r"(?P<shown>(?:\$ (?:[^\n]*\\\n)*[^\n]*\n)*)(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
FILE = re.compile(r"^```\w+\n(?P<text># (?P<name>[\w-]+\.\w+)\n.*?)^```$", re.MULTILINE | re.DOTALL)
#: What differs from run to run, and what stands for it. Paths come first.
VARYING = (
    (re.compile(r"\b\d+\.\d+s(?: \(\d+:\d\d:\d\d\))?"), "…s"),
    (re.compile(r"[ \t]+$", re.MULTILINE), ""),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A block of output of a page.

    Attributes:
        line: where its comment begins, from 1.
        command: what prints it, for bash.
        code: the exit code that the command ends with.
        text: what stands there now, without the commands that it shows.
        span: where `text` lies in the page.
    """

    line: int
    command: str
    code: int
    text: str
    span: tuple[int, int]


def blocks(page: str) -> list[Block]:
    """The blocks of output of a page, in their order."""
    return [
        Block(
            line=page.count("\n", 0, found.start()) + 1,
            command=found["command"].replace("SHOWN", _shown(found["shown"])),
            code=int(found["code"] or 0),
            text=found["text"],
            span=found.span("text"),
        )
        for found in BLOCK.finditer(page)
    ]


def _shown(commands: str) -> str:
    """The first command that a block shows."""
    lines = commands.replace("\\\n", "\\\0").splitlines()
    return lines[0].removeprefix("$ ").replace("\\\0", " ") if lines else ""


def files(page: str) -> dict[str, str]:
    """Files that a page shows, by name."""
    found: dict[str, str] = {}
    for match in FILE.finditer(page):
        found[match["name"]] = found.get(match["name"], "") + match["text"]
    return found


def put_files(page: Path, folder: Path) -> None:
    """Write the files that a page shows."""
    for name, text in files(page.read_text(encoding="utf-8")).items():
        write_text(folder / name, text)


def output(block: Block, page: Path) -> str:
    """Run a block's command: what it prints, without what differs from run to run.

    Raises:
        ValueError: it ended with another exit code, or printed nothing.
    """
    with TemporaryDirectory(prefix="docs-output-") as name:
        folder = Path(name).resolve()
        put_files(page, folder)
        done = subprocess.run(  # noqa: S603  (our own pages)
            ["bash", "-o", "pipefail", "-c", _HELPER + block.command],  # noqa: S607
            cwd=folder,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != block.code or not done.stdout.strip():
        told = (done.stderr.strip() or done.stdout.strip() or "it printed nothing").splitlines()[-20:]
        raise ValueError(
            f"{block.command}\nended with exit code {done.returncode}, expected {block.code}:\n"
            + "\n".join(told)
        )
    return normal(done.stdout, folder)


_HELPER = 'docs_output() { python "$ROOT/tools/docs_output.py" "$@"; }\n'


def _environment() -> dict[str, str]:
    offline = dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"), "1")
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "MX"))},
        **offline,
        "ROOT": str(ROOT),
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))),
        "PYTHONPATH": str(ROOT / "src"),
        "COLUMNS": "150",
        "LC_ALL": "C.UTF-8",
    }


def normal(text: str, folder: Path) -> str:
    """Replace what differs from run to run."""
    for path, short in ((folder, "."), (ROOT, "…")):
        text = text.replace(str(path), short)
    for pattern, short in VARYING:
        text = pattern.sub(short, text)
    return text.strip("\n") + "\n"


def update(page: Path, *, check: bool, only: str) -> bool:
    """Run the blocks of a page, and rewrite those that differ unless `check`.

    Returns:
        Whether no command failed and, with `check`, no block differs.
    """
    text, sound = page.read_text(encoding="utf-8"), True
    for block in reversed(blocks(text)):  # from the end, so that the places of those before it stay
        if only not in block.command:
            continue
        began, where = (
            time.monotonic(),
            f"{page.relative_to(ROOT) if page.is_relative_to(ROOT) else page}:{block.line}",
        )
        try:
            new = output(block, page)
        except ValueError as error:
            print(f"{where}: {error}", file=sys.stderr)
            sound = False
            continue
        seconds = f"{time.monotonic() - began:.0f} s"
        if new == block.text:
            print(f"{where}: current ({seconds})")
            continue
        print(f"{where}: {'differs' if check else 'rewritten'} ({seconds})")
        print(
            "\n".join(
                difflib.unified_diff(block.text.splitlines(), new.splitlines(), "page", "now", lineterm="")
            )
        )
        if check:
            sound = False
        else:
            start, end = block.span
            text = text[:start] + new + text[end:]
            write_text(page, text)
    return sound


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 1 where a command failed or, with --check, a block differs."""
    parser = argparse.ArgumentParser(description="Run the commands of blocks of output, and rewrite these.")
    parser.add_argument(
        "pages", nargs="*", type=Path, metavar="PAGE", help="default: README.md and docs/*.md"
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit code 1 where a block differs"
    )
    parser.add_argument("--only", default="", metavar="WORD", help="only commands that contain it")
    parser.add_argument(
        "--files", type=Path, metavar="PAGE", help="write the files that a page shows here, and end"
    )
    options = parser.parse_args(arguments)
    if options.files is not None:
        put_files(options.files, Path.cwd())
        return 0
    pages = [page.resolve() for page in options.pages] or [
        ROOT / "README.md",
        *sorted((ROOT / "docs").glob("*.md")),
    ]
    results = [update(page, check=options.check, only=options.only) for page in pages]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
