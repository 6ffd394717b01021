"""Identify a directory that is no model in its original precision before anything is loaded. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mxcheck.models.zoo.refusal import UnfitError, listed
from mxcheck.models.zoo.weight_files import CONFIG, Stored, read_json

#: Configuration keys of quantized weights: transformers, compressed-tensors before transformers adopted it,
#: MLX.
_QUANTIZED_KEYS = ("quantization_config", "compression_config", "quantization")
#: Keys of the method's name in such an entry.
_METHOD_KEYS = ("quant_method", "quant_algo", "quantization_method", "method", "format", "mode")
#: Files that quantizers write beside the weights: ModelOpt, GPTQ, AWQ, quanto (both ways to save).
QUANTIZED_FILES = {
    "hf_quant_config.json": "modelopt",
    "quantize_config.json": "gptq",
    "quant_config.json": "awq",
    "quanto_qmap.json": "quanto",
    "quantization_map.json": "quanto",
}
#: Adapters of PEFT.
ADAPTER_CONFIG = "adapter_config.json"
ADAPTERS = (ADAPTER_CONFIG, "adapter_model.safetensors", "adapter_model.bin")
#: Weights that may execute code when they are read.
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.distcp")
#: torch.distributed.checkpoint, as transformers writes it: its loader prefers these to safetensors.
_DISTRIBUTED = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")

#: Stored dtypes of unquantized weights.
PLAIN_DTYPES = ("F64", "F32", "F16", "BF16")
_INTEGERS = ("I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")
#: Names that quantizers use for their codes, scales and zero points.
_CODES = re.compile(
    r"\.(qweight|qzeros|g_idx|qdata|SCB|SZB|CB|absmax|weight_packed|weight_scale(_inv|_2)?|weight_zero_point"
    r"|weight_global_scale|weight_format|weight_shape|quant_state\..*|W_q|input_scale|output_scale)$"
    r"|experts\.\w+_(blocks|scales)$"
)
_ADAPTED = re.compile(r"\.lora_[ABab]\.|\.lora_embedding_[AB]|\.base_layer\.|\.lora_magnitude_vector")

_ORIGINAL = "give the original model"


def quantization_of(config: dict[str, Any]) -> str | None:
    """Return the quantization method that a configuration declares, or None.

    Every part is searched, including the text model's, for methods that transformers knows or not.
    """
    for place in _parts(config):
        for key in _QUANTIZED_KEYS:
            entry = place.get(key)
            if entry is None or (key == "quantization" and not (isinstance(entry, dict) and "bits" in entry)):
                continue  # null, or another object of that name
            if not isinstance(entry, dict):
                return f"{key} {str(entry)[:40]}"
            return _method(entry) or f"unknown, by {key} of {CONFIG}"
    return None


def _parts(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    left: list[Any] = [config]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            yield part
            left += part.values()
        elif isinstance(part, list):
            left += part


def _method(entry: dict[str, Any]) -> str | None:
    for key in _METHOD_KEYS:
        if isinstance(entry.get(key), str):
            return str(entry[key])[:40]
    bits = ("4bit" if entry.get("load_in_4bit") else "8bit") if _bits_and_bytes(entry) else None
    if bits is not None:
        return f"bitsandbytes_{bits}"
    return f"{entry['bits']} bits" if isinstance(entry.get("bits"), int) else None


def _bits_and_bytes(entry: dict[str, Any]) -> bool:
    return bool(entry.get("load_in_8bit") or entry.get("load_in_4bit"))


def check_original(config: dict[str, Any], folder: Path) -> None:
    """Raise UnfitError for a model that declares quantized weights."""
    method = quantization_of(config)
    for name, writer in QUANTIZED_FILES.items():
        if method is None and (folder / name).is_file():
            said = read_json(folder / name).get("quantization", {})
            if isinstance(said, dict) and "quant_algo" in said and said["quant_algo"] is None:
                continue  # ModelOpt exports plain models too, and declares them
            algorithm = _method(said) if isinstance(said, dict) else None
            method = f"{writer}{f' {algorithm}' if algorithm else ''}, by {name}"
    if method is not None:
        raise UnfitError(f"already quantized (method {method}): {_ORIGINAL}")


def check_no_adapter(folder: Path) -> None:
    """Raise UnfitError for an adapter, and for a model with an adapter beside it, which would not be
    applied."""
    found = [name for name in ADAPTERS if (folder / name).is_file()]
    if not found:
        return
    if (folder / CONFIG).is_file():
        raise UnfitError(
            f"an adapter ({listed(found)}) lies beside the weights, and would not be applied; merge it "
            f"(PEFT's merge_and_unload) and save the model, or take the adapter away"
        )
    base = (
        read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path") if ADAPTER_CONFIG in found else None
    )
    of = f" of {base}" if isinstance(base, str) and base else ""
    raise UnfitError(
        f"an adapter (LoRA){of} without its model: {listed(found)}; merge it into the model (PEFT's "
        f"merge_and_unload) and give what save_pretrained writes"
    )


def check_is_safetensors(folder: Path) -> None:
    """Raise UnfitError for a directory without safetensors, naming what it holds instead."""
    if any(_DISTRIBUTED.fullmatch(path.name) for path in folder.iterdir()):
        raise UnfitError(
            "a distributed checkpoint (shard-*.safetensors); load it with transformers and save it whole "
            "with save_pretrained"
        )
    if any(True for _ in folder.glob("*.safetensors")):
        return
    save = "save the model with save_pretrained, which writes safetensors"
    if quantized := [path.name for path in folder.glob("*.gguf")]:
        raise UnfitError(f"a GGUF directory ({listed(quantized)}), not safetensors: {_ORIGINAL}")
    if pickled := [path.name for pattern in PICKLES for path in folder.glob(pattern)]:
        raise UnfitError(
            f"no *.safetensors file (it has {listed(pickled)}, which may execute code and is never loaded); "
            f"{save}"
        )
    raise UnfitError(f"no *.safetensors file; {save}")


def check_plain(stored: list[Stored]) -> None:
    """Raise UnfitError for weights stored as codes, and for adapters among them."""
    adapted = [one.name for one in stored if _ADAPTED.search(one.name)]
    if adapted:
        raise UnfitError(
            f"{len(adapted)} tensors of an adapter that is not merged: {listed(adapted)}; merge it (PEFT's "
            f"merge_and_unload) and save the model"
        )
    named = [one.name for one in stored if _CODES.search(one.name)]
    if named:
        raise UnfitError(
            f"already quantized (codes or scales in the weights, and no method in {CONFIG}): "
            f"{len(named)} tensors, {listed(named)}: {_ORIGINAL}"
        )
    for one in stored:
        weight = one.name.endswith(("weight", "_proj")) and len(one.shape) > 1
        if one.dtype not in (*PLAIN_DTYPES, *_INTEGERS) or (weight and one.dtype not in PLAIN_DTYPES):
            raise UnfitError(
                f"already quantized: {one.name} is stored as {one.dtype}, codes and not weights: {_ORIGINAL}"
            )


#: transformers creates a name for each label; a causal language model needs none.
_LABELS = 10**6


def check_layers(config: dict[str, Any], stored: list[Stored]) -> None:
    """Raise UnfitError for a configuration with more layers than there are tensors, or with too many labels:
    all would be created before the loader finds no weights for them."""
    text = config.get("text_config")
    labels = config.get("num_labels")
    if isinstance(labels, int) and labels > _LABELS:
        raise UnfitError(f"{CONFIG} says num_labels {labels}; a language model has none, take the line away")
    for part in (config, text if isinstance(text, dict) else {}):
        for key in ("num_hidden_layers", "n_layer", "n_layers", "num_layers"):
            if isinstance(part.get(key), int) and part[key] > len(stored):
                raise UnfitError(
                    f"{CONFIG} says {key} {part[key]} and the files hold {len(stored)} tensors; "
                    f"give the configuration of these weights"
                )
