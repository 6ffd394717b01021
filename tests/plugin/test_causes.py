"""Each link of the chain, broken in a copy of the package, is the one that the red case names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from gate_project import Project

CASE = ("--mx-models", "ref-llama", "--mx-precision", "mxfp8_e4m3", "--mx-tier", "B")
MODEL = "mxcheck/models/reference/ref-llama"

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


def other_transformers(project: Project) -> None:
    """Its version is read from the metadata that come first on the path."""
    metadata = project.source / "transformers-99.0.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: transformers\nVersion: 99.0.0\n")
    with (project.directory / "conftest.py").open("a") as file:
        file.write(OTHER_NORM)


def changed_weight(project: Project) -> None:
    from safetensors.torch import load_file, save_file

    path = project.source / MODEL / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.2.mlp.up_proj.weight"][3, 7] *= 2
    save_file(tensors, path, metadata={"format": "pt"})


def changed_tokenizer(project: Project) -> None:
    path: Path = project.source / MODEL / "tokenizer.json"
    data = json.loads(path.read_text())
    data["model"]["merges"] = data["model"]["merges"][:-1]
    path.write_text(json.dumps(data))


def changed_token(project: Project) -> None:
    from mxcheck.evaluation.tokens import load_tokens, save_tokens

    path = project.source / MODEL / "tokens.safetensors"
    tokens = load_tokens(path)
    tokens[5, 100] = (tokens[5, 100] + 1) % 1024
    save_tokens(tokens, path)


def scored_against_the_argmax(project: Project) -> None:
    project.replace(
        "evaluation/measure.py",
        "return -log_p.gather(-1, targets[:, None])[:, 0]",
        "return -log_p.max(-1).values",
    )


def one_layer_left_out(project: Project) -> None:
    project.replace(
        "models/convert.py",
        "roles.items() if role in recipe.roles}",
        'roles.items() if role in recipe.roles and name != "model.layers.1.mlp.down_proj"}',
    )


def activations_left_as_they_are(project: Project) -> None:
    project.replace("models/linear.py", "lambda x: self.cast(x),", "lambda x: x,")


def scale_off_by_one(project: Project) -> None:
    project.replace(
        "kernels/rules.py",
        "(amax >> FRACTION_BITS) - element.emax",
        "(amax >> FRACTION_BITS) - element.emax + 1",
    )


def results_in_bf16(project: Project) -> None:
    """Behind the casts, where no digest looks."""
    before = "            self.calls += 1\n"
    after = "            if inside"
    project.replace(
        "models/linear.py",
        before + after,
        before + "            output = output.bfloat16().to(output.dtype)\n" + after,
    )


@pytest.mark.parametrize(
    ("breaks", "says"),
    [
        pytest.param(
            other_transformers,
            "environment: the reference moved on the accepted weights and tokens, and libraries differ: "
            "transformers 99.0.0, accepted with ",
            id="environment",
        ),
        pytest.param(changed_weight, "weights: values of the weights changed", id="weights"),
        pytest.param(changed_tokenizer, "tokenizer: the tokenizer's files changed", id="tokenizer"),
        pytest.param(changed_token, "tokens: the tokens changed", id="tokens"),
        pytest.param(
            scored_against_the_argmax,
            "reference: on accepted weights and tokens the reference no longer scores its own samples",
            id="reference",
        ),
        pytest.param(
            one_layer_left_out, "conversion: other modules are quantized", id="conversion-of-modules"
        ),
        pytest.param(
            activations_left_as_they_are,
            "conversion: weights are cast as accepted",
            id="conversion-of-activations",
        ),
        pytest.param(
            scale_off_by_one,
            "numerics: the cast gives other bits in every module of attention, mlp",
            id="numerics-of-the-cast",
        ),
        pytest.param(
            results_in_bf16,
            # where the machine multiplies as the accepting one did; elsewhere by more than that explains
            (
                "numerics: casts and arithmetic are the accepted ones, so what moved comes after the cast",
                "numerics: casts are the accepted ones, and losses moved by more than other",
            ),
            id="numerics-of-the-product",
        ),
    ],
)
def test_the_link_that_broke_is_named(
    accepted: Project, breaks: Callable[[Project], None], says: str | tuple[str, ...]
) -> None:
    breaks(accepted)
    run = accepted.gate(*CASE)
    assert run.code == 1, run.output
    (named,) = [line for line in run.output.splitlines() if line.startswith("  cause: ")]
    assert named.removeprefix("  cause: ").startswith(says)


def test_bounds_that_were_tightened_are_named(accepted: Project) -> None:
    (accepted.directory / "tight.toml").write_text(
        '[default]\n"mxfp8_e4m3-B" = { kl = 1e-9, rise = 1 }\n[models.not-made-yet]\nfp32 = { kl = 0 }\n'
    )
    run = accepted.gate(*CASE, "--mx-bounds", "tight.toml")
    assert run.code == 1, run.output
    assert "tight.toml has bounds of models that nobody knows: not-made-yet\n" in run.output
    assert "  cause: bounds: nothing moved: the accepted figures are over these bounds as well" in run.output
