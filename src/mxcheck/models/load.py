"""One loader for reference models, zoo models, directories and hub ids: explicit dtype, eager attention,
safetensors only, no code of the checkpoint unless asked for."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils.hub import cached_file

from mxcheck.formats.choices import choose
from mxcheck.models.cards import GIB, ITEM_BYTES, ModelCard
from mxcheck.models.checkpoint import check_directory, check_finite, check_materialised, unloadable
from mxcheck.models.outliers import add_outliers
from mxcheck.models.zoo import ModelSource, model_source

#: What makes a tokenizer, for its fingerprint.
_TOKENIZERS = (("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"))

#: One load at a time in a process: transformers sets torch's default dtype while it builds a model, so that
#: of 60 models loaded by concurrent threads 44 had wrong dtypes (transformers 5.23). Processes may do as
#: they like: the hub cache has file locks.
_LOADING = threading.Lock()

#: transformers asks a service of the hub to convert a repository that has no safetensors, unless told not to.
_NO_CONVERSION_SERVICE = {"DISABLE_SAFETENSORS_CONVERSION": "1"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedModel:
    """A model ready to be measured. Fingerprints are SHA-256: of every parameter's name, dtype, shape and
    bytes as loaded, and of the tokenizer's files."""

    source: ModelSource
    model: PreTrainedModel
    weights_fingerprint: str
    tokenizer_fingerprint: str


def load(
    name: str,
    *,
    device: str = "cpu",
    devices: Mapping[int, int] | None = None,
    dtype: str | None = None,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Load a model of the zoo, a directory or a hub id with eager attention in `dtype` (None: the source's,
    which is the checkpoint's for a model with a card and float32 for any other).

    `device="cuda"` spreads a model by accelerate: over `devices`, bytes by index, where there are several of
    them; without `devices` over all that there are, if its card says that one is too small. `"cuda:0"` never
    does. `trust_remote_code` executes the checkpoint's code if it needs it.

    Raises ValueError, naming the file, for a directory without safetensors, a truncated or corrupt file,
    missing or mismatched tensors, tensors left without values, weights that are not finite, and a hub that
    does not give the model. torch.OutOfMemoryError and MemoryError pass.
    """
    source = model_source(name)
    dtype = choose("dtype", dtype or source.dtype, ITEM_BYTES)
    device_map = None
    if device == "cuda" and devices is None and source.card is not None:
        memory = torch.cuda.get_device_properties(0).total_memory
        if _spread(source.card, dtype, device_bytes=memory, devices=torch.cuda.device_count()):
            devices = dict.fromkeys(range(torch.cuda.device_count()), memory)
    max_memory = None
    if device == "cuda" and devices is not None and len(devices) > 1:
        _check_accelerate(f"model {source.name!r} goes over {len(devices)} devices")
        device_map = "auto"
        # Half of each: the quantized weights come beside the original ones.
        max_memory = {index: size // 2 for index, size in devices.items()}
    if source.is_directory:
        check_directory(Path(source.location))
    with _LOADING, _environment(_NO_CONVERSION_SERVICE):
        model = _from_pretrained(source, dtype, device_map, max_memory, trust_remote_code)
    check_materialised(model, source)
    if hasattr(model, "set_experts_implementation"):
        # The loop over experts: the one implementation whose products are plain linear calls.
        model.set_experts_implementation("eager")
    model.eval().requires_grad_(False)
    check_finite(model, source)
    if source.outliers:
        add_outliers(model)
    if device_map is None:
        nn.Module.to(model, device)
    return LoadedModel(
        source=source,
        model=model,
        weights_fingerprint=weights_fingerprint(model),
        tokenizer_fingerprint=_tokenizer_fingerprint(source),
    )


def _from_pretrained(
    source: ModelSource,
    dtype: str,
    device_map: str | None,
    max_memory: dict[int, int] | None,
    trust_remote_code: bool,
) -> PreTrainedModel:
    try:
        loading: Any = AutoModelForCausalLM.from_pretrained(
            source.location,
            revision=source.revision,
            dtype=getattr(torch, dtype),
            attn_implementation="eager",
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            device_map=device_map,
            max_memory=max_memory,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, by name
        )
    except SafetensorError as error:
        raise ValueError(f"model {source.name!r}: a safetensors file cannot be read: {error}") from error
    # OSError is the hub's answer (no such model, no access, no network), ValueError an unknown model_type.
    except (OSError, ValueError) as error:
        raise unloadable(source, error) from error
    model: PreTrainedModel
    model, info = loading
    for what in ("missing_keys", "mismatched_keys"):
        if info[what]:
            names = ", ".join(sorted(str(key) for key in info[what])[:3])
            raise ValueError(
                f"model {source.name!r}: {len(info[what])} {what.replace('_', ' ')} in {source.location}: "
                f"{names}; they would be initialised at random; give a complete checkpoint"
            )
    return model


def _spread(card: ModelCard, dtype: str, *, device_bytes: int, devices: int) -> bool:
    """Whether the model goes over all devices: there are several, and one is too small by its card."""
    if devices == 1 or card.bytes_needed(dtype) <= device_bytes:
        return False
    _check_accelerate(
        f"model {card.name!r} needs {card.bytes_needed(dtype) / GIB:.0f} GiB in {dtype}, got devices of "
        f"{device_bytes / GIB:.0f} GiB"
    )
    return True


def _check_accelerate(why: str) -> None:
    if importlib.util.find_spec("accelerate") is None:
        raise ValueError(f"{why}; pip install accelerate, which spreads it over them")


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


def positions(config: Any) -> int | None:
    """How many positions a text model has by its configuration; None where it sets no limit (ALiBi). Dynamic
    NTK stretches them by its factor."""
    rotary = getattr(config, "rope_parameters", None) or {}
    factor = rotary.get("factor", 1) if rotary.get("rope_type") == "dynamic" else 1
    for key in ("max_position_embeddings", "max_seq_len"):  # MPT has the second
        if (value := getattr(config, key, None)) is not None:
            return int(value * factor)
    return None


def weights_fingerprint(model: nn.Module) -> str:
    """SHA-256 over every parameter, in the order of their names."""
    total = hashlib.sha256()
    for name, value in sorted(model.named_parameters()):
        total.update(f"{name}:{value.dtype}:{tuple(value.shape)}:".encode())
        total.update(tensor_bytes(value))
    return total.hexdigest()


def tensor_bytes(value: torch.Tensor) -> memoryview:
    """The tensor's bytes in C order, without a copy where it lies contiguous in host memory."""
    array: Any = value.detach().cpu().contiguous().view(torch.uint8).numpy()
    return memoryview(array).cast("B")


def _tokenizer_fingerprint(source: ModelSource) -> str:
    """SHA-256 of the first of `_TOKENIZERS` that there is: what else lies beside it decides nothing, and a
    hub cache may or may not hold it."""
    for names in _TOKENIZERS:
        total = hashlib.sha256()
        paths = {name: _tokenizer_file(source, name) for name in names}
        for name, path in paths.items():
            if path is not None:
                data = Path(path).read_bytes()
                total.update(json.dumps([name, len(data)]).encode())
                total.update(data)
        if any(paths.values()):
            return total.hexdigest()
    return "no tokenizer"


def _tokenizer_file(source: ModelSource, name: str) -> str | None:
    try:
        path: str | None = cached_file(
            source.location,
            name,
            revision=source.revision,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=not constants.HF_HUB_OFFLINE,
        )
    except OSError as error:
        raise unloadable(source, error) from error
    return path
