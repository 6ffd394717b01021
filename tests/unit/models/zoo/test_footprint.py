"""Memory and time of a model, before anything of it is loaded."""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mxcheck.models.zoo import weight_files
from mxcheck.models.zoo.cards import CARDS, DEVICE_BYTES, GIB, ITEM_BYTES
from mxcheck.models.zoo.footprint import Footprint, footprint, text_shape
from mxcheck.models.zoo.known_models import REFERENCE_MODELS, ModelSource, model_source
from mxcheck.models.zoo.load import load
from mxcheck.models.zoo.weight_files import read_header


def known(name: str, **changes: Any) -> Footprint:
    given: dict[str, Any] = {"dtype": None, "sequences": 1000, "length": None, "batch_size": 8, **changes}
    found = footprint(model_source(name), **given)
    assert found is not None
    return found


@pytest.mark.parametrize("name", REFERENCE_MODELS)
def test_parameters_are_those_of_the_loaded_model(name: str) -> None:
    """Where embeddings are tied, they are stored once and counted once. fp32, the weights twice."""
    parameters = sum(value.numel() for value in load(name).model.parameters())
    assert known(name).weight_bytes == 2 * ITEM_BYTES[model_source(name).dtype] * parameters


@pytest.mark.parametrize("name", CARDS)
def test_a_zoo_model_s_are_its_card_s(name: str) -> None:
    card = CARDS[name]
    found = known(name, batch_size=card.batch_size)
    assert found.bytes_needed == card.bytes_needed()
    assert found.devices(DEVICE_BYTES) == card.devices()
    assert found.bytes_per_device(card.devices()) == card.bytes_per_device()
    assert known(name, dtype="float32", batch_size=card.batch_size).bytes_needed == card.bytes_needed(
        "float32"
    )


def test_more_at_once_takes_more() -> None:
    small = known("llama-3.1-8b", batch_size=1, length=512)
    large = known("llama-3.1-8b", batch_size=2, length=2048)
    assert small.working_bytes < large.working_bytes
    assert small.weight_bytes == large.weight_bytes
    assert small.case_seconds * 3.9 < large.case_seconds


def test_a_model_s_own_text_says_how_much_is_measured(tmp_path: Path) -> None:
    """A directory without one is taken for 2,048 tokens a sequence; a file that is none tells nothing."""
    folder = tmp_path / "my-model"
    shutil.copytree(model_source("ref-llama").location, folder)
    (folder / "tokens.safetensors").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 8192}))
    text = tmp_path / "tokens.safetensors"
    save_file({"tokens": torch.zeros(8, 128, dtype=torch.int32)}, text)
    unknown, own = known(str(folder)), known(str(folder), text=text_shape(text))
    assert own.weight_bytes == unknown.weight_bytes
    assert own.working_bytes < 0.7 * unknown.working_bytes
    assert own.case_seconds < unknown.case_seconds / 100
    assert known(str(folder), text=(8, 128), length=256) == own  # no more than there is
    assert text_shape(tmp_path / "absent") is None
    text.write_bytes(b"no tokens")
    assert text_shape(text) is None


def test_no_more_sequences_at_once_than_there_are() -> None:
    for name in ("ref-llama", "llama-3.1-8b"):
        few = known(name, sequences=2, length=64, batch_size=8)
        assert few == known(name, sequences=2, length=64, batch_size=2)


