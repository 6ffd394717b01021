"""`mxcheck explain`: what it prints of a cast, and of a kernel compared with it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from baselines_project import Capture, lines, refused

from mxcheck.cli import main
from mxcheck.formats.notation import parse_values, reproduction
from mxcheck.formats.spec import cast_spec

KERNELS = """
import torch
from mxcheck.kernels.api import resolve_kernel

def right(x, spec):
    return resolve_kernel("auto")[0](x, spec)

def values(x, spec):
    return resolve_kernel("auto")[1](x, spec)

def wrong(x, spec):
    codes, scales = right(x, spec)
    codes.view(-1)[1] ^= 1
    return codes, scales

def one_too_few(x, spec):
    return right(x, spec)[:1]

def fails(x, spec):
    raise ValueError("out of shared memory")

def unable(x, spec):
    raise NotImplementedError("no fp4 on this device")

def leaves(x, spec):
    raise SystemExit(0)

def skips(x, spec):
    import pytest
    pytest.skip("not here")

def requires_gradients(x, spec):
    codes, scales, *rest = right(x, spec)
    return codes, scales.requires_grad_() if scales.is_floating_point() else scales, *rest

def sparse(x, spec):
    return values(x, spec).to_sparse()

def in_place(x, spec):
    result = right(x, spec)
    x.zero_()
    return result
"""


@pytest.fixture
def kernels(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module with kernels, in the directory that the command runs in."""
    name = f"kernels_of_{project.name}"
    (project / f"{name}.py").write_text(KERNELS)
    monkeypatch.setattr("sys.path", [*sys.path])
    yield name
    sys.modules.pop(name, None)


def test_explain(capsys: Capture) -> None:
    assert main(["explain", "fp8_e4m3", "--values", "0.1", "3e5", "-inf"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "policy 'block'" in captured.out
    assert "2 -Inf ff800000 - any - NaN - - an Inf" in lines(captured.out)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--values", "-3e5", "-.5", "1"], "1 -0.5 bf000000 "),
        (["--hex", "3f8ccccd", "0*30", "0x40000000"], "31 2 40000000 "),
        (["--hex", "3f800000*6", "--shape", "3x2", "--axis", "-2"], "0,1 … 2,1 1 3f800000 "),
        (["--values", "0.1", "--dtype", "bfloat16"], "0 0.100097656 3dcd0000 "),
        (["--values", "1", "--block-size", "16"], "block 0 of 1: element [0], filled up with 15 zeros"),
        (["--values", "500", "--scale-rule", "rceil"], "rceil s = least with amax ≤ max · 2^s = 1 "),
        (
            ["--values", "500", "--dialect", "te"],
            "fp8_e4m3; blocks of 32 with E8M0 scales; scale rule reciprocal; ",
        ),
        (["--values", "1", "--nonfinite", "element"], "NaN/Inf policy element"),
        (["--values", "272", "--rounding", "away"], "tie, away from zero"),
        (["--values", "272", "--rounding", "stochastic", "--random", "5"], "down: 0.5 + 1.164e-09 < 1"),
    ],
)
def test_options_of_explain(capsys: Capture, arguments: list[str], expected: str) -> None:
    assert main(["explain", "fp8_e4m3", *arguments]) == 0
    assert expected in "\n".join(lines(capsys.readouterr().out))


