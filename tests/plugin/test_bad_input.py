"""Bad input gets one clear line: what, what was got, what is allowed, the nearest match."""

from __future__ import annotations

from pathlib import Path

import pytest
from gate_project import Project

RUN = ("--mx-precision", "mxfp8_e4m3", "--mx-tier", "A", "--mx-max-samples", "2")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ("--mx-models", "ref-lama"),
            "unknown model 'ref-lama'; allowed: ref-llama, ref-neo, ref-moe, outlier-llama, long-llama, ",
        ),
        (("--mx-models", "ref-lama"), "did you mean 'ref-llama'?"),
        (("--mx-models", "./nowhere"), "model directory './nowhere' does not exist"),
        (
            ("--mx-precision", "fp8_e4m2"),
            "unknown --mx-precision 'fp8_e4m2'; allowed: fp32, bf16, bf16_operands",
        ),
        (("--mx-precision", "fp8e4m3"), "did you mean 'mxfp8_e4m3'?"),
        (("--mx-format", "fp8"), "--mx-format 'fp8' may be fp8_e4m3 or fp8_e5m2 or"),
        (("--mx-tier", "E"), "unknown --mx-tier 'E'; allowed: A, B, C, D, all"),
        (("--mx-tier", "B", "--mx-mlp-only"), "--mx-mlp-only takes the place of a tier, got --mx-tier=B too"),
        (("--mx-skip", "int8"), "unknown --mx-skip 'int8'; allowed: bf16, bf16_operands, fp8_tensor, mx"),
        (
            ("--mx-scale-rule", "flor"),
            "unknown --mx-scale-rule 'flor'; allowed: floor, ceil, even, rceil, reciprocal, amax; did you",
        ),
        (("--mx-rounding", "odd"), "unknown --mx-rounding 'odd'; allowed: even, away, zero"),
        (("--mx-block-size", "48"), "unknown --mx-block-size '48'; allowed: 16, 32, 64, 128"),
        (("--mx-batch-size", "many"), "--mx-batch-size must be a whole number from 1 to 65536, got 'many'"),
        (
            ("--mx-reference-cache", "1GiB"),
            "--mx-reference-cache must be a whole number from 0 to 16777216, got '1GiB'",
        ),
        (("--mx-device", "gpu"), "unknown --mx-device 'gpu'; allowed: auto, cpu, cuda"),
        (("--mx-report", f"{__file__}/below"), f"{__file__} is not a directory; name a directory"),
        (("--mx-precision", "bf16", "--mx-skip", "bf16"), "no precision is left"),
        (("--mx-bounds", "none.toml"), "none.toml"),
        (("--mx-datasets", "./none.txt"), "corpus file './none.txt' does not exist"),
        (("--mx-metrics", "none"), "unknown metric 'none'"),
        (("--mx-preset", "huge"), "unknown --mx-preset 'huge'; allowed: quick, medium, full, large"),
        (("--mx-min-free-ratio", "-0.1"), "--mx-min-free-ratio must be a number from 0 to 1, got '-0.1'"),
        (("--mx-min-free-ratio", "half"), "--mx-min-free-ratio must be a number from 0 to 1, got 'half'"),
        (("--mx-workers-per-device", "0"), "--mx-workers-per-device must be a whole number from 1 to 1024"),
        (
            ("--mx-shard", "5/4", "--mx-report", "r"),
            "--mx-shard must be i/N with i from 1 to N, as in 2/4, got",
        ),
        (("--mx-shard", "1/9", "--mx-report", "r"), "and the run has 8; give at most N = 8"),
        (("--mx-shard", "1/2"), "--mx-shard=1/2 needs --mx-report=DIR"),
        (
            ("--mx-durations", "none.json"),
            "none.json: no such file; name the accuracy.json of an earlier run",
        ),
        (("--mx-recentre",), "--mx-recentre rewrites baselines: add --snapshot-update"),
    ],
)
def test_options(project: Project, arguments: tuple[str, ...], line: str) -> None:
    run = project.gate(*arguments, "--collect-only")
    assert run.code == pytest.ExitCode.USAGE_ERROR, run.output
    (error,) = [text for text in run.output.splitlines() if text.startswith("ERROR")]
    assert "mxcheck: " in error
    assert line in error


