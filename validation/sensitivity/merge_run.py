"""Merge a run whose shards are all green, with a fault in the merge."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from mxcheck.distributed.merge import merge_folder
from validation.known_verdicts.merges import green_shards, write_shards
from validation.sensitivity.suite_run import SuiteRun


def run_merge() -> SuiteRun:
    """Run `mxcheck merge` as a suite of its own."""
    began = time.monotonic()
    messages: list[str] = []
    with tempfile.TemporaryDirectory(prefix="mxcheck-merge-") as folder:
        write_shards(Path(folder), green_shards())
        try:
            code = merge_folder(Path(folder)).exit_status
        except ValueError as error:
            code = 2
            messages.append(str(error))
    return SuiteRun(exit_code=code, messages=messages, seconds=time.monotonic() - began)
