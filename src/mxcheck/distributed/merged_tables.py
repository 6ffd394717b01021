"""A merged run as text, as Markdown and as JSON."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping

from rich.table import Table

from mxcheck.distributed.merge import Merged
from mxcheck.files.printed import one_line, printable
from mxcheck.reporting.markdown import cell, code, fenced, table, words
from mxcheck.reporting.table import lines_below, render, results_table

#: Maximum characters of one message, and bytes of all: a job summary holds 1 MiB, and a longer one is not
#: shown at all. The traceback of a case that raised is long; the log contains it.
_LONGEST, _ALL = 4000, 512 * 1024


def verdict_line(merged: Merged) -> str:
    """Return `green` or `red`, and the counts."""
    counted = Counter(result.word for result in merged.results.values())
    counts = ", ".join(f"{count} {word}" for word, count in counted.most_common()) or "none"
    left_out = len(merged.shards[0].cases) - len(merged.results)
    lines = [
        f"{_counted(len(merged.results), 'case')}: {counts}",
        f"{left_out} not selected" if left_out else "",
        _counted(len(merged.failures), "other failure") if merged.failures else "",
        *merged.troubles,
        _counted(len(merged.shards), "shard"),
        _commit(merged),
    ]
    return f"{'green' if merged.green else 'red'}: {'; '.join(filter(None, lines))}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _commit(merged: Merged) -> str:
    basis = merged.shards[0].basis
    hash_of_git = re.fullmatch(r"[0-9a-f]{40,64}", basis.commit)
    text = f"commit {basis.commit[:12]}" if hash_of_git else basis.commit
    return f"{text} with changes {basis.changes}" if basis.changes else text


def text(merged: Merged, *, color: bool) -> str:
    """Return the table and the lines below it as an undivided run prints them, then every red message, then
    other failures, then the verdict."""
    rows = list(merged.results.values())
    parts = [f"{line}\n" for line in lines_below(rows)]
    parts += [f"\n{name}\n{message}\n" for name, message in merged.failures.items()]
    parts += [f"\n{message}\n" for message in merged.red.values()]
    parts += [f"\n{line}" for line in merged.troubles]
    parts += [f"\nmxcheck merge: {one_line(verdict_line(merged))}\n"]
    return render(results_table(rows), color=color) + printable("".join(parts))


def as_json(merged: Merged) -> str:
    """Return the rows in the form that `--mx-report` writes for one run, in `accuracy.json`."""
    return json.dumps([result.as_dict() for result in merged.results.values()])


def markdown(merged: Merged) -> str:
    """Return the summary of a CI job."""
    rows = list(merged.results.values())
    shards = [
        (shard.name, code(str(file)), str(len(shard.selected)), str(shard.exit_status))
        for shard, file in zip(merged.shards, merged.files, strict=True)
    ]
    columns = ("shard", "file", "cases", "pytest's exit status")
    blocks = [
        [f"## mxcheck: {words(verdict_line(merged))}"],
        [f"- {words(line)}" for line in merged.troubles],
        *_messages({**merged.red, **merged.failures}),
        _markdown_table(results_table(rows)),
        [f"- {words(line)}" for line in lines_below(rows)],
        table(columns, shards, right=(False, False, True, True)),
    ]
    return "".join("\n".join(block) + "\n\n" for block in blocks if block)


def refused_markdown(error: ValueError) -> str:
    """Return the summary where the shards could not be merged: one without a verdict would look like
    success."""
    return f"## mxcheck: red: no verdict\n\n{words(str(error))}\n\n"


def _messages(messages: Mapping[str, str]) -> list[list[str]]:
    """Return messages while there is room, and the number of the rest: the table has all cases."""
    blocks: list[list[str]] = []
    left = _ALL
    for name, message in messages.items():
        block = _fenced(name, message)
        left -= len("\n".join(block).encode())
        if left < 0:
            more = _counted(len(messages) - len(blocks), "more message")
            return [*blocks, [f"… and {more}: the log has all of them"]]
        blocks.append(block)
    return blocks


def _fenced(name: str, message: str) -> list[str]:
    shown = message if len(message) <= _LONGEST else f"{message[:_LONGEST]}\n… (the log has all of it)"
    return [f"### {words(name)}", "", *fenced(shown)]


def _markdown_table(shown: Table) -> list[str]:
    columns = [[str(column.header), *map(str, column.cells)] for column in shown.columns]
    head, *rows = ([cell(one) for one in line] for line in zip(*columns, strict=True))
    return table(head, rows, right=[column.justify == "right" for column in shown.columns])
