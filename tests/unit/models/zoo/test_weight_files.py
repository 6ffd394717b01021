"""An index and what lies beside it: it must place tensors where they are, and nothing else may hold them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from broken_checkpoints import INDEX, UP, WEIGHTS, save_sound, shards
from safetensors.torch import save_file

from mxcheck.models.zoo.refusal import UnfitError
from mxcheck.models.zoo.weight_files import weight_files

SECOND = "model-00002-of-00002.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound checkpoint in two shards."""
    save_sound(tmp_path)
    shutil.copy(tmp_path / WEIGHTS, tmp_path.with_suffix(".whole"))
    shards(tmp_path)
    return tmp_path


def test_a_sound_index(folder: Path) -> None:
    assert len(weight_files(folder, {})) == 2


def test_an_index_that_names_an_absent_tensor(folder: Path) -> None:
    data = json.loads((folder / INDEX).read_text())
    data["weight_map"]["model.layers.9.absent.weight"] = SECOND
    (folder / INDEX).write_text(json.dumps(data))
    with pytest.raises(UnfitError, match=f"{INDEX} places model.layers.9.absent.weight in {SECOND}, "):
        weight_files(folder, {})


@pytest.mark.parametrize("name", ["pytorch_model-00001-of-00001.safetensors", "old.safetensors"])
def test_a_stale_shard_of_another_name(folder: Path, name: str) -> None:
    shutil.copy(folder.with_suffix(".whole"), folder / name)
    with pytest.raises(UnfitError, match=f"reads {INDEX} and not {name} beside it; keep one set"):
        weight_files(folder, {})


@pytest.mark.parametrize("name", ["model.fp16.safetensors", "model.fp16-00001-of-00002.safetensors"])
def test_another_type_of_the_same_weights_is_no_second_set(folder: Path, name: str) -> None:
    """Repositories have it beside; the loader reads it where it is asked for."""
    save_file({UP: torch.ones(2, 2, dtype=torch.float16)}, folder / name)
    assert len(weight_files(folder, {})) == 2


def test_other_tensors_beside_are_nobody_s(folder: Path) -> None:
    save_file({"tokens": torch.ones(2, 2, dtype=torch.int32)}, folder / "tokens.safetensors")
    assert len(weight_files(folder, {})) == 2


@pytest.mark.parametrize(
    "put",
    [
        lambda path: path.write_bytes(b"damaged"),
        lambda path: path.symlink_to("../blobs/gone"),
        lambda path: path.mkdir(),
        os.mkfifo,
    ],
    ids=["damaged", "dangling", "directory", "pipe"],
)
def test_what_cannot_be_read_beside_the_set_is_nobody_s(folder: Path, put: Callable[[Path], object]) -> None:
    """The loader never opens it."""
    put(folder / "adapter.safetensors")
    assert len(weight_files(folder, {})) == 2