def test_a_device_too_small_for_the_working_bytes() -> None:
    found = known("llama-3.1-8b")
    assert found.devices(int(found.bytes_needed)) == 1
    assert found.devices(found.working_bytes + math.ceil(found.weight_bytes / 3)) == 3
    with pytest.raises(
        ValueError, match=r"^needs 13\.9 GiB beside its weights, got a device of 8\.0 GiB; give"
    ):
        found.devices(8 * GIB)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_file(
        {"a": torch.zeros(10, 20), "b": torch.zeros(7, dtype=torch.bfloat16)}, tmp_path / "one.safetensors"
    )
    save_file({"c": torch.zeros(3)}, tmp_path / "two.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 10, "num_attention_heads": 2}))
    return tmp_path


def header(text: str) -> bytes:
    return len(text).to_bytes(8, "little") + text.encode()


def of_directory(folder: Path) -> Footprint | None:
    source = ModelSource(name="m", location=str(folder), is_directory=True)
    return footprint(source, dtype=None, sequences=4, length=8, batch_size=2)


def test_a_directory_by_its_headers(model: Path) -> None:
    assert {(one.name, one.shape, one.dtype) for one in read_header(model / "one.safetensors")} == {
        ("a", (10, 20), "F32"),
        ("b", (7,), "BF16"),
    }
    found = of_directory(model)
    assert found is not None
    assert found.weight_bytes == 2 * 4 * (200 + 7 + 3)
    (model / "config.json").write_text(
        json.dumps({"text_config": {"vocab_size": 200, "n_head": 2, "max_seq_len": 64}})
    )
    larger = of_directory(model)
    assert larger is not None
    assert larger.working_bytes > found.working_bytes


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: (folder / "config.json").unlink(),
        lambda folder: (folder / "config.json").write_text("{"),
        lambda folder: (folder / "config.json").write_text("{}"),
        lambda folder: (folder / "one.safetensors").write_bytes(b"12345678{"),
        lambda folder: (folder / "one.safetensors").write_bytes(b"\x05"),
        lambda folder: [path.unlink() for path in folder.glob("*.safetensors")],
        lambda folder: (folder / "config.json").write_text("[1]"),
        lambda folder: (folder / "config.json").write_text("[" * 200_000),
        lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe{}"),
        lambda folder: (folder / "config.json").write_text('{"text_config": [1], "vocab_size": 3}'),
        lambda folder: (folder / "config.json").write_text('{"vocab_size": -5}'),
        lambda folder: (folder / "config.json").write_text('{"vocab_size": true}'),
        lambda folder: (folder / "config.json").write_text('{"vocab_size": 1000000}'),
        lambda folder: (folder / "config.json").write_text('{"vocab_size": 1' + "0" * 40 + "}"),
        lambda folder: (folder / "x.safetensors").mkdir(),
        lambda folder: (folder / "x.safetensors").symlink_to("../blobs/gone"),
        lambda folder: (folder / "one.safetensors").write_bytes(header("[1]")),
        lambda folder: (folder / "one.safetensors").write_bytes(header('{"a": 1}')),
        lambda folder: (folder / "one.safetensors").write_bytes(
            header('{"a": {"dtype": 1, "shape": ["b"]}}')
        ),
        lambda folder: (folder / "one.safetensors").write_bytes(header("[" * 200_000)),
    ],
    ids=[
        *("no-config", "config-is-no-json", "no-vocabulary", "no-header", "short", "no-weights", "list"),
        *(
            "nested",
            "no-utf-8",
            "text-config",
            "negative",
            "bool",
            "larger-than-the-files",
            "absurd",
            "directory",
            "dangling",
        ),
        *("header-is-a-list", "entry-is-a-number", "shape-of-words", "nested-header"),
    ],
)
def test_what_cannot_be_read_is_estimated_by_the_sizes_of_its_files(model: Path, harm: Any) -> None:
    """And is the loader's to refuse."""
    harm(model)
    found = of_directory(model)
    assert found is not None
    sizes = sum(path.stat().st_size for path in model.glob("*.safetensors") if path.is_file())
    assert found.weight_bytes == 2 * 4 * (sizes // 2)
    assert found.guessed.startswith("model 'm': ")
    assert found.guessed.isprintable()


def test_a_guessed_model_has_the_attention_of_its_size(tmp_path: Path) -> None:
    """As the same weights with their configuration: Llama 2 of 7 billion parameters, in a file of holes."""
    parameters, shape = 6_738_415_616, {"vocab_size": 32_000, "num_attention_heads": 32, "hidden_size": 4096}
    text = json.dumps({"a": {"dtype": "BF16", "shape": [parameters], "data_offsets": [0, 2 * parameters]}})
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(header(text))
    os.truncate(weights, 8 + len(text) + 2 * parameters)
    (tmp_path / "config.json").write_text(json.dumps(shape))
    told = known(str(tmp_path), length=2048)
    (tmp_path / "config.json").unlink()
    guessed = known(str(tmp_path), length=2048)
    assert guessed.guessed
    assert not told.guessed
    assert 0.8 < guessed.working_bytes / told.working_bytes < 1.25


def test_memory_that_runs_out_is_no_fault_of_the_files(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: Any, **__: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(weight_files, "json_data", exhausted)
    with pytest.raises(MemoryError):
        of_directory(model)


def test_nothing_is_known_of_a_hub_model_without_a_card() -> None:
    assert footprint(model_source("some/model"), dtype=None, sequences=4, length=8, batch_size=2) is None


def test_seconds_of_the_ladder_of_models() -> None:
    """Only proportions are claimed: a larger model takes longer."""
    seconds = [
        known(name).case_seconds for name in ("ref-llama", "tinystories-33M", "llama-3.1-8b", "yi-34b")
    ]
    assert seconds == sorted(seconds)
    assert all(math.isfinite(one) and one > 0 for one in seconds)


def test_without_a_kept_copy_a_model_needs_fewer_devices() -> None:
    times = {"case_seconds": 1.0, "load_seconds": 1.0}
    kept = Footprint(weight_bytes=200, least_weight_bytes=115, working_bytes=10, **times)
    assert kept.fitted(210, several=True) is kept
    assert kept.fitted(150, several=True).bytes_needed == 125
    assert kept.fitted(120, several=True) is kept  # two devices either way
    with pytest.raises(ValueError, match="beside its weights"):
        kept.fitted(10, several=True).devices(10)
    assert kept.fitted(210, several=False) is kept
    assert kept.fitted(209, several=False).bytes_needed == 125
    only = replace(kept, least_weight_bytes=0)
    assert only.fitted(150, several=True) == only.fitted(150, several=False) == only


def test_memory_decides_the_size_of_the_weights() -> None:
    found = {
        memory: footprint(
            model_source("ref-llama"), dtype=None, sequences=1, length=8, batch_size=1, memory=memory
        )
        for memory in ("kept", "lean", "auto")
    }
    kept, lean, auto = (one for one in found.values() if one is not None)
    assert 1.14 < 2 * lean.weight_bytes / kept.weight_bytes < 1.16
    assert auto == replace(kept, least_weight_bytes=lean.weight_bytes)
