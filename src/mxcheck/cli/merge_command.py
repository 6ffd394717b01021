"""`mxcheck merge`: merge and judge the shards of a run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mxcheck.files.printed import told
from mxcheck.files.write import WriteError
from mxcheck.reporting.screen import show


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "merge",
        help="join the shards of a run (pytest --mx-shard=i/N --mx-report=DIR) and give the verdict",
        description="Join the files shard-i-of-N.json in and below DIR; print the table of the whole run, "
        "the messages of red cases, and one verdict. Exit code 0 if all is green, 1 if something is red, 2 "
        "if the files are not the complete shards of one run.",
    )
    command.add_argument(
        "folder", type=Path, metavar="DIR", help="directory of the shards' files, at any depth"
    )
    command.add_argument(
        "--summary",
        type=Path,
        metavar="FILE",
        help="append the report as Markdown, for example to $GITHUB_STEP_SUMMARY",
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="write the joined rows")
    command.set_defaults(run=_merge)


def _merge(options: argparse.Namespace) -> int:
    return merge_and_show(options.folder, summary=options.summary, rows=options.json)


def merge_and_show(folder: Path, *, summary: Path | None, rows: Path | None) -> int:
    """Merge the shards in and below a folder and print the result; append it to `summary` and write the rows
    to `rows`. Returns the exit code. Raises ValueError where they are not one run, and where a merge of known
    shards gives a wrong result."""
    from mxcheck.distributed.merge import merge_folder
    from mxcheck.distributed.merged_tables import as_json, markdown, refused_markdown, text
    from mxcheck.files.write import write_text

    try:
        merged = merge_folder(folder)
    except ValueError as error:
        if summary is not None:
            _append(summary, refused_markdown(error))
        raise
    show(text(merged, color=sys.stdout.isatty()))
    if summary is not None:
        _append(summary, markdown(merged))
    if rows is not None:
        with _writable("--json", rows):
            write_text(rows, as_json(merged))
    return merged.exit_status


def _append(path: Path, words: str) -> None:
    with _writable("--summary", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(words)


@contextmanager
def _writable(option: str, path: Path) -> Iterator[None]:
    try:
        yield
    except WriteError as error:
        raise ValueError(f"{option} {error}, or name another file") from error
    except OSError as error:
        raise ValueError(f"{option} {path} cannot be written: {told(error)}; name another file") from error
