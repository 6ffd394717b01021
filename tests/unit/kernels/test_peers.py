"""The adapters of other libraries: the oracle's bits where the library has them, or a reason."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import mxcheck
from mxcheck.formats.oracle import dequantize_array, quantize_array
from mxcheck.formats.spec import CastSpec, cast_spec
from mxcheck.kernels.domain import NotSupported, check_domain, domain_of

# adapter -> what it imports
PEERS = {
    "compressed_tensors": "compressed_tensors",
    "gfloat": "gfloat",
    "microxcaling": "mx",
    "ml_dtypes": "ml_dtypes",
    "torchao": "torchao",
    "transformer_engine": "transformer_engine",
}
FLOATS = ("fp8_e4m3", "fp8_e5m2", "fp6_e3m2", "fp6_e2m3", "fp4_e2m1")
ALL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# Where a library gives the oracle's bits on ordinary data: adapter, formats, scale rules, roundings, dtypes.
# What it supports and is missing here differs there already.
EXACT = (
    ("torchao", FLOATS, ("floor", "ceil", "even", "rceil"), ("even",), (torch.float32, torch.bfloat16)),
    (
        "torchao",
        ("nvfp4", "e4m3_tensor", "e4m3_row", "e5m2_tensor", "e5m2_row"),
        ("amax",),
        ("even",),
        (torch.float32,),
    ),
    ("gfloat", FLOATS, ("floor",), ("even", "away", "zero", "stochastic"), (torch.float32, torch.bfloat16)),
    ("gfloat", ("mxint8",), ("floor",), ("zero",), (torch.float32, torch.bfloat16)),
    ("ml_dtypes", FLOATS, ("floor",), ("even",), ALL_DTYPES),
    ("compressed_tensors", ("fp6_e2m3", "fp4_e2m1"), ("even",), ("even",), ALL_DTYPES),
    ("compressed_tensors", ("e4m3_tensor", "e4m3_row"), ("amax",), ("even",), (torch.float32,)),
    ("microxcaling", FLOATS, ("floor",), ("even", "away", "zero"), (torch.float32,)),
)
CASTS = [
    pytest.param(
        peer,
        cast_spec(name, scale_rule=rule, rounding=rounding),
        dtype,
        id=f"{peer}-{name}-{rule}-{rounding}-{dtype}",
    )
    for peer, names, rules, roundings, dtypes in EXACT
    for name in names
    for rule in rules
    for rounding in roundings
    for dtype in dtypes
]


@pytest.fixture
def peer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The adapter named by the parameter; its library is there."""
    if request.param == "microxcaling" and "MXCHECK_MICROXCALING" in os.environ:
        monkeypatch.syspath_prepend(os.environ["MXCHECK_MICROXCALING"])
    name = PEERS[request.param]
    hint = "; MXCHECK_MICROXCALING may name a checkout" if name == "mx" else ""
    pytest.importorskip(name, reason=f"{name} is not installed{hint}")
    return adapter(request.param)


def adapter(name: str) -> Any:
    return import_module(f"mxcheck.kernels.peers.{name}")


def inside(peer: Any, x: Tensor, spec: CastSpec) -> Any:
    """A call as mxcheck makes it: what lies outside of the declared domain is not asked."""
    check_domain(domain_of(peer.quantize), x, spec)
    return peer.quantize(x, spec)


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def with_random(spec: CastSpec, shape: torch.Size) -> CastSpec:
    if spec.rounding != "stochastic":
        return spec
    random = np.random.default_rng(0).integers(0, 1 << 32, tuple(shape))
    given = {name: getattr(spec, name) for name in ("axis", "block_size", "scale_rule", "rounding")}
    return cast_spec(spec.format, **given, random=random)


