"""Each fault, put into a copy of the package, turns the gate red, at the right step and with its cause."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from gate_project import Project

CASE = ("--mx-models", "ref-llama", "--mx-precision", "mxfp8_e4m3", "--mx-tier", "B")
ID = "ref-llama-mxfp8_e4m3-B"


def failed_steps(project: Project, *arguments: str, **environment: str) -> tuple[set[int], str]:
    run = project.gate(*(arguments or CASE), **environment)
    assert run.code == 1, run.output
    (verdict,) = run.verdicts().values()
    word, _, steps = str(verdict).rpartition("step ")
    assert word.startswith("FAIL"), run.output
    return {int(step) for step in steps.split(",")}, run.output


def cause(output: str) -> str:
    """The link of the chain that the one red case names."""
    (named,) = [line for line in output.splitlines() if line.startswith("  cause: ")]
    return named.removeprefix("  cause: ")


def test_the_copy_is_what_runs_and_is_green(accepted: Project) -> None:
    run = accepted.gate(*CASE)
    assert (run.code, run.verdicts()) == (0, {ID: "pass"}), run.output
    where = accepted.run("-c", "import mxcheck; print(mxcheck.__file__)").stdout
    assert where.startswith(str(accepted.source))


def test_ties_away(accepted: Project) -> None:
    """Seen by digest, and by the loss too: in other arithmetic, where step 6 only has the noise to go by."""
    accepted.replace(
        "kernels/rules.py",
        "    values.add_(binade, alpha=alpha).sub_(binade, alpha=alpha)",
        "    step = binade * 2.0**-mantissa_bits\n"
        "    values.copy_(torch.sign(values) * torch.floor(values.abs() / step + 0.5) * step)",
    )
    steps, output = failed_steps(accepted, ATEN_CPU_CAPABILITY="default")
    assert steps == {4, 6}
    assert "step 4 (casts): codes of the quantized weights changed bits in 28 of 28 modules" in output
    assert "step 6 (drift): layers: signed gain" in output
    assert "this machine's arithmetic is not the baseline's" in output


def test_scale_off_by_one(accepted: Project) -> None:
    accepted.replace(
        "kernels/rules.py",
        "(amax >> FRACTION_BITS) - element.emax",
        "(amax >> FRACTION_BITS) - element.emax + 1",
    )
    steps, output = failed_steps(accepted)
    assert steps >= {4, 6}
    assert cause(output).startswith("numerics: the cast gives other bits in every module of attention, mlp")


def test_activations_left_unquantized(accepted: Project) -> None:
    accepted.replace("models/conversion/linear.py", "lambda x: self.cast(x),", "lambda x: x,")
    steps, output = failed_steps(accepted)
    assert steps >= {4, 6}
    assert "step 4 (casts): operands of the products" in output
    assert "quantized weights changed" not in output
    assert cause(output).startswith("conversion: weights are cast as accepted")


def test_one_layer_not_converted(accepted: Project) -> None:
    accepted.replace(
        "models/conversion/convert.py",
        "roles.items() if role in recipe.roles}",
        'roles.items() if role in recipe.roles and name != "model.layers.1.mlp.down_proj"}',
    )
    steps, output = failed_steps(accepted)
    assert min(steps) == 3
    assert f"{ID}: step 3 (conversion): no longer quantized: model.layers.1.mlp.down_proj" in output
    assert cause(output).startswith("conversion: the quantized modules are not the accepted ones")


def test_blocks_along_the_wrong_axis(accepted: Project) -> None:
    accepted.replace(
        "models/conversion/linear.py",
        "axis, casts_of_weights = self.axis, ",
        "axis, casts_of_weights = -2, ",
    )
    steps, _ = failed_steps(accepted)
    assert steps >= {4, 6}


def test_nothing_converted(accepted: Project) -> None:
    """The conversion claims its modules and changes nothing: the result is the reference itself."""
    accepted.replace("models/conversion/linear.py", "nn.Parameter(cast.values,", "nn.Parameter(original,")
    accepted.replace("models/conversion/linear.py", "lambda x: self.cast(x),", "lambda x: x,")
    steps, output = failed_steps(accepted)
    assert min(steps) == 3
    assert "bit-equal to the reference: nothing was quantized" in output


def test_changed_weight(accepted: Project) -> None:
    from safetensors.torch import load_file, save_file

    path = accepted.source / "mxcheck/models/zoo/reference/ref-llama/model.safetensors"
    tensors = load_file(path)
    name = "model.layers.2.mlp.up_proj.weight"
    tensors[name][3, 7] *= 2
    save_file(tensors, path, metadata={"format": "pt"})
    steps, output = failed_steps(accepted)
    assert min(steps) == 1
    assert f"{ID}: step 1 (inputs): weights are not the accepted ones" in output
    assert cause(output).startswith("weights: the weights' values changed")


def test_changed_token(accepted: Project) -> None:
    from mxcheck.evaluation.tokens import load_tokens, save_tokens

    path = accepted.source / "mxcheck/models/zoo/reference/ref-llama/tokens.safetensors"
    tokens = load_tokens(path)
    tokens[5, 100] = (tokens[5, 100] + 1) % 1024
    save_tokens(tokens, path)
    steps, output = failed_steps(accepted)
    assert min(steps) == 1
    assert f"{ID}: step 1 (inputs): tokens are not the accepted ones" in output
    assert cause(output).startswith("tokens: the tokens changed")


def test_changed_tokenizer(accepted: Project) -> None:
    path = accepted.source / "mxcheck/models/zoo/reference/ref-llama/tokenizer.json"
    data = json.loads(path.read_text())
    data["model"]["merges"] = data["model"]["merges"][:-1]
    path.write_text(json.dumps(data))
    steps, output = failed_steps(accepted)
    assert steps == {1}
    assert "tokenizer are not the accepted ones" in output
    assert cause(output).startswith("tokenizer: the tokenizer's files changed")


#: What another release of transformers could do: the norm's mean in the type of its input, bf16.
OTHER_NORM = """
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

