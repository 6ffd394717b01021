"""Baselines under a former name of their precision: found, refused, and renamed without a loss."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sample_record import build_record

from mxcheck.gate.baseline import encode, read, seal_of
from mxcheck.gate.former_names import file_today, former_names, refuse_former_names, rename_today


@pytest.mark.parametrize(
    ("name", "today"),
    [
        ("fp8_e4m3-A.json", "mxfp8_e4m3-A.json"),
        ("my-model/fp4_e2m1-B+rceil+prose.json", "my-model/mxfp4_e2m1-B+rceil+prose.json"),
        ("m/bfp16-linears@cuda-sm90.json", "m/bf16_operands-linears@cuda-sm90.json"),
        ("m/nvfp8_emu_e5m2-A.json", "m/fp8_tensor_e5m2-A.json"),
        ("m/bf16+global-mxint8.json", "m/bf16+global-int8.json"),
        ("m/training.fp8_e4m3-B.json", "m/training.mxfp8_e4m3-B.json"),
        ("m/checkpoint.fp8_e4m3-B.json", "m/checkpoint.fp8_e4m3-B.json"),  # a name of the user's own
        ("m/mxfp8_e4m3-A.json", "m/mxfp8_e4m3-A.json"),
        ("m/no case+.json", "m/no case+.json"),
        ("m/fp8_e4m3-A.toml", "m/fp8_e4m3-A.toml"),
    ],
)
def test_the_name_of_a_file_today(name: str, today: str) -> None:
    assert file_today(name) == today
    assert file_today(today) == today


@pytest.fixture
def former(tmp_path: Path) -> Path:
    """A baseline as it was written under the former name: within the file, too."""
    data = json.loads(encode(build_record()))
    del data["seal"]
    data["precision"] = data["recipe"]["precision"] = "fp8_e4m3"
    path = tmp_path / "my-model" / "fp8_e4m3-B.json"
    path.parent.mkdir()
    path.write_text(json.dumps({**data, "seal": seal_of(data)}), encoding="utf-8")
    (path.parent / "bf16.json").write_text("{}")
    return path


def test_a_baseline_is_renamed_and_keeps_all(former: Path, tmp_path: Path) -> None:
    content, new = former.read_bytes(), former.with_name("mxfp8_e4m3-B.json")
    assert former_names(former.parent) == {former: new}
    assert rename_today(tmp_path, ["my-model", "absent"]) == [(former, new)]
    assert (new.read_bytes(), former.exists()) == (content, False)
    assert read(new) == build_record()
    refuse_former_names(tmp_path, ["my-model"])
    assert rename_today(tmp_path, ["my-model"]) == []


@pytest.mark.parametrize(
    "target", ["../elsewhere.json", "fp8_e4m3-B.json", "{root}/my-model/fp8_e4m3-B.json"]
)
def test_a_link_is_renamed_and_leads_to_the_same_file(former: Path, tmp_path: Path, target: str) -> None:
    (tmp_path / "elsewhere.json").write_bytes(former.read_bytes())
    link, new = former.with_name("fp8_e4m3-A.json"), former.with_name("mxfp8_e4m3-A.json")
    link.symlink_to(target.format(root=tmp_path))
    former.with_name("bfp16-A.json").symlink_to("nowhere.json")  # no baseline
    assert [one for one, _ in rename_today(tmp_path, ["my-model"])] == [link, former]
    assert new.is_symlink()
    assert read(new) == build_record()
    assert not link.is_symlink()
    assert (tmp_path / "elsewhere.json").exists()


def test_a_run_refuses_them_in_one_line(former: Path, tmp_path: Path) -> None:
    refuse_former_names(tmp_path, ["another-model"])
    with pytest.raises(
        ValueError,
        match=rf"^baselines in {tmp_path} have former names of precisions: my-model/fp8_e4m3-B.json; rename "
        rf"the files, which keeps all that they hold: mxcheck baselines rename --baselines {tmp_path}$",
    ):
        refuse_former_names(tmp_path, ["my-model"])
    assert former.exists()


def test_a_file_of_the_new_name_is_never_replaced(former: Path, tmp_path: Path) -> None:
    former.with_name("bfp16-A.json").write_text("{}")
    new = former.with_name("mxfp8_e4m3-B.json")
    new.write_text("{}")
    with pytest.raises(ValueError, match=rf"^{former} cannot be renamed to {new.name}: {new} is of the same"):
        rename_today(tmp_path, ["my-model"])
    assert former.exists()
    assert former.with_name("bfp16-A.json").exists(), "nothing is renamed where one cannot be"


def test_two_former_names_of_one_case_are_refused_and_none_is_lost(former: Path, tmp_path: Path) -> None:
    second = former.with_name("mxfp8-B.json")
    second.write_text("{}")
    before = {path.name: path.read_bytes() for path in former.parent.iterdir()}
    with pytest.raises(
        ValueError, match=rf"^{second} cannot be renamed to mxfp8_e4m3-B.json: {former} is of the same case; "
    ):
        rename_today(tmp_path, ["my-model"])
    assert {path.name: path.read_bytes() for path in former.parent.iterdir()} == before
