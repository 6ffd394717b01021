"""The Triton form of the row sums, run by Triton's interpreter, which needs no GPU."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

CHILD = """
import torch
from mxcheck.kernels import digest as module
from mxcheck.kernels.digest_triton import row_sums_by_triton

made = torch.Generator().manual_seed(0)
for rows, length in ((1, 1), (5, 7), (8, 256), (9, 300), (17, 513)):
    words = torch.randint(-(2**31), 2**31, (rows, length), generator=made).to(torch.int32)
    keys = torch.from_numpy(module.keys(module.ROW_LEVEL, 3, length).view("int64"))
    expected = module.row_sums(words, keys)
    assert torch.equal(row_sums_by_triton(words, keys), expected), (rows, length)
    words[-1, -1] ^= 1
    assert not torch.equal(row_sums_by_triton(words, keys), expected), (rows, length)
tensors = [torch.randn(7, 9, 11, generator=made).mT, torch.randn(40, 5, generator=made).bfloat16()]
expected = module.digest(*tensors)
calls = []
module._row_sums_on = lambda device: lambda *a: calls.append(a) or row_sums_by_triton(*a)
assert module.digest(*tensors) == expected
assert calls
print("equal")
"""


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="Triton is not installed: torch's CUDA build brings the version that it needs, its CPU build none",
)
def test_it_gives_the_same_sums() -> None:
    # in a process of its own: Triton reads the variable when it is imported
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", CHILD],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "equal\n"), done.stderr
