"""One loader for reference models, directories and hub ids: fp32, eager attention, safetensors only."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils.hub import cached_file

from mxcheck.models.outliers import add_outliers
from mxcheck.models.zoo import ModelSource, model_source

logger = logging.getLogger(__name__)

#: What makes a tokenizer, for its fingerprint.
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedModel:
    """A model ready to be measured. Fingerprints are SHA-256: of every parameter's name, dtype, shape and
    bytes as loaded, and of the tokenizer's files."""

    source: ModelSource
    model: PreTrainedModel
    weights_fingerprint: str
    tokenizer_fingerprint: str


def load(name: str, *, device: str = "cpu") -> LoadedModel:
    """Load a model of the zoo, a directory or a hub id in fp32 with eager attention.

    Raises ValueError, naming the file, for a directory without safetensors, a truncated or corrupt file,
    missing or mismatched tensors, and weights that are not finite. Never executes code of the checkpoint.
    """
    source = model_source(name)
    if source.is_directory:
        _check_files(Path(source.location))
    try:
        loading: Any = AutoModelForCausalLM.from_pretrained(
            source.location,
            dtype=torch.float32,
            attn_implementation="eager",
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, by name
        )
    except SafetensorError as error:
        raise ValueError(f"model {name!r}: a safetensors file cannot be read: {error}") from error
    # OSError is the hub's answer (no such model, no access, no network), ValueError an unknown model_type.
    except (OSError, ValueError) as error:
        words = " ".join(str(error).split())
        raise ValueError(f"model {name!r} cannot be loaded from {source.location}: {words}") from error
    model: PreTrainedModel
    model, info = loading
    for what in ("missing_keys", "mismatched_keys"):
        if info[what]:
            names = ", ".join(sorted(str(key) for key in info[what])[:3])
            raise ValueError(
                f"model {name!r}: {len(info[what])} {what.replace('_', ' ')} in {source.location}: {names}; "
                f"they would be initialised at random; give a complete checkpoint"
            )
    if hasattr(model, "set_experts_implementation"):
        # The loop over experts: the one implementation whose products are plain linear calls.
        model.set_experts_implementation("eager")
    model.eval().requires_grad_(False)
    _check_finite(model, source)
    if source.outliers:
        add_outliers(model)
    nn.Module.to(model, device)
    return LoadedModel(
        source=source,
        model=model,
        weights_fingerprint=weights_fingerprint(model),
        tokenizer_fingerprint=_tokenizer_fingerprint(source),
    )


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


def _check_files(directory: Path) -> None:
    files = sorted(directory.glob("*.safetensors"))
    if not (directory / "config.json").is_file():
        raise ValueError(
            f"model directory {directory} has no config.json; give a Hugging Face model directory"
        )
    weights = [file for file in files if file.name != "tokens.safetensors"]
    if not weights:
        pickled = sorted(file.name for file in directory.glob("*.bin"))
        hint = f" (it has {pickled[0]}, which may execute code and is never loaded)" if pickled else ""
        raise ValueError(
            f"model directory {directory} has no *.safetensors file{hint}; "
            f"save the model with save_pretrained(..., safe_serialization=True)"
        )
    for file in weights:
        try:
            with safe_open(file, framework="pt"):
                pass
        except SafetensorError as error:
            raise ValueError(f"{file} is truncated or corrupt ({error}); copy it again") from error


def _check_finite(model: nn.Module, source: ModelSource) -> None:
    bad = [name for name, value in model.named_parameters() if not torch.isfinite(value).all()]
    if not bad:
        return
    place = source.location
    if source.is_directory:
        place = _first_file_with_non_finite(Path(source.location)) or place
    raise ValueError(
        f"{place} holds weights that are NaN or infinite, first in {bad[0]} ({len(bad)} tensors in all); "
        f"give a sound checkpoint"
    )


def _first_file_with_non_finite(directory: Path) -> str | None:
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118  (safe_open is no mapping)
                value = tensors.get_tensor(key)
                if value.is_floating_point() and not torch.isfinite(value.float()).all():
                    return f"{file} (tensor {key})"
    return None


def _tokenizer_fingerprint(source: ModelSource) -> str:
    total = hashlib.sha256()
    found = False
    for name in _TOKENIZER_FILES:
        path = cached_file(
            source.location,
            name,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if path is not None:
            found = True
            data = Path(path).read_bytes()
            total.update(json.dumps([name, len(data)]).encode())
            total.update(data)
    return total.hexdigest() if found else "no tokenizer"
