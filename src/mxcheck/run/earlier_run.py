"""Durations of an earlier run's cases, from its report: what shards and placement go by. Torch-free."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from mxcheck.files.plain_data import MALFORMED, DataError, read_json
from mxcheck.files.printed import RefusedFileError, got, told

#: Longest report that is read: half a megabyte for each case.
_MOST_BYTES = 2**30


class ReportError(RefusedFileError, ValueError):
    """A report that cannot be used. The message is one printable line and names the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Durations:
    """Wall seconds of an earlier run.

    Attributes:
        cases: seconds of each case that has a record, by id, without loading its model.
        loads: seconds of loading a model and measuring its reference, by label: the mean over its loads.
    """

    cases: Mapping[str, float] = field(default_factory=dict)
    loads: Mapping[str, float] = field(default_factory=dict)


def read_durations(path: Path) -> Durations:
    """Read the durations of an `accuracy.json`, of a run or of `mxcheck merge --json`.

    Raises ReportError, in one line that names the file, where it is missing, no such report, or has no
    durations.
    """
    try:
        durations = _durations(read_json(path, most=_MOST_BYTES))
    except FileNotFoundError as error:
        raise ReportError(f"{path}: no such file; name the accuracy.json of an earlier run") from error
    except (DataError, *MALFORMED) as error:
        raise ReportError(f"{path}: no accuracy.json of a run: {told(error)}") from error
    if not durations.cases:
        raise ReportError(f"{path}: none of its cases has a duration; name the report of a run that measured")
    return durations


def _durations(rows: Any) -> Durations:
    if not isinstance(rows, list):
        raise TypeError(f"it must be a list of results, got {got(rows)}")
    cases: dict[str, float] = {}
    loads: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        name, model, seconds, loading = row["id"], row["case"]["model"], row["seconds"], row["load_seconds"]
        if not isinstance(name, str) or not isinstance(model, str):
            raise TypeError(f"a case must be named by texts, got {got(name)} of {got(model)}")
        if row["record"] is None or seconds is None:
            continue
        loading = 0.0 if loading is None else loading
        for value in (seconds, loading):
            if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
                raise ValueError(f"seconds of {name} must be a number from 0 on, got {got(value)}")
        cases[name] = max(0.0, seconds - loading)
        if loading:
            loads[model].append(loading)
    return Durations(cases=cases, loads={model: fmean(values) for model, values in loads.items()})