@pytest.mark.parametrize("function", ["right", "values", "requires_gradients"])
@pytest.mark.parametrize("format", ["fp8_e4m3", "nvfp4", "e5m2_row", "e4m3_tensor", "mxint8"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_right_kernel(capsys: Capture, kernels: str, function: str, format: str, dtype: str) -> None:
    words = ["--hex", "3f800000", "c0400000*40", "0*3", "80000000", "--shape", "5x9", "--axis", "0"]
    assert main(["explain", format, *words, "--dtype", dtype, "--kernel", f"{kernels}:{function}"]) == 0
    assert f"kernel {kernels}:{function}: every bit is right" in capsys.readouterr().out


def test_a_kernel_gets_the_random_integers(capsys: Capture) -> None:
    words = ["--values", "272", "272", "--rounding", "stochastic", "--random", "4294967295", "0"]
    assert main(["explain", "fp8_e4m3", *words, "--kernel", "eager"]) == 0
    assert "every bit is right (2 codes and 1 scales)" in capsys.readouterr().out


def test_a_wrong_kernel(capsys: Capture, kernels: str) -> None:
    assert main(["explain", "fp8_e4m3", "--values", "448", "1", "--kernel", f"{kernels}:wrong"]) == 1
    text = lines(capsys.readouterr().out)
    assert "1 1 3f800000 1 38 0|0111|000 1 1 0 0 ≠ 39 0|0111|001 1.125" in text
    assert text[-1] == f"kernel {kernels}:wrong: 1 of 2 codes and 0 of 1 scales differ"


def test_what_a_failure_prints_shows_the_failure(capsys: Capture, kernels: str) -> None:
    x = parse_values(["1", "2"])
    words = shlex.split(reproduction(x, cast_spec("fp4_e2m1"), kernel=f"{kernels}:wrong"))
    assert main(words[1:]) == 1
    assert "1 of 2 codes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("one_too_few", "got 1 tensors"),
        ("fails", "raised ValueError: out of shared memory (kernels.py:20)"),
        ("leaves", "raised SystemExit: 0 (kernels.py:26)"),
        ("skips", "raised Skipped: not here (kernels.py:30)"),
        ("sparse", "return a torch.Tensor: its own numbers, or what it stands for"),
        ("in_place", "it changed its input"),
    ],
)
def test_a_kernel_without_a_result(capsys: Capture, kernels: str, function: str, message: str) -> None:
    assert main(["explain", "fp8_e4m3", "--values", "1", "--kernel", f"{kernels}:{function}"]) == 1
    captured = capsys.readouterr()
    assert "0 1 3f800000 256 78 0|1111|000 256 1 0 0" in lines(captured.out)  # what it had to be
    assert captured.err.splitlines()[-1].startswith(f"kernel {kernels}:{function}: ")
    assert captured.err.rstrip().replace(f"({kernels}.py", "(kernels.py").endswith(message)
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("raised", ["SystemExit(0)", "OSError('libcuda.so')"])
def test_a_module_that_raises(capsys: Capture, project: Path, kernels: str, raised: str) -> None:
    (project / f"{kernels}.py").write_text(f"raise {raised}\n")
    assert main(["explain", "fp8_e4m3", "--values", "1", "--kernel", f"{kernels}:f"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    name = raised.partition("(")[0]
    assert last == f"kernel {kernels}:f: cannot be loaded: its module raised {name}"


def test_a_kernel_that_says_what_it_does_not_do(capsys: Capture, kernels: str) -> None:
    message = refused(capsys, "explain", "fp4_e2m1", "--values", "1", "--kernel", f"{kernels}:unable")
    assert "does not do this: no fp4 on this device" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fp8_e4m4", "--values", "1"], "did you mean 'fp8_e4m3'?"),
        (["fp8_e4m3", "--values", "x"], "'x' is not a number; allowed: "),
        (["fp8_e4m3", "--hex", "3f8000000"], "'3f8000000' is no bit pattern; allowed: "),
        (["fp8_e4m3", "--values", "1", "--dtype", "f16"], "did you mean 'float16'?"),
        (["fp8_e4m3", "--values", "1", "2", "--shape", "3x1"], "has 3 elements, got 2 values"),
        (["fp8_e4m3", "--values", "1", "--axis", "1"], "axis 1 is out of range"),
        (["fp8_e4m3", "--values", "1", "--block-size", "0"], "block size must be at least 1, got 0"),
        (["fp8_e4m3", "--values", "1", "--tail", "error"], "tail='pad' would fill"),
        (["fp8_e4m3", "--values", "1", "--rounding", "stochastic"], "takes --random with an integer"),
        (["fp8_e4m3", "--values", "1", "--random", "1"], "--random is for --rounding stochastic"),
        (
            ["fp8_e4m3", "--values", "1", "--rounding", "stochastic", "--random", "-1"],
            "mxcheck: '-1' is no random integer",
        ),
        (["fp8_e4m3", "--hex", "-1"], "mxcheck: '-1' is no bit pattern"),
        (["fp8_e4m3", "--values", "1", "--shape", "-1"], "mxcheck: '-1' is no shape"),
        (
            ["fp8_e4m3", "--values", "1", "--dialect", "te", "--scale-rule", "ceil"],
            "--dialect te says --scale-rule already",
        ),
        (["fp8_e4m3", "--values", "1", "--dialect", "tee"], "did you mean 'te'?"),
        (["nvfp4", "--values", "1", "--scale-rule", "ceil"], "allowed: amax"),
        (["fp8_e4m3", "--values", "1", "--kernel", "absent_module:f"], "no module 'absent_module'"),
    ],
)
def test_what_explain_refuses(capsys: Capture, arguments: list[str], message: str) -> None:
    assert message in refused(capsys, "explain", *arguments)
