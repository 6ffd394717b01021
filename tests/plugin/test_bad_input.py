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
        (("--mx-format", "fp8"), "unknown --mx-format 'fp8'; allowed: fp8_e4m3, fp8_e5m2"),
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
        (("--mx-device", "gpu"), "unknown --mx-device 'gpu'; allowed: auto, cpu, cuda"),
        (("--mx-report", f"{__file__}/below"), f"{__file__} is no directory; name a directory"),
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
        (("--mx-shard", "1/9", "--mx-report", "r"), "and has 8; give at most N = 8"),
        (("--mx-shard", "1/2"), "--mx-shard=1/2 needs --mx-report=DIR"),
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
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from mxcheck.evaluation.tokens import save_tokens

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    path = project.directory / "my-model"
    LlamaForCausalLM(config).save_pretrained(path)
    tokens = project.baselines / "my-model" / "tokens.safetensors"
    tokens.parent.mkdir(parents=True)
    save_tokens(torch.randint(0, 64, (2, 16)), tokens)
    return path


def one_line(project: Project) -> str:
    run = project.gate("--mx-models", "./my-model", *RUN)
    assert (run.code, run.verdicts()) == (1, {"my-model-mxfp8_e4m3-A+samples2": "ERROR"}), run.output
    lines = [text for text in run.output.splitlines() if text.startswith("my-model-mxfp8_e4m3-A+samples2: ")]
    assert len(lines) == 1, run.output
    assert "Traceback" not in run.output
    return lines[0]


def test_model_without_safetensors(project: Project, model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    assert "model './my-model': no *.safetensors file (it has pytorch_model.bin" in one_line(project)


def test_truncated_safetensors(project: Project, model: Path) -> None:
    data = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(data[:-1000])
    assert "model './my-model': model.safetensors is truncated or corrupt" in one_line(project)


def test_nan_weights(project: Project, model: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(model / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    line = one_line(project)
    assert "model './my-model': model.safetensors (tensor model.layers.1.mlp.up_proj.weight)" in line
    assert "NaN or infinite" in line


def test_non_finite_logits_name_the_module(project: Project, model: Path) -> None:
    """Finite weights whose products overflow."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(model / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"].fill_(3e38)
    tensors["model.layers.1.mlp.gate_proj.weight"].fill_(3e38)
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    line = one_line(project)
    assert "logits are not finite: the first module to produce NaN or infinity is model.layers.1.mlp." in line


@pytest.mark.usefixtures("model")
def test_model_without_tokens(project: Project) -> None:
    (project.baselines / "my-model" / "tokens.safetensors").unlink()
    assert "make them with: mxcheck sample ./my-model" in one_line(project)


@pytest.mark.usefixtures("model")
def test_kernel_that_does_not_exist(project: Project) -> None:
    run = project.gate("--mx-models", "./my-model", *RUN, "--mx-kernel", "no_such:cast")
    assert run.code == 4  # a usage error, before anything is loaded
    assert "there is no module 'no_such'" in run.output


@pytest.mark.usefixtures("model")
def test_own_model_end_to_end(project: Project) -> None:
    """Sample, accept, gate: what the README tells a new user to do."""
    (project.baselines / "my-model" / "tokens.safetensors").unlink()
    done = project.run("-m", "mxcheck.cli", "sample", "./my-model", "--sequences", "8", "--length", "32")
    assert done.returncode == 0, done.stderr
    narrow = ("--mx-models", "./my-model", "--mx-precision", "mxfp8_e4m3,bf16")
    # Its weights are random: it predicts nothing, and is no subject for a gate without a reason.
    run = project.gate(*narrow, "--snapshot-update")
    assert (run.code, set(run.verdicts().values())) == (1, {"FAIL step 2"}), run.output
    assert "of a uniform distribution's (allowed below 99 %)" in run.output
    (project.baselines / "my-model" / "bounds.toml").write_text(
        "".join(
            f'{stage} = {{ kl = 1, reason = "a test" }}\n'
            for stage in ("bf16", "mxfp8_e4m3-A", "mxfp8_e4m3-B")
        )
    )
    run = project.gate(*narrow, "--snapshot-update")
    assert (run.code, set(run.verdicts().values())) == (0, {"accepted"}), run.output
    run = project.gate(*narrow, "-n", "2")
    assert (run.code, set(run.verdicts().values())) == (0, {"pass"}), run.output
    assert sorted(run.rows) == ["my-model-bf16", "my-model-mxfp8_e4m3-A", "my-model-mxfp8_e4m3-B"]
