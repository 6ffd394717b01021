"""A case that cannot run, or that breaks, is skipped or fails by itself and by name; the others finish."""

from __future__ import annotations

import pytest
from gate_project import Project

#: Few short sequences: what a case measures does not matter here, only how it ends.
FEW = ("--mx-tier", "A", "--mx-max-samples", "2", "--mx-sequence-length", "32")
LABEL = "length32+samples2"
ON_CPU = "the model is on cpu"

#: Python's own search for modules, which finds no bitsandbytes any more.
_ABSENT = """
import sys
from importlib.machinery import PathFinder
class WithoutBitsAndBytes:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] == "bitsandbytes" else PathFinder.find_spec(name, path, target)
    find_distributions = PathFinder.find_distributions
    invalidate_caches = PathFinder.invalidate_caches
sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutBitsAndBytes
"""


def test_bitsandbytes_that_is_not_installed(project: Project) -> None:
    conftest = project.directory / "conftest.py"  # read before anything looks for libraries
    conftest.write_text(_ABSENT + conftest.read_text())
    words = (*FEW, "--mx-models", "ref-llama", "--mx-skip", "mx,bf16,bf16_operands,fp8_tensor,nvfp4,te")
    run = project.gate(*words, "--mx-precision", "all", "--snapshot-update")
    assert (run.code, run.verdicts()) == (
        0,
        {
            f"ref-llama-fp32+{LABEL}": "accepted",
            f"ref-llama-bnb_int8-A+{LABEL}": "skipped",
            f"ref-llama-scaled_mm_fp8-A+{LABEL}": "accepted",
            f"ref-llama-scaled_mm_fp8_row-A+{LABEL}": "accepted",
        },
    ), run.output
    reason = "bitsandbytes is not installed: pip install 'mxcheck[bnb]'"
    assert f"skipped: bnb_int8 of ref-llama (cases: 1): {reason}" in run.output
    # and by default it is left out, which the header says
    run = project.gate(*words)
    assert (run.code, set(run.verdicts().values())) == (0, {"pass"}), run.output
    assert f"bnb_int8-A+{LABEL}" not in run.output
    assert "mxcheck: left out, their library is not installed: bnb_int8" in run.output


def test_libraries_that_cannot_run_here_are_told_before_a_model_is_loaded(project: Project) -> None:
    """A binary for another torch, and Transformer Engine where there is no CUDA device. The model is nowhere:
    whoever tried to load it would fail, as fp32 does."""
    (project.source / "bitsandbytes").mkdir()
    (project.source / "bitsandbytes" / "__init__.py").write_text(
        "raise ImportError('libbitsandbytes_cpu.so: undefined symbol: cquantize')\n"
    )
    (project.source / "transformer_engine").mkdir()
    (project.source / "transformer_engine" / "__init__.py").write_text(
        "raise RuntimeError('Could not find shared object file for CUDA')\n"
    )
    run = project.gate(
        *FEW, "--mx-models", "mxcheck-tests/nowhere", "--mx-device", "cpu",
        "--mx-precision", "fp32,bnb_int8,te_fp8_current,te_fp8_delayed,te_mxfp8",
    )  # fmt: skip
    stem = "mxcheck-tests--nowhere"
    libraries = ("bnb_int8", "te_fp8_current", "te_fp8_delayed", "te_mxfp8")
    assert (run.code, run.verdicts()) == (
        1,
        {f"{stem}-fp32+{LABEL}": "ERROR"} | {f"{stem}-{name}-A+{LABEL}": "skipped" for name in libraries},
    ), run.output
    assert "make them with: mxcheck sample mxcheck-tests/nowhere" in run.output
    lines = [line for line in run.output.splitlines() if line.startswith("skipped: ")]
    assert lines[0].startswith(
        f"skipped: bnb_int8 of {stem} (cases: 1): bitsandbytes is installed but broken: importing "
        f"bitsandbytes raises ImportError: libbitsandbytes_cpu.so: undefined symbol: cquantize; install "
    )
    needs = "needs a CUDA device of compute capability"
    assert lines[1:] == [
        f"skipped: te_fp8_current, te_fp8_delayed of {stem} (cases: 2): {needs} 8.9 or later, and {ON_CPU}",
        f"skipped: te_mxfp8 of {stem} (cases: 1): {needs} 10.0 up to, not including, 12.0, and {ON_CPU}",
    ]