def assert_exact(module: Any, x: Tensor, spec: CastSpec) -> None:
    spec = with_random(spec, x.shape)
    got = module.quantize(x, spec)
    expected = [torch.from_numpy(np.array(part)) for part in quantize_array(x.float().numpy(), spec)]
    if isinstance(got, Tensor):
        codes, *scales = (part.numpy() for part in expected)
        values = torch.from_numpy(dequantize_array(codes, scales[0], spec, *scales[1:])).to(x.dtype)
        got, expected = (got,), [values]
    assert len(got) == len(expected)
    for part, exact in zip(got, expected, strict=True):
        assert part.dtype == exact.dtype
        torch.testing.assert_close(part, exact, rtol=0, atol=0)


@pytest.mark.parametrize(("peer", "spec", "dtype"), CASTS, indirect=["peer"])
def test_ordinary_data(peer: Any, spec: CastSpec, dtype: torch.dtype) -> None:
    assert_exact(peer, gaussian(64, 160).to(dtype), spec)


@pytest.mark.parametrize(
    ("peer", "format"),
    [
        ("torchao", "fp4_e2m1"),
        ("torchao", "nvfp4"),
        ("torchao", "e4m3_row"),
        ("torchao", "e4m3_tensor"),
        ("gfloat", "fp6_e3m2"),
        ("ml_dtypes", "fp8_e5m2"),
        ("compressed_tensors", "fp4_e2m1"),
        ("compressed_tensors", "fp6_e2m3"),
        ("compressed_tensors", "e4m3_row"),
        ("compressed_tensors", "e4m3_tensor"),
        ("microxcaling", "fp8_e4m3"),
    ],
    indirect=["peer"],
)
@pytest.mark.parametrize(
    ("shape", "axis"), [((64,), 0), ((64, 6), 0), ((3, 64, 4), 1), ((2, 3, 64), -1), ((6, 64), 1)]
)
def test_any_axis(peer: Any, format: str, shape: tuple[int, ...], axis: int) -> None:
    rule = "even" if peer.__name__.endswith("compressed_tensors") and not format.startswith("e4m3") else None
    assert_exact(peer, gaussian(*shape), cast_spec(format, axis=axis, scale_rule=rule))


@pytest.mark.parametrize("peer", ["gfloat", "ml_dtypes", "microxcaling"], indirect=True)
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("block_size", [1, 16, 32, 64])
def test_ragged_tail(peer: Any, axis: int, block_size: int) -> None:
    assert_exact(peer, gaussian(45, 50), cast_spec("fp8_e4m3", axis=axis, block_size=block_size))


@pytest.mark.parametrize("peer", ["gfloat", "ml_dtypes", "microxcaling", "torchao"], indirect=True)
def test_input_is_left_alone(peer: Any) -> None:
    x = gaussian(4, 64)
    before = x.clone()
    peer.quantize(x, cast_spec("fp8_e4m3"))
    assert torch.equal(x, before)