def forward(self, hidden_states):
    narrow = hidden_states.bfloat16()
    variance = narrow.pow(2).mean(-1, keepdim=True).float()
    return self.weight * hidden_states * torch.rsqrt(variance + self.variance_epsilon)

LlamaRMSNorm.forward = forward
"""


def test_another_release_of_transformers(accepted: Project) -> None:
    """Its version is read from the metadata that come first on the path."""
    metadata = accepted.source / "transformers-99.0.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: transformers\nVersion: 99.0.0\n")
    with (accepted.directory / "conftest.py").open("a") as file:
        file.write(OTHER_NORM)
    _, output = failed_steps(accepted)
    assert cause(output).startswith(
        "environment: the reference's losses changed on the accepted weights and tokens, and libraries "
        "differ: transformers 99.0.0, accepted with "
    )


def test_results_in_bf16(accepted: Project) -> None:
    """Behind the casts, where no digest looks."""
    before = "            self.calls += 1\n"
    after = "            if inside"
    accepted.replace(
        "models/conversion/linear.py",
        before + after,
        before + "            output = output.bfloat16().to(output.dtype)\n" + after,
    )
    _, output = failed_steps(accepted)
    # where the machine has the baseline's arithmetic; elsewhere by more than that explains
    assert cause(output).startswith(
        (
            "numerics: casts and arithmetic are the accepted ones, so the code after the cast changed",
            "numerics: casts are the accepted ones, but losses moved by more than other",
        )
    )


def test_bounds_that_were_tightened(accepted: Project) -> None:
    (accepted.directory / "tight.toml").write_text(
        '[default]\n"fp8_e4m3-B" = { kl = 1e-9, rise = 1 }\n[models.not-made-yet]\nfp32 = { kl = 0 }\n'
    )
    steps, output = failed_steps(accepted, *CASE, "--mx-bounds", "tight.toml")
    assert steps == {5}
    assert "tight.toml has bounds of unknown models: not-made-yet\n" in output
    assert cause(output).startswith("bounds: the accepted figures are over these bounds too")


ARGMAX = ("return -log_p.gather(-1, targets[:, None])[:, 0]", "return -log_p.max(-1).values")


def test_scoring_against_the_argmax(accepted: Project) -> None:
    accepted.replace("evaluation/token_figures.py", *ARGMAX)
    steps, output = failed_steps(accepted)
    assert min(steps) == 2
    assert f"{ID}: step 2 (reference): reference on its own samples" in output
    assert cause(output).startswith(
        "reference: weights and tokens are the accepted ones, but the reference's loss on its own samples"
    )


def test_scoring_against_the_argmax_is_never_accepted(project: Project) -> None:
    """Without a baseline too: the absolute check precedes every update."""
    project.replace("evaluation/token_figures.py", *ARGMAX)
    run = project.gate(*CASE, "--snapshot-update")
    assert run.code == 1
    assert "step 2 (reference)" in run.output
    assert not project.files()


def test_broken_bounds_are_never_accepted(project: Project) -> None:
    bounds = project.directory / "tight.toml"
    bounds.write_text('[default]\n"mxfp8_e4m3-B" = { kl = 1e-9, rise = 1 }\n')
    run = project.gate(*CASE, "--mx-bounds", "tight.toml", "--snapshot-update")
    assert run.code == 1
    assert run.verdicts() == {ID: "FAIL step 5"}
    assert "step 5 (bounds): KL to the reference" in run.output
    assert not project.files()


def test_a_cast_that_depends_on_the_machine_is_never_accepted(project: Project) -> None:
    """Right here, another scale under other instructions: that is a fault, and no noise to be tolerated."""
    project.replace(
        "kernels/rules.py",
        "(amax >> FRACTION_BITS) - element.emax",
        "(amax >> FRACTION_BITS) - element.emax + "
        "(__import__('os').environ.get('ATEN_CPU_CAPABILITY') == 'default')",
    )
    run = project.gate(*CASE, "--mx-max-samples", "4", "--snapshot-update")
    assert (run.code, run.verdicts()) == (1, {f"{ID}+samples4": "ERROR"}), run.output
    assert "the casts gave other bits in environment 'default'" in run.output
    assert not project.files()


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_missing_baseline(accepted: Project) -> None:
    (accepted.baselines / "ref-llama/mxfp8_e4m3-B.json").unlink()
    run = accepted.gate(*CASE)
    assert (run.code, run.verdicts()) == (1, {ID: "FAIL missing"}), run.output
    assert "no accepted baseline" in run.output
    # What it says to type does what it says.
    (line,) = [text for text in run.output.splitlines() if text.startswith(f"{ID}: no accepted baseline")]
    command = shlex.split(line.partition("accept with: ")[2])
    assert command[0] == "pytest"
    assert accepted.pytest(*command[1:]).verdicts() == {ID: "accepted"}
    assert accepted.gate(*CASE).code == 0


def test_corrupt_and_hand_edited_baselines(accepted: Project) -> None:
    """One cut short; a figure, and the noise that sets the tolerance, changed in an editor; one sound."""
    folder = accepted.baselines / "ref-llama"
    cut = folder / "mxfp8_e4m3-B.json"
    cut.write_text(cut.read_text()[:-100])
    for name, key in (("mxfp8_e4m3-A", "cross_entropy"), ("mxint8-B", "noise")):
        path = folder / f"{name}.json"
        data = json.loads(path.read_text())
        figure = data["noise"]["loss_rms"] if key == "noise" else data[key]
        edit(path, json.dumps(figure), json.dumps(figure * 2))
    words = ("--mx-models", "ref-llama", "--mx-precision", "fp8_e4m3,mxint8", "--mx-tier", "A,B")
    run = accepted.gate(*words, "-k", "test_accuracy and not rceil")
    assert run.code == 1
    verdicts = run.verdicts()
    assert verdicts.pop("ref-llama-mxint8-A") == "pass", run.output
    assert set(verdicts.values()) == {"FAIL corrupt"}, run.output
    assert f"corrupt baseline {cut}" in run.output
    for name in ("mxfp8_e4m3-A", "mxint8-B"):
        assert re.search(rf"^ref-llama-{name}: .* do not bear its seal", run.output, re.MULTILINE), run.output


@pytest.mark.parametrize("value", ["true", "1", "woodpecker"])
def test_update_is_refused_in_ci(accepted: Project, value: str) -> None:
    before = accepted.files()
    run = accepted.gate(*CASE, "--snapshot-update", CI=value)
    assert run.code == pytest.ExitCode.USAGE_ERROR
    assert "--snapshot-update is refused in CI" in run.output
    assert accepted.files() == before