def test_two_models_of_one_name(project: Project) -> None:
    for parent in ("one", "two"):
        (project.directory / parent / "same").mkdir(parents=True)
    run = project.gate("--mx-models", "./one/same,./two/same", "--collect-only")
    assert run.code == pytest.ExitCode.USAGE_ERROR
    assert "rename one" in run.output


@pytest.fixture
def model(project: Project) -> Path:
    """A model directory of the user's, with its evaluation tokens where `mxcheck sample` puts them."""
    return made(project, "my-model")


def made(project: Project, name: str) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from mxcheck.evaluation.tokens import save_tokens

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    path = project.directory / name
    LlamaForCausalLM(config).save_pretrained(path)
    tokens = project.baselines / name / "tokens.safetensors"
    tokens.parent.mkdir(parents=True)
    save_tokens(torch.randint(0, 64, (2, 16)), tokens)
    return path


def filled(path: Path, value: float, *names: str) -> None:
    """Fill weights of the second layer's MLP."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(path / "model.safetensors")
    for name in names:
        tensors[f"model.layers.1.mlp.{name}.weight"].fill_(value)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


def test_each_model_that_cannot_be_measured_is_one_line(project: Project) -> None:
    """Whatever it lacks; and the others of the same run are red for their own."""
    bare = made(project, "bare")
    (bare / "model.safetensors").rename(bare / "pytorch_model.bin")
    cut = made(project, "cut") / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-1000])
    filled(made(project, "nan"), float("nan"), "up_proj")
    filled(made(project, "overflows"), 3e38, "up_proj", "gate_proj")  # finite weights; their products are not
    made(project, "silent")
    (project.baselines / "silent" / "tokens.safetensors").unlink()
    says = {
        "bare": ("model './bare': no *.safetensors file (it has pytorch_model.bin",),
        "cut": ("model './cut': model.safetensors is truncated or corrupt",),
        "nan": (
            "model './nan': model.safetensors (tensor model.layers.1.mlp.up_proj.weight)",
            "NaN or infinite",
        ),
        "overflows": (
            "logits are not finite: the first module to produce NaN or infinity is model.layers.1.mlp.",
        ),
        "silent": ("make them with: mxcheck sample ./silent",),
    }
    run = project.gate("--mx-models", ",".join(f"./{name}" for name in says), *RUN)
    case = "mxfp8_e4m3-A+samples2"
    assert (run.code, run.verdicts()) == (1, {f"{name}-{case}": "ERROR" for name in says}), run.output
    assert "Traceback" not in run.output
    for name, words in says.items():
        (line,) = [text for text in run.output.splitlines() if text.startswith(f"{name}-{case}: ")]
        assert all(word in line for word in words), line


@pytest.mark.usefixtures("model")
def test_kernel_that_does_not_exist(project: Project) -> None:
    run = project.gate("--mx-models", "./my-model", *RUN, "--mx-kernel", "no_such:cast")
    assert run.code == 4  # a usage error, before anything is loaded
    assert "there is no module 'no_such'" in run.output


@pytest.mark.usefixtures("model")
def test_a_model_that_predicts_nothing_needs_a_reason(project: Project) -> None:
    """Its weights are random, and it is no subject for a gate without one."""
    narrow = ("--mx-models", "./my-model", "--mx-precision", "bf16")
    run = project.gate(*narrow, "--snapshot-update")
    assert (run.code, set(run.verdicts().values())) == (1, {"FAIL step 2"}), run.output
    assert "of a uniform distribution's (allowed below 99 %)" in run.output
    (project.baselines / "my-model" / "bounds.toml").write_text('bf16 = { kl = 1, reason = "a test" }\n')
    run = project.gate(*narrow, "--snapshot-update")
    assert (run.code, run.verdicts()) == (0, {"my-model-bf16": "accepted"}), run.output
