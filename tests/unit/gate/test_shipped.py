"""The baselines that come with mxcheck: where they are, and what goes before them."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from mxcheck.distributed.provenance import folder_digest
from mxcheck.files.write import WriteError
from mxcheck.gate.baseline import baseline_paths
from mxcheck.gate.bounds_tables import load_bounds
from mxcheck.gate.case import Case, case_of
from mxcheck.gate.shipped import SHIPPED, adopt, in_force, shipped, taken_from_ours
from mxcheck.models.zoo.known_models import REFERENCE_MODELS

ROOT = Path(__file__).parents[3]
CASE = case_of("ref-llama", "mxfp8_e4m3-A")


def test_every_reference_model_s_go_with_the_wheel() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    assert SHIPPED == REFERENCE_MODELS
    assert build["wheel"]["force-include"] == {
        f"baselines/{name}": f"mxcheck/baselines/{name}" for name in SHIPPED
    }
    assert {f"/baselines/{name}" for name in SHIPPED} <= set(build["sdist"]["include"])


def test_a_source_tree_has_its_own_folder() -> None:
    assert shipped() == ROOT / "baselines"


@pytest.mark.parametrize("device", ["cpu", "cuda-sm90"])
def test_read_from_ours_and_written_to_the_project_s(tmp_path: Path, device: str) -> None:
    read, written = baseline_paths(tmp_path, CASE, device)
    assert read == ROOT / "baselines" / CASE.baseline
    assert written.parent == tmp_path / "ref-llama"


def test_a_project_with_a_folder_for_the_model_has_its_own_alone(tmp_path: Path) -> None:
    """A record that is deleted there is missing: another's would hide it."""
    own = tmp_path / CASE.baseline
    own.parent.mkdir()
    own.write_text("{")
    assert baseline_paths(tmp_path, CASE, "cpu") == (own, own)
    other = case_of("ref-llama", "mxfp8_e4m3-B")
    assert (ROOT / "baselines" / other.baseline).is_file()
    assert baseline_paths(tmp_path, other, "cpu")[0] == tmp_path / other.baseline
    assert in_force(tmp_path, other.baseline) == tmp_path / other.baseline
    assert taken_from_ours(tmp_path, ["ref-llama"]) == []
    own.unlink()
    own.symlink_to("gone")  # a fault of the project's, and no reason to take another file
    assert baseline_paths(tmp_path, CASE, "cpu")[0] == own


def test_the_first_update_copies_ours(tmp_path: Path) -> None:
    adopt(tmp_path / "baselines", "short-moe")
    copied = tmp_path / "baselines" / "short-moe"
    assert folder_digest(copied) == folder_digest(ROOT / "baselines" / "short-moe")
    (copied / "fp32.json").write_text("mine")
    for _ in "again":
        adopt(tmp_path / "baselines", "short-moe")
    assert (copied / "fp32.json").read_text() == "mine"
    adopt(tmp_path / "baselines", "smollm2-135m-instruct-q4")  # not among ours
    assert [path.name for path in (tmp_path / "baselines").iterdir()] == ["short-moe"]


def test_a_project_that_cannot_hold_the_copy(tmp_path: Path) -> None:
    (tmp_path / "baselines").write_text("a file")
    with pytest.raises(WriteError, match="baselines/short-moe cannot be written: "):
        adopt(tmp_path / "baselines", "short-moe")


def test_nobody_else_s_are_found(tmp_path: Path) -> None:
    case = Case(model="smollm2-135m-instruct-q4", precision="bf16")
    assert (ROOT / "baselines" / case.baseline).is_file()
    assert in_force(tmp_path, case.baseline) == tmp_path / case.baseline


def test_the_bounds_beside_ours_hold_where_the_project_says_nothing(tmp_path: Path) -> None:
    case = case_of("wide-gpt2", "mxfp8_e4m3-B")
    ours = load_bounds(baselines=tmp_path).of(case)
    assert ours == load_bounds(baselines=ROOT / "baselines").of(case)
    (tmp_path / "wide-gpt2").mkdir()
    (tmp_path / "wide-gpt2" / "bounds.toml").write_text("mxfp8_e4m3-B = { kl = 7 }\n")
    load_bounds.cache_clear()
    assert load_bounds(baselines=tmp_path).of(case).kl == 7


def test_which_models_ours_stand_in_for(tmp_path: Path) -> None:
    (tmp_path / "ref-neo").mkdir()
    assert taken_from_ours(tmp_path, ["ref-llama", "ref-neo", "mine"]) == ["ref-llama"]
