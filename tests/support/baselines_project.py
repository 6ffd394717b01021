"""A project with two baselines, and what a command says there."""

from __future__ import annotations

import math
import subprocess
from pathlib import Path

import pytest
from sample_record import build_record

from mxcheck.cli import main
from mxcheck.files.write import write_text
from mxcheck.gate.baseline import encode
from mxcheck.gate.record import Record

FP8, BF16 = "ref-llama/mxfp8_e4m3-B.json", "ref-llama/bf16.json"
CHANGED = build_record(
    kl=0.25, sequence_kl=[0.25] * 4, sequence_losses=[2.25] * 4, cross_entropy=2.25, perplexity=math.exp(2.25)
)

Capture = pytest.CaptureFixture[str]


def put(root: str, name: str, record: Record) -> Path:
    path = Path(root) / name
    write_text(path, encode(record))
    return path


def commit() -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "baselines"]):
        subprocess.run(["git", *identity, *words], check=True, capture_output=True)


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def refused(capsys: Capture, *arguments: str) -> str:
    """The one line on stderr of a command that ends with 2 and prints nothing else."""
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("mxcheck: ")
    assert captured.err.count("\n") == 1
    return captured.err
