"""The Triton kernel without a GPU: run by Triton's interpreter, and compiled for GPUs.

`make triton` holds every cell of the kernel suite against the oracle; here a few casts a format are compared
with eager's.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="Triton is not installed: torch's CUDA build brings the version that it needs, its CPU build none",
)

# What both processes begin with: every format once with what it alone has, and bits of every kind.
BEGIN = """
import sys
from dataclasses import replace
import torch
from mxcheck.formats.blocks import BLOCK_FORMATS
from mxcheck.formats.spec import cast_spec
from mxcheck.kernels import calls_triton, casts_triton
from mxcheck.kernels.calls_triton import fake_quantize_triton, quantize_triton

made = torch.Generator().manual_seed(18)
MORE = {
    "fp8_e4m3": {"scale_rule": "reciprocal", "nonfinite": "element"},
    "fp8_e5m2": {"scale_rule": "ceil", "rounding": "zero", "nonfinite": "element"},
    "fp6_e3m2": {"rounding": "stochastic"},
    "fp6_e2m3": {"scale_rule": "even", "rounding": "away"},
    "fp4_e2m1": {"scale_rule": "rceil"},
    "mxint8": {"rounding": "stochastic"},
}
def asked(name, x, **more):
    spec = cast_spec(name, **MORE.get(name, {}), **more)
    drawn = torch.randint(2**32, x.shape, generator=made)
    return replace(spec, random=drawn) if spec.rounding == "stochastic" else spec
"""

INTERPRETED = """
from mxcheck.kernels.eager import fake_quantize_eager, quantize_eager

def same(one, other):
    ints = {4: torch.int32, 2: torch.int16, 1: torch.uint8}[one.element_size()]
    alike = one.view(ints) == other.view(ints)
    if one.is_floating_point():
        alike |= one.isnan() & other.isnan()
    return one.shape == other.shape and one.dtype == other.dtype and bool(alike.all())

def wild(dtype):
    ints = torch.int32 if dtype == torch.float32 else torch.int16
    least, most = torch.iinfo(ints).min, torch.iinfo(ints).max
    return torch.randint(least, most + 1, (3, 70, 5), generator=made).to(ints).view(dtype)

def near(dtype):
    octaves = torch.randint(-20, 20, (70, 1), generator=made)
    return torch.ldexp(torch.randn(70, 40, generator=made), octaves).to(dtype)

def wrong(names):
    found = []
    for name in names:
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            for x, axis in ((wild(dtype), 1), (near(dtype), -1), (near(dtype).mT, 1), (near(dtype) * 0, 0)):
                spec = asked(name, x, axis=axis)
                pairs = [*zip(quantize_triton(x, spec), quantize_eager(x, spec), strict=True)]
                pairs += [(fake_quantize_triton(x, spec), fake_quantize_eager(x, spec))]
                if spec.nonfinite == "element":  # a conversion may lose a NaN's sign
                    most = spec.element.max_magnitude
                    pairs[0] = tuple(one.where((one & 127) <= most, one & 127) for one in pairs[0])
                if not all(same(*pair) for pair in pairs):
                    found.append((name, str(dtype), axis))
    return found

assert casts_triton.INTERPRETED
assert wrong(BLOCK_FORMATS) == []
x = near(torch.float32)
spec = cast_spec("nvfp4")
out = tuple(torch.empty_like(part) for part in quantize_eager(x, spec))
assert quantize_triton(x, spec, out) is out and all(map(same, out, quantize_eager(x, spec)))
out = torch.empty_like(x)
assert fake_quantize_triton(x, spec, out) is out and same(out, fake_quantize_eager(x, spec))
# and it would have seen a wrong one
calls_triton._ABOVE["floor"] = calls_triton._ABOVE["ceil"]
calls_triton._constants.cache_clear()
assert wrong(["fp4_e3m0"])
print("equal")
"""

# One compilation a line; only what Triton would pass from the call is made up here.
COMPILED = """
import re
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

POINTERS = {torch.int32: "*i32", torch.int16: "*i16", torch.uint8: "*u8", torch.int64: "*i64"}
kernel = casts_triton.cast
assert not casts_triton.INTERPRETED

class Compiling:
    def __class_getitem__(cls, grid):
        return cls.compile

    def compile(*given, **constants):
        signature, known = {}, dict(constants)
        for name, one in zip(kernel.arg_names, given, strict=False):
            if one is None or (isinstance(one, int) and one == 1):
                signature[name], known[name] = "constexpr", one
            else:
                signature[name] = POINTERS[one.dtype] if isinstance(one, torch.Tensor) else "i32"
        signature |= dict.fromkeys(constants, "constexpr")
        for capability in CAPABILITIES:
            source, target = ASTSource(kernel, signature, known), GPUTarget("cuda", capability, 32)
            ptx = compile(source, target=target).asm["ptx"]
            floating = set(re.findall(r"^\\s+(?:@!?%p\\d+ )?([\\w.]*\\.(?:b?f16|f32|f64)[\\w.]*)", ptx, re.M))
            assert floating <= ALLOWED, floating

# conversions that are exact, and what clears signs
ALLOWED = {"cvt.rn.f32.s32", "cvt.rn.f32.u32", "cvt.f32.f16", "abs.f16", "abs.f16x2"}
CAPABILITIES = [90]
casts_triton.cast, calls_triton._check = Compiling, lambda x, spec: None
calls_triton._INTERPRETED_TILE = calls_triton._TILE
for name, dtype in zip(BLOCK_FORMATS, (torch.float32, torch.bfloat16, torch.float16) * 4):
    x = torch.ones(64, 4096, dtype=dtype)
    quantize_triton(x, asked(name, x))
CAPABILITIES += [80, 100]
for name, dtype in (("fp8_e4m3", torch.bfloat16), ("nvfp4", torch.float16), ("e5m2_row", torch.float32)):
    fake_quantize_triton(torch.ones(64, 4096, dtype=dtype), asked(name, torch.ones(64, 4096)))
ALLOWED.clear()  # and it would have seen others
try:
    quantize_triton(x, asked("e5m2_row", x))
except AssertionError:
    print("integers")
"""


def run(code: str, interpret: str) -> str:
    # in a process of its own: Triton reads the variable when it is imported
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", BEGIN + code],
        env={**os.environ, "TRITON_INTERPRET": interpret},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_format_has_eager_s_bits() -> None:
    assert run(INTERPRETED, "1") == "equal\n"


@pytest.mark.slow  # eighteen compilations
def test_it_compiles_for_gpus_and_computes_with_integers() -> None:
    assert run(COMPILED, "0") == "integers\n"
