"""A model of one's own, from its first run to its gate, through the real pytest."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from gate_project import PACKAGE, Project

from mxcheck.gate.bounds_tables import read_bounds

WORDS = (
    *("--mx-models", "./my-model", "--mx-precision", "mxfp8_e4m3,mxint8", "--mx-tier", "B"),
    *("--mx-max-samples", "4"),
)
CASE_NAMES = ("mxfp8_e4m3-B+samples4", "mxint8-B+samples4")


@pytest.fixture
def own(project: Project) -> Project:
    """A project with a trained model of its own and text sampled from it, and nothing accepted."""
    model = project.directory / "my-model"
    shutil.copytree(PACKAGE / "models" / "zoo" / "reference" / "ref-llama", model)
    tokens = project.baselines / "my-model" / "tokens.safetensors"
    tokens.parent.mkdir(parents=True)
    shutil.move(model / "tokens.safetensors", tokens)
    return project


def bounds(project: Project) -> dict[str, object]:
    found = read_bounds(project.baselines / "my-model")
    return dict(found.get("default", {}))


def test_from_the_first_run_to_the_gate(own: Project) -> None:
    looked = own.gate(*WORDS)
    assert looked.code == 1
    assert set(looked.verdicts().values()) == {"FAIL missing"}
    assert (
        "mxcheck: my-model has no baselines of these cases yet. If the figures are right, run the same"
        in looked.output
    )
    assert (own.files(), bounds(own)) == ({}, {})

    accepted = own.gate(*WORDS, "--snapshot-update", "-n", "2")
    assert accepted.code == 0, accepted.output
    assert set(accepted.verdicts().values()) == {"accepted"}
    assert bounds(own).keys() == set(CASE_NAMES)
    text = (own.baselines / "my-model" / "bounds.toml").read_text(encoding="utf-8")
    assert text.startswith("# Bounds of my-model: ")
    assert text.count(" of its errors with random signs; 20") == 2

    _tighten(own)
    over = own.gate(*WORDS, "--snapshot-update")
    assert "no baselines of these" not in over.output
    assert over.verdicts() == {
        f"my-model-{CASE_NAMES[0]}": "FAIL step 5",
        f"my-model-{CASE_NAMES[1]}": "pass",
    }
    assert "bound 0.001 (" in over.output
    assert "my-model/bounds.toml)" in over.output
    assert bounds(own)["mxfp8_e4m3-B+samples4"] == {"kl": 0.001}


def _tighten(own: Project) -> None:
    path = own.baselines / "my-model" / "bounds.toml"
    lines = path.read_text(encoding="utf-8").splitlines()
    lines = [
        f'"{CASE_NAMES[0]}" = {{ kl = 0.001 }}' if line.startswith(f'"{CASE_NAMES[0]}"') else line
        for line in lines
    ]
    path.write_text("\n".join(lines), encoding="utf-8")


def test_a_broken_conversion_is_not_accepted(own: Project) -> None:
    """Nothing says what is right but the oracle: activations are not cast."""
    own.replace(
        "models/conversion/linear.py",
        "self.cast: Cast = activation_cast(casts.activations, recipe.kernel, of=",
        "self.cast: Cast = activation_cast(None, recipe.kernel, of=",
    )
    run = own.gate(*WORDS, "--snapshot-update")
    assert run.code == 1
    assert set(run.verdicts().values()) == {"FAIL step 4"}
    assert "cast operands differ from the oracle's: activations of model.layers.0." in run.output
    assert "cause: numerics: the casts of some operands are not the oracle's" in run.output
    assert (own.files(), bounds(own)) == ({}, {})


def test_a_reason_lets_in_what_the_checks_refuse(own: Project) -> None:
    own.replace("measure/absolute_figures.py", "signed.append(found.kl)", "signed.append(found.kl / 9)")
    words = (*WORDS, "--mx-precision", "mxint8", "--snapshot-update")
    run = own.gate(*words)
    assert set(run.verdicts().values()) == {"FAIL step 5"}
    assert "of what the same errors with random signs cost (allowed 0.6 to 2.5)" in run.output
    path = own.baselines / "my-model" / "bounds.toml"
    path.write_text(
        "".join(f'"{case_name}" = {{ kl = 1, reason = "this test" }}\n' for case_name in CASE_NAMES),
        encoding="utf-8",
    )
    before = path.read_bytes()
    run = own.gate(*words)
    assert run.code == 0, run.output
    assert path.read_bytes() == before


def test_measuring_alone_judges_nothing(own: Project) -> None:
    (own.directory / "tight.toml").write_text('[default]\n"mxint8-B" = { kl = 1e-9 }\n', encoding="utf-8")
    words = ("--mx-models", "./my-model", "--mx-precision", "mxint8", "--mx-tier", "B")
    run = own.gate(
        *words, "--mx-max-samples", "2", "--mx-bounds", "tight.toml", "--mx-measure", "--mx-layers"
    )
    assert run.code == 0, run.output
    assert set(run.verdicts().values()) == {"measured"}
    assert "mxcheck: --mx-measure: nothing is judged" in run.output
    assert run.output.rindex("nothing was judged") > run.output.rindex("layers of my-model-mxint8-B+samples2")
    assert own.files() == {}


@pytest.mark.parametrize(
    ("words", "environment", "code"),
    [
        (("--mx-measure", "--snapshot-update"), {}, "drop one"),
        ((), {"CI": "1", "PYTEST_ADDOPTS": "--mx-measure"}, "refused in CI"),
    ],
)
def test_where_measuring_alone_is_refused(
    own: Project, words: tuple[str, ...], environment: dict[str, str], code: str
) -> None:
    run = own.gate(*words, "--collect-only", **environment)
    assert run.code == pytest.ExitCode.USAGE_ERROR
    assert code in run.output


def test_on_purpose_it_is_allowed_in_ci(own: Project) -> None:
    assert own.gate(*WORDS, "--mx-measure", "--collect-only", "-q", CI="1").code == 0


def test_a_bad_bounds_file_is_one_line_of_that_model(own: Project) -> None:
    path: Path = own.baselines / "my-model" / "bounds.toml"
    path.write_text("bf16 = 3\n", encoding="utf-8")
    run = own.gate("--mx-models", "./my-model", "--mx-precision", "bf16", "--mx-max-samples", "2")
    assert run.verdicts() == {"my-model-bf16+samples2": "ERROR"}
    assert "'bf16' is 3; allowed: { kl = NATS }" in run.output


_KERNELS = """
from mxcheck.kernels.eager import fake_quantize_eager, quantize_eager