# adapter, cast, length, dtype, reason
REFUSED = (
    ("torchao", {"format": "mxint8"}, 64, "float32", "no format mxint8"),
    ("torchao", {"format": "fp4_e3m0"}, 64, "float32", "no format fp4_e3m0"),
    ("torchao", {"rounding": "away"}, 64, "float32", "no rounding away"),
    ("torchao", {"nonfinite": "element"}, 64, "float32", "no NaN/Inf policy element"),
    ("torchao", {}, 64, "float16", "no cast from float16"),
    ("torchao", {}, 50, "float32", "columns that the block size 32 divides"),
    ("torchao", {"format": "nvfp4"}, 50, "float32", "columns that the block size 16 divides"),
    ("torchao", {"format": "fp4_e2m1", "block_size": 3}, 9, "float32", "needs an even length"),
    ("gfloat", {"format": "nvfp4"}, 64, "float32", "no format nvfp4"),
    ("gfloat", {"scale_rule": "rceil"}, 64, "float32", "no scale rule rceil"),
    ("gfloat", {}, 64, "float16", "no cast from float16"),
    ("ml_dtypes", {"format": "mxint8"}, 64, "float32", "no format mxint8"),
    ("ml_dtypes", {"rounding": "zero"}, 64, "float32", "no rounding zero"),
    ("ml_dtypes", {"scale_rule": "even"}, 64, "float32", "no scale rule even"),
    ("compressed_tensors", {"format": "fp8_e5m2"}, 64, "float32", "no format fp8_e5m2"),
    ("compressed_tensors", {}, 64, "float32", "no scale rule floor"),
    ("compressed_tensors", {"scale_rule": "even", "block_size": 16}, 64, "float32", "no block size 16"),
    (
        "compressed_tensors",
        {"scale_rule": "even"},
        50,
        "float32",
        "columns that the block size 32 divides",
    ),
    ("microxcaling", {"rounding": "stochastic"}, 64, "float32", "no rounding stochastic"),
    ("microxcaling", {"scale_rule": "ceil"}, 64, "float32", "no scale rule ceil"),
    ("transformer_engine", {}, 64, "float32", "no scale rule floor"),
    ("transformer_engine", {"scale_rule": "reciprocal"}, 64, "float32", "no NaN/Inf policy block"),
)


@pytest.mark.parametrize(
    ("peer", "asked", "length", "dtype", "reason"),
    [pytest.param(*row, id=f"{row[0]}: {row[-1]}") for row in REFUSED],
)
def test_what_a_library_lacks(peer: str, asked: dict[str, Any], length: int, dtype: str, reason: str) -> None:
    x = gaussian(32, length).to(getattr(torch, dtype))
    with pytest.raises(NotSupported, match=reason):
        inside(adapter(peer), x, cast_spec(**{"format": "fp8_e4m3", **asked}))


def test_gfloat_refuses_a_nan_where_the_format_has_none() -> None:
    x = gaussian(2, 64)
    x[0, 0] = torch.nan
    with pytest.raises(NotImplementedError, match="gfloat refuses a NaN in fp4_e2m1"):
        adapter("gfloat").quantize(x, cast_spec("fp4_e2m1"))


@pytest.mark.parametrize(
    ("rows", "capability", "reason"),
    [
        (33, None, "a number of rows that 32 divides, got 33"),
        (32, None, "on a GPU only"),
        (32, (9, 0), r"from compute capability \(10, 0\) on, and this GPU has \(9, 0\)"),
    ],
)
def test_transformer_engine_needs_a_gpu(
    monkeypatch: pytest.MonkeyPatch, rows: int, capability: tuple[int, int] | None, reason: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    spec = cast_spec("fp8_e4m3", scale_rule="reciprocal", nonfinite="element")
    with pytest.raises(NotImplementedError, match=reason):
        adapter("transformer_engine").quantize(gaussian(rows, 64), spec)


@pytest.mark.parametrize("name", ["gfloat", "ml_dtypes", "microxcaling"])
def test_a_tail_that_the_call_refuses(name: str) -> None:
    with pytest.raises(ValueError, match="tail='error' refuses"):
        mxcheck.quantize(gaussian(2, 50), "fp8_e4m3", tail="error", kernel=adapter(name).quantize)


def test_stochastic_needs_its_integers() -> None:
    pytest.importorskip("gfloat")
    spec = cast_spec("fp8_e4m3", rounding="stochastic", random=np.zeros((2, 3), np.int64))
    with pytest.raises(ValueError, match=r"of x's shape \(2, 64\), got \(2, 3\)"):
        adapter("gfloat").quantize(gaussian(2, 64), spec)


def test_an_adapter_imports_no_library() -> None:
    lines = [f"import mxcheck.kernels.peers.{name}" for name in PEERS]
    # torch may bring ml_dtypes along by itself
    lines.insert(0, "import sys, torch; before = set(sys.modules)")
    lines.append(f"print(*sorted((set(sys.modules) - before) & {set(PEERS.values())!r}))")
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
