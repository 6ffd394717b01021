"""Options that change what is quantized, and recipes and metrics of one's own: accepted, green, and red."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gate_project import Project

from mxcheck.gate.bounds_tables import read_bounds

FEW = ("--mx-models", "ref-llama", "--mx-tier", "A", "--mx-max-samples", "2", "--mx-sequence-length", "32")
LABEL = "length32+samples2"

PYPROJECT = """
[tool.mxcheck.recipes.w4a8]
mlp = { weights = "fp4_e2m1", activations = { format = "fp8_e4m3", scale_rule = "rceil" } }
attention = { weights = "fp8_e4m3" }
"""
METRIC = """
from mxcheck.evaluation.metrics import metric

@metric("flipped")
def flipped(log_p, targets, reference_log_p):
    \"\"\"1 where the most probable token is another one than the reference's.\"\"\"
    return (log_p.argmax(-1) != reference_log_p.argmax(-1)).double()
"""


def record_of(project: Project, *words: str) -> dict[str, dict[str, Any]]:
    """The records of a green run, by id."""
    run = project.gate(*words)
    assert run.code == 0, run.output
    return {name: row["record"] for name, row in run.rows.items()}  # type: ignore[misc]


def test_options_that_change_what_is_quantized(project: Project) -> None:
    words = (
        *FEW, "--mx-precision", "mxfp8_e4m3", "--mx-block-size", "16", "--mx-attention",
        "--mx-quantize-outputs", "--mx-global", "bf16", "--mx-bounds", "bounds.toml",
    )  # fmt: skip
    # Each may have a line of its own.
    (project.directory / "bounds.toml").write_text(
        '[default]\nfp8_e4m3-A = { kl = 0 }\n"mxfp8_e4m3-A+attention+outputs" = { kl = 0.1 }\n'
        '"mxfp8_e4m3-A+attention+outputs+global-bfloat16" = { kl = 0.2 }\n'
    )
    run = project.gate(*words, "--snapshot-update")
    stem = "ref-llama-mxfp8_e4m3-A+block16+attention+outputs"
    plain, everywhere = f"{stem}+{LABEL}", f"{stem}+global-bfloat16+{LABEL}"
    assert run.verdicts() == {plain: "accepted", everywhere: "accepted"}, run.output
    # side by side
    rows = [line.split()[:3] for line in run.output.splitlines()]
    reference, *lines = [row for row in rows if row[:1] == ["ref-llama"]]
    assert reference[1] == "reference"
    assert lines == [
        ["ref-llama", "mxfp8_e4m3", name.removeprefix("ref-llama-mxfp8_e4m3-")]
        for name in (plain, everywhere)
    ]
    assert {Path(name).name for name in project.files()} == {
        f"{name.removeprefix('ref-llama-')}.json" for name in (plain, everywhere)
    }
    records = record_of(project, *words)
    assert records[plain]["replaced"]["model.layers.0.self_attn"] == "attention products"
    assert records[plain]["recipe"]["attention"]["block_size"] == 16
    assert records[plain]["recipe"]["outputs"] is True
    assert set(records[everywhere]["replaced"].values()) > set(records[plain]["replaced"].values())
    assert records[everywhere]["kl"] != records[plain]["kl"] > 0
    # The products of attention are held by digest.
    project.replace("models/conversion/product_hooks.py", "call.set(place, cast(call.get(place)))", "pass")
    run = project.gate(*words)
    assert run.code == 1, run.output
    assert all("4" in str(verdict) for verdict in run.verdicts().values()), run.output


def test_a_recipe_and_a_metric_of_one_s_own(project: Project) -> None:
    (project.directory / "pyproject.toml").write_text(PYPROJECT)
    conftest = project.directory / "conftest.py"
    conftest.write_text(METRIC + conftest.read_text())
    words = (*FEW, "--mx-precision", "w4a8,mxfp4_e2m1", "--mx-weights-only", "--mx-metrics", "flipped")
    own, theirs = f"ref-llama-w4a8+{LABEL}", f"ref-llama-mxfp4_e2m1-A+weights-only+{LABEL}"
    run = project.gate(*words, "--snapshot-update")
    assert run.verdicts() == {theirs: "accepted", own: "accepted"}, run.output
    # Our table has no line for it: its first acceptance made one.
    assert read_bounds(project.baselines / "ref-llama")["default"].keys() == {f"w4a8+{LABEL}"}
    records = record_of(project, *words, "-n", "1")
    assert records[own]["tier"] is None
    assert records[own]["recipe"]["roles"]["mlp"]["activations"]["scale_rule"] == "rceil"
    assert records[own]["recipe"]["roles"]["attention"]["activations"] is None
    assert records[theirs]["recipe"]["roles"]["mlp"]["activations"] is None
    assert records[own]["weight_bytes"] < records[theirs]["weight_bytes"] < records[own]["original_bytes"]
    for record in records.values():
        assert len(record["metrics"]["flipped"]) == 2
        # the same as the gate's own figure, which counts the others
        assert sum(record["metrics"]["flipped"]) / 2 == pytest.approx(1 - record["top1_agreement"])
    # A recipe that was changed under the same name is another one.
    (project.directory / "pyproject.toml").write_text(PYPROJECT.replace('"rceil"', '"even"'))
    run = project.gate(*words)
    assert run.verdicts() == {theirs: "pass", own: "FAIL step 1"}, run.output
    assert "another recipe: roles.mlp.activations.scale_rule is even, accepted rceil" in run.output