def shrunk(x, spec):
    return quantize_eager(x * (1 - 2**-6), spec)

def in_place(x, spec):
    parts = quantize_eager(x, spec)
    x.copy_(fake_quantize_eager(x, spec))
    return parts
"""


def test_an_update_to_other_casts_is_a_first_acceptance_again(own: Project) -> None:
    """They cost less than twice as much as the accepted ones, so that the model's bounds let them pass."""
    words = [word.replace("mxfp8_e4m3,mxint8", "mxfp8_e4m3") for word in WORDS]
    (own.source / "kern.py").write_text(_KERNELS)
    accepted = own.gate(*words, "--snapshot-update")
    assert accepted.code == 0, accepted.output
    before = own.files()
    other = own.gate(*words, "--mx-kernel", "kern:shrunk", "--snapshot-update")
    assert "FAIL step 4" in other.verdicts()[f"my-model-{CASE_NAMES[0]}"], other.output
    assert "cast operands differ from the oracle's" in other.output
    assert own.files() == before


def test_a_kernel_that_writes_over_its_input_is_red_in_one_line(own: Project) -> None:
    (own.source / "kern.py").write_text(_KERNELS)
    run = own.gate(*WORDS, "--mx-kernel", "kern:in_place", "--snapshot-update")
    assert set(run.verdicts().values()) == {"ERROR"}, run.output
    assert "in_place wrote over its input: " in run.output, run.output
    assert own.files() == {}