def test_a_library_that_was_accepted_and_broke_is_red(accepted: Project) -> None:
    """A skip would let it pass for one that was never there."""
    (accepted.source / "bitsandbytes").mkdir()
    (accepted.source / "bitsandbytes" / "__init__.py").write_text(
        "raise ImportError('undefined symbol: x')\n"
    )
    run = accepted.gate("--mx-models", "ref-neo", "--mx-tier", "A", "--mx-precision", "fp32,bnb_int8")
    assert (run.code, run.verdicts()) == (
        1,
        {"ref-neo-fp32": "pass", "ref-neo-bnb_int8-A": "ERROR"},
    ), run.output
    assert "ref-neo-bnb_int8-A: it was accepted on such a device (" in run.output
    assert "cannot run now: bitsandbytes is installed but broken" in run.output


def test_a_library_that_takes_none_of_the_accepted_modules_is_red(accepted: Project) -> None:
    accepted.replace(
        "models/backends/library_linear.py", "    kind = type(module)\n", "    return 'too new'\n"
    )
    run = accepted.gate("--mx-models", "ref-neo", "--mx-tier", "A", "--mx-precision", "scaled_mm_fp8")
    assert (run.code, run.verdicts()) == (1, {"ref-neo-scaled_mm_fp8-A": "ERROR"}), run.output
    assert "cannot run now: scaled_mm_fp8 converts none of the 8 modules" in run.output


def test_transformer_engine_that_is_not_installed(project: Project) -> None:
    run = project.gate(*FEW, "--mx-models", "mxcheck-tests/nowhere", "--mx-precision", "te_mxfp8")
    assert (run.code, set(run.verdicts().values())) == (1, {"skipped"}), run.output
    assert "mxcheck: red: every case was skipped, so nothing was compared" in run.output
    assert "(cases: 1): transformer_engine is not installed: pip install" in run.output


#: Two formats that break, in the model alone and not in the trial call before it.
_KERNELS = """
import torch
from mxcheck.kernels.eager import quantize_eager

def cast(x, spec):
    if spec.format == "fp8_e5m2" and x.numel() > 1000:
        torch.empty(2**60, dtype=torch.uint8)  # more than any machine has: the allocator refuses
    codes, scales = quantize_eager(x, spec)
    if spec.format == "mxint8" and x.shape[-1] == WIDTH:
        scales.fill_(0xFF)  # NaN
    return codes, scales
"""


@pytest.fixture
def breaking(project: Project) -> tuple[str, ...]:
    """Words of a run of three formats, of which the first two break."""
    from transformers import AutoConfig

    from mxcheck.models.zoo.known_models import model_source

    width = AutoConfig.from_pretrained(model_source("ref-llama").location).intermediate_size
    (project.directory / "my_kernels.py").write_text(_KERNELS.replace("WIDTH", str(width)))
    formats = "mxfp8_e5m2,mxint8,mxfp4_e3m0"
    return (*FEW, "--mx-models", "ref-llama", "--mx-kernel", "my_kernels:cast", "--mx-precision", formats)


def test_a_case_out_of_memory_and_one_with_nan(project: Project, breaking: tuple[str, ...]) -> None:
    """While baselines are accepted, which measures all of them again in other processes, and afterwards."""
    broken = {f"ref-llama-{name}-A+{LABEL}" for name in ("mxfp8_e5m2", "mxint8")}
    for word, more in (("accepted", ("--snapshot-update",)), ("pass", ("-n", "1"))):
        run = project.gate(*breaking, *more)
        verdicts = run.verdicts()
        assert run.code == 1, run.output
        assert {name for name, verdict in verdicts.items() if verdict == "ERROR"} == broken, run.output
        assert {verdict for name, verdict in verdicts.items() if name not in broken} == {word}, run.output
        assert len(verdicts) == 3
        assert f"ref-llama-mxfp8_e5m2-A+{LABEL}: out of memory on cpu: " in run.output
        assert "lower --mx-batch-size or --mx-sequence-length" in run.output
        culprit = "the first module to produce NaN or infinity is model.layers.0.mlp.down_proj (Linear)"
        assert f"ref-llama-mxint8-A+{LABEL}: logits are not finite: {culprit}" in run.output
        assert "Traceback" not in run.output
    assert len(project.files()) == 1
