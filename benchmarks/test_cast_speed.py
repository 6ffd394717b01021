"""How long a cast takes, beside ours and beside a copy of the tensor: ratios within a round.

In each round a copy, our cast of the same kind (codes or values) by the same rule, and then the
implementation's are timed in turn, so what else the machine does falls on all three. The seconds that
pytest-benchmark shows are of this machine at this moment; the ratios are what to read. Nothing here fails
on time.

    [MXCHECK_MICROXCALING=PATH] pytest benchmarks/test_cast_speed.py --benchmark-only [-k 'large and torchao']

PATH is a checkout of microxcaling, which no index has.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from functools import cache, lru_cache, partial
from math import prod
from statistics import median
from types import MappingProxyType

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from mxcheck.formats.spec import cast_spec
from mxcheck.kernels.api import load_target
from mxcheck.kernels.eager import fake_quantize_eager, quantize_eager
from mxcheck.kernels.peers import compressed_tensors, torchao
from mxcheck.kernels.registry import implementation, implementations

FORMATS = ("fp8_e4m3", "fp4_e2m1", "mxint8")
SHAPES = MappingProxyType({"small": (8, 256, 512), "large": (1, 4096, 11008)})
DTYPES = (torch.float32, torch.bfloat16)
# A library that does not do `floor` is timed with the rule that it has, and so is ours beside it.
RULES = MappingProxyType({"compressed_tensors": "even"})
# Takes a call of Python a block: of the large tensor it gets so small a part, and its time is multiplied.
SHARES = MappingProxyType({"gfloat": 32})
# Rounds fill about so many seconds, within bounds.
SECONDS, LEAST, MOST = 5.0, 3, 40

Row = dict[str, str | float]


@pytest.mark.parametrize("name", implementations())
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("size", SHAPES)
def test_cast(
    name: str,
    format: str,
    dtype: torch.dtype,
    size: str,
    benchmark: BenchmarkFixture,
    casts: Callable[[str], Callable[..., Tensor | tuple[Tensor, ...]]],
    ratios: list[Row],
) -> None:
    cast = casts(name)
    x = _normal(SHAPES[size], dtype)
    piece = x[:, : x.shape[1] // 32].contiguous()
    spec = cast_spec(format, scale_rule=_rule(name, format))
    try:
        result = cast(piece, spec)
    except NotImplementedError as error:
        pytest.skip(str(error))
    if benchmark.disabled:  # under -n and with --benchmark-disable: the cast runs, and nothing is timed
        benchmark(cast, piece, spec)
        return
    ours = fake_quantize_eager if isinstance(result, Tensor) else quantize_eager
    share = SHARES.get(name, 1) if size == "large" else 1
    part = x[:, : x.shape[1] // share].contiguous()

    once = _seconds(partial(cast, part, spec))  # a warm-up, too
    rounds = int(min(MOST, max(LEAST, SECONDS / once)))
    copies, house = [], []

    def in_turn() -> None:
        copies.append(_seconds(x.clone))
        house.append(_seconds(partial(ours, x, spec)))

    in_turn()
    copies.clear()
    house.clear()
    benchmark.group = f"{format}, {size} {SHAPES[size]} {str(dtype).removeprefix('torch.')}"
    benchmark.pedantic(cast, args=(part, spec), setup=in_turn, rounds=rounds)
    times = [share * seconds for seconds in benchmark.stats.stats.data]
    # Ours is the measure of the others, so beside itself it is 1, and no second sample of the same thing.
    beside = [1.0] if cast is ours else [a / b for a, b in zip(times, house, strict=True)]
    row: Row = {
        "name": name,
        "format": format,
        "size": benchmark.group.partition(", ")[2],
        "clone": median(a / b for a, b in zip(times, copies, strict=True)),
        "ours": median(beside),
        "part": share,
    }
    benchmark.extra_info.update(row)
    ratios.append(row)


@pytest.fixture(scope="module")
def casts() -> Callable[[str], Callable[..., Tensor | tuple[Tensor, ...]]]:
    """The implementation of a name, or a skip that says why there is none."""
    if checkout := os.environ.get("MXCHECK_MICROXCALING"):
        sys.path.append(checkout)

    def load(name: str) -> Callable[..., Tensor | tuple[Tensor, ...]]:
        found = implementation(name)
        if (missing := found.missing()) is not None:
            pytest.skip(missing)
        return load_target(found.target)

    return cache(load)


@pytest.fixture(autouse=True)
def packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries that pack two codes to a byte are timed as they are: unpacking is our adapters'."""
    for adapter in (torchao, compressed_tensors):
        monkeypatch.setattr(adapter, "unpack_fp4", lambda codes: codes)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


@lru_cache(maxsize=1)
def _normal(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.randn(prod(shape), generator=torch.Generator().manual_seed(0)).view(shape).to(dtype)


def _rule(name: str, format: str) -> str | None:
    rule = RULES.get(name)
    return rule if rule in cast_spec(format).block.scale_rules else None


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
