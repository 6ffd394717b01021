"""Programs that read cases and write results, in C and Rust; and results made here, from docs/cases.md."""

from __future__ import annotations

import hashlib
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mxcheck.formats.spec import CastSpec
from mxcheck.kernels.eager import quantize_eager

SOURCES = Path(__file__).parent / "cases_c"
HEADER, CASE = 256, 128
_BF16 = ("--dtype", "bfloat16", "--block-size", "32")
#: -D of mx_cast.c -> how the title of its example begins, inputs that show it, the rule that it looks like.
FAULTS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "TIES_AWAY": ("code (tie", ("--dtype", "float32"), "`floor` with ties away from zero"),
    "TOWARD_ZERO": ("code", _BF16, "`floor` with truncation"),
    "NO_NEGATIVE_ZERO": ("zero sign", _BF16, ""),
    "FLUSH_SUBNORMAL": ("code (subnormal element", _BF16, ""),
    "CEIL": ("scale", _BF16, "`ceil` with ties to even"),
    "SECOND_BLOCK": ("scale", _BF16, ""),
    "LAST_BIT_OF_FP16": ("code", ("--dtype", "float16", "--block-size", "32"), ""),
}


def compiled_c(folder: Path, *defines: str) -> Path:
    """mx_cast.c, with these faults."""
    made = folder / "_".join(("mx_cast", *defines))
    return compile_c(SOURCES / "mx_cast.c", made, *defines)


def compile_c(source: Path, made: Path, *defines: str) -> Path:
    """A program, by the machine's compiler, which has nothing to say about it."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler (cc, gcc, clang) on the PATH")
    words = ["-O2", "-Wall", "-Wextra", "-Werror", *(f"-D{name}" for name in defines)]
    subprocess.run([compiler, *words, "-o", made, source], check=True)
    return made


def compiled_rust(folder: Path) -> Path:
    """mx_cast.rs, compiled."""
    if shutil.which("rustc") is None:
        pytest.skip("no rustc on the PATH")
    made = folder / "mx_cast_rs"
    subprocess.run(
        ["rustc", "-O", "--edition", "2021", "-o", made, SOURCES / "mx_cast.rs"], check=True, cwd=folder
    )
    return made


def sealed(cases: bytes) -> bytes:
    """A file of cases, with the digest that it has to have."""
    digest = hashlib.sha256(cases[HEADER:] + cases[48:HEADER]).digest()
    return cases[:16] + digest + cases[48:]


def rewritten(data: bytes, at: int, value: int) -> bytes:
    """Bytes with another whole number at this place."""
    return data[:at] + struct.pack("<Q", value) + data[at + 8 :]


def answered(
    cases: bytes, kernel: Callable[..., Any] = quantize_eager, *, values: bool = False, refuse: str = ""
) -> bytes:
    """The results of a kernel for a file of cases; values if it gives them; none, and why, if it is to
    refuse."""
    format_name, rule, rounding, nonfinite = (
        cases[at : at + 16].rstrip(b"\0").decode() for at in (64, 80, 96, 112)
    )
    made, at = [b"MXRESULT", cases[8:56]], HEADER
    for _ in range(int.from_bytes(cases[48:56], "little")):
        number, dtype, size, outer, columns, inner, length = struct.unpack_from("<7Q", cases, at)
        data = bytearray(cases[at + CASE : at + CASE + length])
        at += CASE + length
        elements, random = outer * columns * inner, None
        width = 4 if dtype == 1 else 2
        if rounding == "stochastic":
            drawn = np.frombuffer(data[elements * width :], np.uint32).astype(np.int64)
            random = torch.from_numpy(drawn).view(outer, columns, inner)
        dtypes = {1: torch.float32, 2: torch.bfloat16, 4: torch.float16}
        x = torch.frombuffer(data, dtype=dtypes[dtype], count=elements).view(outer, columns, inner)
        spec = CastSpec(
            format=format_name, axis=1, block_size=size or None, scale_rule=rule, rounding=rounding,
            nonfinite=nonfinite, random=random,
        )  # fmt: skip
        returned = kernel(x, spec)
        parts = (returned,) if isinstance(returned, torch.Tensor) else returned
        given = b"".join(_bytes(part) for part in parts)
        given = refuse.encode() if refuse else given
        made += [struct.pack("<3Q", number, 0 if refuse else 1 + values, len(given)), given]
    return b"".join(made)


def _bytes(part: torch.Tensor) -> bytes:
    bits = part.contiguous().view(torch.int16) if part.dtype == torch.bfloat16 else part
    return bits.numpy().tobytes()
