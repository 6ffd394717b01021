"""Progress of an exhaustive run, in a file: the run can be stopped at any time and resumed."""

from __future__ import annotations

import ast
import json
import logging
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mxcheck.files.plain_data import MALFORMED, read_json
from mxcheck.files.printed import got, one_line, told
from validation import ROOT
from validation.sweeps.sweep import Difference, Sweep, SweepResult, sweeps

_log = logging.getLogger(__name__)

#: Sources that a sweep's results depend on: the kernel under test, the oracle, the comparison.
SOURCES = (
    *(f"src/mxcheck/kernels/{name}.py" for name in ("eager", "element_codes", "rules", "block_views")),
    *(f"src/mxcheck/kernels/compiled/{name}" for name in ("casts.hpp", "calls.py", "library.py")),
    *(f"src/mxcheck/formats/{name}.py" for name in ("elements", "codes")),
    *(f"validation/second_oracle/{name}.py" for name in ("search", "bit_tables")),
    "validation/sweeps/bit_sweep.py",
)

Identity = Mapping[str, Any]


def sweep_sources_digest(root: Path = ROOT) -> str:
    """Digest of the code that results depend on, without comments, docstrings and layout."""
    digest = sha256()
    for name in SOURCES:
        if not name.endswith(".py"):
            code = re.sub("//.*", "", (root / name).read_text("utf-8"))
            digest.update(f"{name}\0{' '.join(code.split())}\0".encode())
            continue
        tree = ast.parse((root / name).read_text("utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
                node.body = node.body[1:] or [ast.Pass()]
        digest.update(f"{name}\0{ast.unparse(tree)}\0".encode())
    return digest.hexdigest()[:16]


class SweepState:
    """Finished chunks and their results, by sweep. Written after each chunk if there is a file."""

    def __init__(self, path: Path | None, identity: Identity) -> None:
        """Resume from a file, if there is one of the same identity.

        Args:
            path: the file; None keeps everything in memory.
            identity: what must not have changed since the file was written, plain JSON data; `span`, the bit
                patterns [start, stop], and `chunk`, the inputs of a chunk, are part of it.

        Raises:
            ValueError: the file is damaged, or not a state file.
        """
        self._path, self._identity = path, identity
        self._chunks: dict[str, set[int]] = {}
        self._results: dict[str, SweepResult] = {}
        if path is None:
            return
        try:
            self._read(read_json(path))
        except FileNotFoundError:
            return
        except MALFORMED as error:
            raise ValueError(
                one_line(
                    f"{path} is no state of an exhaustive run, or it is damaged ({told(error)}); delete it "
                    f"to start over"
                )
            ) from error

    def _read(self, data: Any) -> None:
        before = data["identity"]
        if not isinstance(before, dict):
            raise ValueError(f"its identity must be a table, got {got(before)}")
        if before != self._identity:
            changed = [name for name in self._identity if before.get(name) != self._identity[name]]
            _log.warning(
                "mxcheck: %s is of other %s: starting over", self._path, ", ".join(changed) or "settings"
            )
            return
        for entry in data["sweeps"]:
            sweep = Sweep(**entry["sweep"])
            if sweep not in sweeps():
                raise ValueError(f"no sweep is called {got(sweep.name)}")
            found = {name: int(entry["result"][name]) for name in ("compared", "excluded", "mismatches")}
            first = tuple(
                Difference(bits=int(bits, 16), got=_codes(now), expected=_codes(then))
                for bits, now, then in entry["result"]["first"]
            )
            seconds = float(entry["result"]["seconds"])
            if not 0 <= seconds < math.inf or any(number < 0 for number in found.values()):
                raise ValueError(f"{sweep.name} has a count or a time below 0")
            self._chunks[sweep.name] = set(map(int, entry["chunks"]))
            if self._inputs(self._chunks[sweep.name]) != found["compared"] + found["excluded"]:
                raise ValueError(f"the finished chunks of {sweep.name} do not have that many inputs")
            self._results[sweep.name] = SweepResult(sweep=sweep, first=first, seconds=seconds, **found)

    def _inputs(self, chunks: Iterable[int]) -> int:
        """Number of inputs in chunks, by the identity's span and chunk size."""
        (start, stop), size = self._identity["span"], self._identity["chunk"]
        starts = range(start, stop, size)
        numbers = set(chunks)
        if any(not 0 <= chunk < len(starts) for chunk in numbers):
            raise ValueError(f"there are {len(starts)} chunks, got {got(sorted(numbers))}")
        return sum(min(size, stop - starts[chunk]) for chunk in numbers)

    def chunks(self, sweep: Sweep) -> frozenset[int]:
        """Return the finished chunks of a sweep."""
        return frozenset(self._chunks.get(sweep.name, ()))

    def result(self, sweep: Sweep) -> SweepResult:
        """Return the sum of their results."""
        return self._results.get(sweep.name, SweepResult(sweep=sweep))

    def add(self, chunk: int, part: SweepResult) -> None:
        """Add a chunk, and write the file. If that is interrupted, the file is as before."""
        name = part.sweep.name
        self._chunks.setdefault(name, set()).add(chunk)
        self._results[name] = self.result(part.sweep) + part
        if self._path is None:
            return
        new = self._path.with_name(f"{self._path.name}.new")
        new.write_text(json.dumps(self._as_data()), "utf-8")
        new.replace(self._path)

    def _as_data(self) -> dict[str, Any]:
        return {
            "identity": self._identity,
            "sweeps": [
                {
                    "sweep": {
                        "format": one.sweep.format,
                        "rounding": one.sweep.rounding,
                        "scale_rule": one.sweep.scale_rule,
                    },
                    "chunks": sorted(self._chunks[name]),
                    "result": {
                        "compared": one.compared,
                        "excluded": one.excluded,
                        "mismatches": one.mismatches,
                        "first": [[f"{diff.bits:08x}", diff.got, diff.expected] for diff in one.first],
                        "seconds": round(one.seconds, 3),
                    },
                }
                for name, one in self._results.items()
            ],
        }


def _codes(data: Any) -> tuple[int, ...]:
    if not isinstance(data, list) or not 1 <= len(data) <= 2 or any(type(one) is not int for one in data):
        raise ValueError(f"the codes of an element, or of a scale and an element, are {got(data)}")
    return tuple(data)


@contextmanager
def locked_state(path: Path | None, identity: Identity) -> Iterator[SweepState]:
    """Open the state in a file and lock it against other runs.

    Raises:
        ValueError: another run has it; as `SweepState`.
    """
    if path is None:
        yield SweepState(None, identity)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{path}.lock", timeout=0):
            yield SweepState(path, identity)
    except Timeout:
        raise ValueError(
            f"another exhaustive run is writing {path}; wait for it, or name another file"
        ) from None
