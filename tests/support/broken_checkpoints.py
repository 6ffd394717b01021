"""Broken checkpoints as public bug reports describe them: each made of a sound directory by one function.

The sound one is `save_sound`: a random Llama of two layers, in one file. What a function does to it stands in
its name; the words beside it are what the refusal must say.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save, save_file
from transformers import LlamaConfig, LlamaForCausalLM

Tensors = dict[str, torch.Tensor]
Break = Callable[[Path], object]

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
UP = "model.layers.1.mlp.up_proj.weight"


def save_sound(folder: Path, *, vocabulary: int = 64, **more: Any) -> None:
    """A sound checkpoint, the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=vocabulary, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64, bos_token_id=0,
            eos_token_id=1, **more,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(folder)


def change_tensors(folder: Path, change: Callable[[Tensors], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(
        {name: value.contiguous() for name, value in tensors.items()}, folder / WEIGHTS, {"format": "pt"}
    )


def change_config(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text()) | values
    (folder / "config.json").write_text(json.dumps(config))


def adding(**tensors: torch.Tensor) -> Break:
    return lambda folder: change_tensors(folder, lambda old: old.update(tensors))


def rotary(theta: float) -> torch.Tensor:
    """The frequencies of heads of 16."""
    return theta ** -(torch.arange(0, 16, 2) / 16)


def configured(**values: Any) -> Break:
    return lambda folder: change_config(folder, **values)


def holding(name: str, content: str | bytes) -> Break:
    data = content.encode() if isinstance(content, str) else content

    def write(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_bytes(data)

    return write


def both(*steps: Break) -> Break:
    def run(folder: Path) -> None:
        for step in steps:
            step(folder)

    return run


def without(*patterns: str) -> Break:
    def remove(folder: Path) -> None:
        for pattern in patterns:
            for file in folder.glob(pattern):
                file.unlink()

    return remove


def attention_biases(folder: Path) -> None:
    def add(tensors: Tensors) -> None:
        for name in [name for name in tensors if "_proj" in name and "self_attn" in name]:
            tensors[name.replace("weight", "bias")] = torch.ones(tensors[name].shape[0])

    change_tensors(folder, add)


def fp8(*, scale: bool) -> Break:
    def cast(tensors: Tensors) -> None:
        for name in [name for name in tensors if "mlp" in name]:
            largest = tensors[name].abs().max()
            tensors[name] = (tensors[name] / largest * 448).to(torch.float8_e4m3fn)
            if scale:
                tensors[f"{name}_scale"] = largest / 448

    return lambda folder: change_tensors(folder, cast)


def stored_as(name: str, dtype: torch.dtype) -> Break:
    return lambda folder: change_tensors(
        folder, lambda tensors: tensors.update({name: (tensors[name] * 100).to(dtype)})
    )


def gptq_without_config(folder: Path) -> None:
    def pack(tensors: Tensors) -> None:
        del tensors[UP]
        tensors[UP.replace("weight", "qweight")] = torch.zeros(4, 48, dtype=torch.int32)
        tensors[UP.replace("weight", "scales")] = torch.ones(1, 48)

    change_tensors(folder, pack)


def shards(folder: Path, change: Callable[[Tensors, Tensors], object] = lambda _, __: None) -> None:
    """In two files with an index, after `change` was made to what each holds."""
    tensors = load_file(folder / WEIGHTS)
    names = sorted(tensors)
    first = {name: tensors[name] for name in names[:10]}
    second = {name: tensors[name] for name in names[10:]}
    change(first, second)
    (folder / WEIGHTS).unlink()
    places = {}
    for number, part in enumerate((first, second), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file(part, folder / file, {"format": "pt"})
        places |= dict.fromkeys(part, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))


def in_both_shards(difference: float) -> Break:
    def copy(first: Tensors, second: Tensors) -> None:
        assert UP in second
        first[UP] = second[UP] + difference

    return lambda folder: shards(folder, copy)


def placed(name: str) -> Break:
    """The second shard is elsewhere, by its name in the index."""

    def move(folder: Path) -> None:
        shards(folder)
        file = folder / "model-00002-of-00002.safetensors"
        target = Path(name.format(folder=folder))
        place = target if target.is_absolute() else folder / target
        place.parent.mkdir(parents=True, exist_ok=True)
        file.rename(place)
        index = json.loads((folder / INDEX).read_text())
        places = {
            key: str(target) if value == file.name else value for key, value in index["weight_map"].items()
        }
        (folder / INDEX).write_text(json.dumps({**index, "weight_map": places}))

    return move


def dangling(name: str) -> Break:
    def link(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to("../../blobs/0123456789abcdef")

    return link


def directory(name: str) -> Break:
    def make(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()

    return make


def pipe(name: str) -> Break:
    def make(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return make


def pickled(name: str) -> Break:
    def dump(folder: Path) -> None:
        torch.save(load_file(folder / WEIGHTS), folder / name)
        (folder / WEIGHTS).unlink()

    return dump


def tied_and_different(folder: Path) -> None:
    change_config(folder, tie_word_embeddings=True)


def a_second_name(folder: Path) -> None:
    change_tensors(folder, lambda old: old.update({UP.removeprefix("model."): old[UP] + 1}))


_ADAPTER = json.dumps({"peft_type": "LORA", "base_model_name_or_path": "org/base", "r": 8})
_LORA = save({"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(8, 32)})
_NESTED = '{"architectures": ' + "[" * 200_000

#: name -> how it is made, and what the line says.
BROKEN: Mapping[str, tuple[Break, str]] = {
    # tensors that nobody takes
    "biases": (
        attention_biases,
        "8 tensors of the file have no place in the model: model.layers.0.self_attn",
    ),
    "layers": (configured(num_hidden_layers=1), "num_hidden_layers 1; give the configuration of these"),
    "value-head": (
        adding(**{"v_head.weight": torch.ones(1, 32)}),
        "have no place in the model: v_head.weight",
    ),
    "mtp": (adding(**{"mtp.fc.weight": torch.ones(32, 64)}), "1 tensors of the file have no place in the m"),
    "rope-of-another-theta": (
        adding(**{"model.layers.0.self_attn.rotary_emb.inv_freq": rotary(500_000.0)}),
        "is not what config.json makes (rope_theta 10000.0): the weights were trained with other rotary",
    ),
    "rope-not-finite": (
        adding(**{"model.layers.0.self_attn.rotary_emb.inv_freq": torch.full((8,), torch.nan)}),
        "is not what config.json makes (rope_theta 10000.0)",
    ),
    "rope-buffers-renamed": (adding(**{"model.inv": torch.ones(8)}), "no place in the model: model.inv;"),
    "wrapped": (
        lambda folder: change_tensors(
            folder, lambda old: [old.update({f"module.{name}": old.pop(name)}) for name in [*old]]
        ),
        "(the files have module.lm_head.weight, which has no place)",
    ),
    # codes
    "fp8-with-scale": (fp8(scale=True), "already quantized (codes or scales in the weights, and no method"),
    "fp8-without-scale": (fp8(scale=False), "stored as F8_E4M3, codes and not weights: give the original"),
    "int8": (stored_as(UP, torch.int8), f"already quantized: {UP} is stored as I8, codes"),
    "int8-norm": (
        stored_as("model.norm.weight", torch.int8),
        "model.norm.weight is stored as I8, integer co",
    ),
    "gptq": (gptq_without_config, "1 tensors, model.layers.1.mlp.up_proj.qweight: give the original"),
    # said to be quantized
    "fp8-method": (configured(quantization_config={"quant_method": "fp8"}), "already quantized (method fp8)"),
    "unknown-method": (
        configured(quantization_config={"quant_method": "of-their-own"}),
        "already quantized (method of-their-own): give the original model",
    ),
    "method-of-text": (
        configured(text_config={"quantization_config": {"quant_method": "awq"}}),
        "already quantized (method awq): give the original model",
    ),
    "method-in-a-list": (
        configured(parts=[{"quantization_config": {"quant_method": "hqq"}}]),
        "already quantized (method hqq)",
    ),
    "compression": (
        configured(compression_config={"format": "float-quantized"}),
        "already quantized (method float-quantized)",
    ),
    "no-method": (configured(quantization_config={"bits": 4}), "already quantized (method 4 bits)"),
    "no-method-at-all": (
        configured(quantization_config={}),
        "(method unknown, by quantization_config of conf",
    ),
    "load-in-4bit": (configured(quantization_config={"load_in_4bit": True}), "(method bitsandbytes_4bit)"),
    "mlx": (configured(quantization={"group_size": 64, "bits": 4}), "already quantized (method 4 bits)"),
    "a-word": (configured(quantization_config="int8"), "already quantized (method quantization_config int8)"),
    "modelopt": (
        holding("hf_quant_config.json", '{"quantization": {"quant_algo": "NVFP4"}}'),
        "already quantized (method modelopt NVFP4, by hf_quant_config.json)",
    ),
    "old-gptq": (holding("quantize_config.json", '{"bits": 4}'), "(method gptq, by quantize_config.json)"),
    # adapters
    "adapter-beside": (holding("adapter_config.json", _ADAPTER), "lies beside the weights, and would not be"),
    "adapter-weights": (
        holding("adapter_model.safetensors", _LORA),
        "an adapter (adapter_model.safetensors) l",
    ),
    "adapter-alone": (
        both(
            without("*"),
            holding("adapter_config.json", _ADAPTER),
            holding("adapter_model.safetensors", _LORA),
        ),
        "an adapter (LoRA) of org/base without its model",
    ),
    "not-merged": (
        adding(**{UP.replace(".weight", ".lora_A.default.weight"): torch.ones(8, 32)}),
        "1 tensors of an adapter that is not merged",
    ),
    # other files
    "gguf": (
        both(without("*"), holding("model-q4_k_m.gguf", b"GGUF")),
        "a GGUF directory (model-q4_k_m.gguf)",
    ),
    "gguf-and-config": (both(without("model*"), holding("m.gguf", b"GGUF")), "a GGUF directory (m.gguf)"),
    "bin": (
        pickled("pytorch_model.bin"),
        "it has pytorch_model.bin, which may execute code and is never loa",
    ),
    "pth": (pickled("consolidated.00.pth"), "it has consolidated.00.pth, which may execute code"),
    "ckpt": (pickled("last.ckpt"), "it has last.ckpt, which may execute code"),
    "pickle-by-name": (
        both(pickled("adapter_model.bin"), configured(transformers_weights="adapter_model.bin")),
        "an adapter (adapter_model.bin)",
    ),
    "pickle-named": (
        configured(transformers_weights="pytorch_model.bin"),
        "must name safetensors, got 'pyto",
    ),
    "distributed": (
        holding("shard-00001-model-00001-of-00001.safetensors", _LORA),
        "a distributed checkpoint",
    ),
    "consolidated-alone": (
        lambda folder: (folder / WEIGHTS).rename(folder / "consolidated.safetensors"),
        "has neither model.safetensors nor model.safetensors.index.json, got consolidated.safetensors",
    ),
    # shards and their index
    "two-values": (
        in_both_shards(1.0),
        f"tensor {UP} stands in model-00001-of-00002.safetensors and in model",
    ),
    "absolute": (placed("{folder}-elsewhere/model-x.safetensors"), "leads out of the directory, to /"),
    "above": (
        placed("../other/model-x.safetensors"),
        "leads out of the directory, to ../other/model-x.safete",
    ),
    "hidden-above": (
        placed("sub/../../other/m.safetensors"),
        "leads out of the directory, to sub/../../other",
    ),
    "named-above": (
        configured(transformers_weights="../m.safetensors"),
        "leads out of the directory, to ../m.",
    ),
    "missing-shard": (
        both(shards, without("model-00002*")),
        "model-00002-of-00002.safetensors of model.safet",
    ),
    "left-over-shard": (
        holding("model-00002-of-00002.safetensors", _LORA),
        "reads model.safetensors and not m",
    ),
    "index-of-numbers": (both(shards, holding(INDEX, '{"metadata": {}, "weight_map": {"a": 1}}')), "got 1"),
    "index-is-a-list": (both(shards, holding(INDEX, "[]")), "must hold a JSON object, got list"),
    "index-without-map": (both(shards, holding(INDEX, "{}")), "must hold a weight_map"),
    "index-without-metadata": (
        both(shards, holding(INDEX, '{"weight_map": {"a": "b.safetensors"}}')),
        "must hold m",
    ),
    "index-nested": (both(shards, holding(INDEX, _NESTED)), f"{INDEX} is no JSON that can be read"),
    # links and directories
    "dangling-weights": (
        dangling(WEIGHTS),
        "model.safetensors is a dangling link to ../../blobs/0123456789ab",
    ),
    "dangling-config": (
        dangling("config.json"),
        "config.json is a dangling link to ../../blobs/0123456789ab",
    ),
    "dangling-shard": (
        both(shards, dangling("model-00002-of-00002.safetensors")),
        "model-00002-of-00002.safetensors is a dangling link",
    ),
    "weights-are-a-directory": (directory(WEIGHTS), "model.safetensors is a directory"),
    "config-is-a-directory": (directory("config.json"), "config.json is a directory"),
    "pipe": (pipe("config.json"), "config.json is no file"),
    "weights-are-a-pipe": (pipe(WEIGHTS), "model.safetensors is no file"),
    # configurations
    "list": (holding("config.json", "[1]"), "config.json must hold a JSON object, got list"),
    "nested": (holding("config.json", _NESTED), "config.json is no JSON that can be read"),
    "latin-1": (holding("config.json", b'{"a": "\xe9"}'), "config.json is no JSON that can be read"),
    "text-config": (configured(text_config=[1], model_type="gemma3"), "cannot be loaded"),
    "no-type": (holding("config.json", "{}"), "cannot be loaded"),
    "unknown-type": (configured(model_type="of-tomorrow"), "has model type `of-tomorrow`"),
    "type-is-a-number": (configured(model_type=3), "cannot be loaded"),
    "rope": (configured(rope_parameters={"rope_type": "of-tomorrow", "rope_theta": 1.0}), "of-tomorrow"),
    "rope-is-a-word": (configured(rope_parameters="yarn"), "cannot be loaded"),
    "hidden-size": (configured(hidden_size="wide"), "hidden_size"),
    "heads": (configured(num_attention_heads=0), "cannot be loaded"),
    "activation": (configured(hidden_act="of-tomorrow"), "of-tomorrow"),
    "generation": (
        holding("generation_config.json", "[1]"),
        "generation_config.json must hold a JSON object",
    ),
    "generation-nested": (holding("generation_config.json", _NESTED), "generation_config.json is no JSON"),
    "a-million-layers": (configured(num_hidden_layers=10**6), "says num_hidden_layers 1000000 and the files"),
    "a-million-labels": (configured(num_labels=10**9), "config.json says num_labels 1000000000"),
    "vocabulary": (configured(vocab_size=10**9), "describes a model of 64,000,015,"),
    "width": (configured(intermediate_size=10**12), "describes a model of 192,0"),
    "width-and-heads": (configured(hidden_size=2**40), "describes a model of 674,0"),
    # one tensor, twice
    "tied": (
        tied_and_different,
        "lm_head.weight and model.embed_tokens.weight are tied by config.json and di",
    ),
    "second-name": (a_second_name, f"are one tensor of the model, {UP}, and differ"),
}
