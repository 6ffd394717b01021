"""What a directory holds is told in one line, before or while it is loaded; what is sound still loads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import broken_checkpoints as broken
import hub_cache
import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

from mxcheck.models.zoo import load as loader
from mxcheck.models.zoo.load import load
from mxcheck.models.zoo.refusal import LINE, RefusedError, reading, refused
from mxcheck.run.cost import estimate

ROOT = Path(__file__).parents[4]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound checkpoint."""
    path = tmp_path / "model"
    broken.save_sound(path)
    return path


def refusal(folder: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> str:
    """The line by which a model is refused, named by a short relative path."""
    monkeypatch.chdir(folder.parent)
    with pytest.raises(ValueError, match=r"^model '\./") as caught:
        load(f"./{folder.name}", **options)
    line = str(caught.value)
    assert len(line) <= LINE
    assert line.isprintable()
    return line


@pytest.mark.parametrize("name", broken.BROKEN)
def test_a_broken_checkpoint_is_refused_in_one_line(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage, words = broken.BROKEN[name]
    damage(folder)
    assert words in refusal(folder, monkeypatch)


@pytest.mark.parametrize("name", broken.BROKEN)
def test_the_memory_estimate_of_a_broken_checkpoint_raises_nothing(name: str, folder: Path) -> None:
    broken.BROKEN[name][0](folder)
    known = estimate(str(folder), dtype=None, samples=2, length=None, batch_size=None)
    assert known is None or known.bytes_needed > 0


def nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_late(*_: Any, **__: Any) -> Any:
        raise AssertionError("a model was loaded that should have been refused before")

    monkeypatch.setattr(loader.AutoModelForCausalLM, "from_pretrained", too_late)


@pytest.mark.parametrize("method", [*AUTO_QUANTIZATION_CONFIG_MAPPING, "int5-of-their-own"])
@pytest.mark.parametrize("place", ["quantization_config", "text_config", "compression_config"])
def test_every_quantizer_is_told_before_anything_is_loaded(
    method: str, place: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry: dict[str, Any] = {"quant_method": method}
    if place == "text_config":
        entry = {"quantization_config": entry}
    broken.change_config(folder, **{place: entry})
    nothing_is_loaded(monkeypatch)
    assert f"already quantized (method {method}): give the original model" in refusal(folder, monkeypatch)


@pytest.mark.parametrize(
    "name",
    [
        *("fp8-with-scale", "fp8-without-scale", "int8", "gptq", "adapter-beside", "adapter-alone", "gguf"),
        *("bin", "two-values", "above", "dangling-weights", "modelopt", "mlx", "nested"),
    ],
)
def test_what_a_directory_holds_is_told_before_anything_is_loaded(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage, words = broken.BROKEN[name]
    damage(folder)
    nothing_is_loaded(monkeypatch)
    assert words in refusal(folder, monkeypatch)


def link_as_a_hub_cache_does(folder: Path) -> None:
    blobs = folder.parent / "blobs"
    blobs.mkdir()
    for number, file in enumerate(sorted(folder.iterdir())):
        file.rename(blobs / str(number))
        file.symlink_to(f"../blobs/{number}")


SOUND: dict[str, broken.Break] = {
    "as-saved": lambda _: None,
    "in-shards": broken.shards,
    "equal-in-two-shards": broken.in_both_shards(0.0),
    "in-a-folder-below": broken.placed("weights/model-x.safetensors"),
    "links": link_as_a_hub_cache_does,
    "links-to-shards": broken.both(broken.shards, link_as_a_hub_cache_does),
    "named-weights": broken.both(
        lambda folder: (folder / broken.WEIGHTS).rename(folder / "mine.safetensors"),
        broken.configured(transformers_weights="mine.safetensors"),
    ),
    "consolidated-beside": lambda folder: save_file(
        {"norm.weight": torch.ones(3)}, folder / "consolidated.safetensors"
    ),
    "no-quantization": broken.configured(quantization_config=None),
    "modelopt-of-nothing": broken.holding("hf_quant_config.json", '{"quantization": {"quant_algo": null}}'),
    "second-name-equal": lambda folder: broken.change_tensors(
        folder, lambda old: old.update({broken.UP.removeprefix("model."): old[broken.UP].clone()})
    ),
    "old-rotary-buffers": broken.adding(
        **{
            f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": broken.rotary(10_000.0).to(dtype)
            for layer, dtype in enumerate((torch.float32, torch.bfloat16))
        }
    ),
    "without-the-prefix": lambda folder: broken.change_tensors(
        folder,
        lambda old: [
            old.update({name.removeprefix("model."): old.pop(name)}) for name in [*old] if name[0] == "m"
        ],
    ),
}


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_checkpoint_loads_as_it_was_saved(name: str, folder: Path) -> None:
    before = load(str(folder)).weights_fingerprint
    SOUND[name](folder)
    assert load(str(folder)).weights_fingerprint == before


def test_a_tied_twin_is_allowed_if_it_is_equal_and_refused_if_one_bit_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tied"
    broken.save_sound(folder, tie_word_embeddings=True)
    before = load(str(folder)).weights_fingerprint
    twin = load_file(folder / broken.WEIGHTS)["model.embed_tokens.weight"].clone()
    broken.adding(**{"lm_head.weight": twin})(folder)
    assert load(str(folder)).weights_fingerprint == before

    twin.view(torch.uint8)[3, 4] ^= 1
    broken.adding(**{"lm_head.weight": twin})(folder)
    assert "lm_head.weight and model.embed_tokens.weight are tied" in refusal(folder, monkeypatch)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_weights_that_a_type_cannot_hold_are_no_unsound_checkpoint(
    dtype: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest, stored = {
        "float16": (70000.0, torch.float32),
        "bfloat16": (3.4e38, torch.float32),
        "float32": (1e300, torch.float64),
    }[dtype]

    def grow(tensors: broken.Tensors) -> None:
        tensors[broken.UP] = tensors[broken.UP].to(stored)
        tensors[broken.UP][0, 0] = -largest

    broken.change_tensors(folder, grow)
    line = refusal(folder, monkeypatch, dtype=dtype)
    assert f"{dtype} ends at " in line
    assert f"{broken.UP} reaches {largest:.4g}, 1 tensors overflow" in line
    assert ("load it in bf16 or fp32" in line) == (dtype == "float16")
    assert "NaN" not in line


def test_a_type_that_holds_the_weights_loads_them(folder: Path) -> None:
    broken.change_tensors(folder, lambda tensors: tensors[broken.UP].fill_(70000.0))
    for dtype in ("bfloat16", "float32"):
        assert load(str(folder), dtype=dtype).model is not None


@pytest.mark.parametrize("sign", ["\x1b[31mred", "a\nb", "\u202eevil", "x" * 500])
def test_names_of_the_files_are_escaped_and_cut(
    sign: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken.adding(**{f"{sign}.weight": torch.ones(3)})(folder)
    assert "1 tensors of the file have no place in the model: " in refusal(folder, monkeypatch)


def test_a_name_of_a_model_is_escaped_and_cut(tmp_path: Path) -> None:
    folder = tmp_path / ("\x1b[2J" + "long" * 50)
    broken.save_sound(folder)
    broken.attention_biases(folder)
    with pytest.raises(ValueError, match="have no place") as caught:
        load(str(folder))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= LINE


def give(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


class _Panic(BaseException):
    """As PyO3 gives a panic of compiled code."""


_Panic.__module__ = "pyo3_runtime"


@pytest.mark.parametrize(
    "error",
    [
        *(KeyError("rope"), TypeError("a\nb"), AttributeError("x"), RecursionError("deep"), IndexError()),
        *(RuntimeError("conversion"), AssertionError(), ImportError("no such"), NotImplementedError()),
        *(ZeroDivisionError("division by zero"), _Panic("not a char boundary")),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_loader_raises_is_one_line(
    error: BaseException, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader.AutoModelForCausalLM, "from_pretrained", give(error))
    assert f"cannot be loaded: {type(error).__name__}" in refusal(folder, monkeypatch)


@pytest.mark.parametrize(
    "error",
    [
        *(MemoryError(), torch.OutOfMemoryError("CUDA"), KeyboardInterrupt(), SystemExit(3)),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_tells_nothing_of_the_files_passes(
    error: BaseException, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader.AutoModelForCausalLM, "from_pretrained", give(error))
    with pytest.raises(type(error)) as caught:
        load(str(folder))
    assert caught.value is error


def test_what_was_refused_by_name_is_not_told_twice() -> None:
    with pytest.raises(RefusedError) as caught, reading(lambda _: ValueError("told again")):
        raise refused("mine", "first")
    assert str(caught.value) == "model 'mine': first"


# From a hub cache.

#: What a snapshot cannot be, or what is told there in the words of the hub.
_DIRECTORIES_ALONE = {
    *("pipe", "weights-are-a-pipe", "weights-are-a-directory", "config-is-a-directory", "absolute", "above"),
    *("dangling-weights", "dangling-config", "dangling-shard", "missing-shard", "hidden-above", "gguf"),
    *("gguf-and-config", "bin", "pth", "ckpt", "consolidated-alone", "adapter-alone", "named-above"),
    *("pickle-by-name", "adapter-beside", "adapter-weights", "pickle-named"),
}


@pytest.mark.parametrize("name", [name for name in broken.BROKEN if name not in _DIRECTORIES_ALONE])
def test_a_broken_snapshot_is_refused_in_the_same_words(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage, words = broken.BROKEN[name]
    damage(folder)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder.parent / "home" / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub_cache.place(folder.parent / "home", "org/mine", "main", folder)
    with pytest.raises(ValueError, match=r"^model 'org/mine': ") as caught:
        load("org/mine")
    assert words in str(caught.value)
    assert len(str(caught.value)) <= LINE


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("adapter-beside", "an adapter (adapter_config.json)"),
        ("adapter-alone", "an adapter (adapter_config.json)"),
        ("above", "leads out of the directory, to ../other/"),
        ("absolute", "leads out of the directory, to /"),
        ("named-above", "leads out of the directory, to ../m.safetensors"),
        ("bin", "has no safetensors, and pickled weights (*.bin) may execute code"),
        ("missing-shard", "model-00002-of-00002.safetensors"),
        ("gguf-and-config", "has no safetensors in the hub cache"),
    ],
)
def test_of_a_snapshot_in_words_of_its_own(
    name: str, words: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken.BROKEN[name][0](folder)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder.parent / "home" / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub_cache.place(folder.parent / "home", "org/mine", "main", folder)
    with pytest.raises(ValueError, match=r"^model 'org/mine': ") as caught:
        load("org/mine")
    assert words in str(caught.value)
    assert str(caught.value).isprintable()


# Fingerprints of the tokenizer.


def fingerprint(folder: Path) -> str:
    return load(str(folder)).tokenizer_fingerprint


def test_every_file_that_decides_token_ids_moves_the_fingerprint(folder: Path) -> None:
    files = ("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json")
    seen = {fingerprint(folder)}
    for name in files:
        for content in ("{}", '{"a": 1}'):
            (folder / name).write_text(content)
            seen.add(fingerprint(folder))
    assert len(seen) == 1 + 2 * len(files)


@pytest.mark.parametrize(
    ("key", "value", "moves"),
    [
        ("add_bos_token", True, True),
        ("added_tokens_decoder", {"5": {"content": "<x>"}}, True),
        ("add_prefix_space", False, True),
        ("model_max_length", 7, False),
        ("tokenizer_class", "TokenizersBackend", False),
        ("chat_template", "{{ x }}", False),
    ],
)
def test_of_the_tokenizer_s_configuration_only_what_decides_token_ids(
    key: str, value: object, moves: bool, folder: Path
) -> None:
    (folder / "tokenizer.json").write_text("{}")
    before = fingerprint(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({key: value}))
    assert (fingerprint(folder) != before) == moves


def test_the_accepted_fingerprint_of_the_reference_models_stands() -> None:
    accepted = json.loads((ROOT / "baselines" / "ref-llama" / "fp32.json").read_text())
    (found,) = {value for key, value in walk(accepted) if key == "tokenizer"}
    assert load("ref-llama").tokenizer_fingerprint == found


def walk(data: Any) -> list[tuple[str, Any]]:
    if isinstance(data, dict):
        return [pair for key, value in data.items() for pair in [(key, value), *walk(value)]]
    return [pair for value in data for pair in walk(value)] if isinstance(data, list) else []


def test_a_dangling_tokenizer_is_not_no_tokenizer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "tokenizer.json").symlink_to("../blobs/gone")
    assert "tokenizer.json is a dangling link to ../blobs/gone" in refusal(folder, monkeypatch)
