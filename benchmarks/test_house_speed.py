"""How long our own casts take, beside copies of the tensor: ratios within a round.

`out=` into memory that is there, beside `copy_` into such memory; and as users call it, beside a copy that
allocates. In each round the copies and both calls are timed in turn. Nothing here fails on time.

    pytest benchmarks/test_house_speed.py --benchmark-only [-k 'large and cpp'] [--benchmark-save=NAME]
    pytest benchmarks/test_house_speed.py --benchmark-only --benchmark-compare=NAME
"""

from __future__ import annotations

import time
from collections.abc import Callable
from math import prod
from statistics import median
from types import MappingProxyType

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

import mxcheck
from mxcheck.formats.blocks import BLOCK_FORMATS
from mxcheck.kernels import quantized as house_quantized
from mxcheck.kernels.registry import implementation

OPERATIONS = ("quantize", "fake_quantize", "dequantize")
SHAPES = MappingProxyType({"call": (1, 1, 4096), "large": (1, 4096, 11008)})
DTYPES = (torch.float32, torch.bfloat16)
ROUNDS = MappingProxyType({"call": 2000, "large": 15})

Row = dict[str, str | float]


@pytest.mark.parametrize("format", BLOCK_FORMATS)
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("kernel", ["cpp", "eager"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("size", SHAPES)
def test_house_cast(
    kernel: str,
    operation: str,
    format: str,
    dtype: torch.dtype,
    size: str,
    benchmark: BenchmarkFixture,
    house_ratios: list[Row],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if (missing := implementation(kernel).missing()) is not None:
        pytest.skip(missing)
    torch.set_num_threads(1)
    shape = SHAPES[size]
    x = torch.randn(prod(shape), generator=torch.Generator().manual_seed(0)).view(shape).to(dtype)
    room = torch.empty_like(x)
    quantized = mxcheck.quantize(x, format)
    if operation == "dequantize" and kernel == "eager":  # it has no argument for that
        monkeypatch.setattr(house_quantized, "takes_compiled", lambda _: False)

    def plain() -> object:
        if operation == "dequantize":
            return quantized.dequantize(dtype)
        return getattr(mxcheck, operation)(x, format, kernel=kernel)

    def into() -> object:
        if operation == "dequantize":
            return plain()
        out = quantized if operation == "quantize" else room
        return getattr(mxcheck, operation)(x, format, kernel=kernel, out=out)

    if benchmark.disabled:
        benchmark(plain)
        return
    rounds = ROUNDS[size] if kernel == "cpp" else max(3, ROUNDS[size] // 5)
    copies, clones, calls = list[float](), list[float](), list[float]()

    def in_turn() -> None:
        copies.append(_seconds(lambda: room.copy_(x)))
        clones.append(_seconds(x.clone))
        calls.append(_seconds(plain))

    benchmark.group = f"{operation} {size} {shape} {str(dtype).removeprefix('torch.')}"
    benchmark.pedantic(into, setup=in_turn, rounds=rounds, warmup_rounds=1)
    del copies[0], clones[0], calls[0]  # of the warm-up
    row: Row = {
        "name": f"{operation}, {kernel}",
        "format": format,
        "size": f"{size} {shape} {str(dtype).removeprefix('torch.')}",
        "copy": median(a / b for a, b in zip(benchmark.stats.stats.data, copies, strict=True)),
        "allocating": median(a / b for a, b in zip(calls, clones, strict=True)),
    }
    benchmark.extra_info.update(row)
    house_ratios.append(row)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
