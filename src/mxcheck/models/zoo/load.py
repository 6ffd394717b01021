"""The loader for reference models, zoo models, directories and hub ids: explicit dtype, eager attention,
safetensors only, and no code of the checkpoint unless allowed."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from mxcheck.extras import missing
from mxcheck.formats.choices import choose
from mxcheck.kernels.usual_settings import usual_settings
from mxcheck.models.zoo.cards import GIB, ITEM_BYTES, ModelCard
from mxcheck.models.zoo.checkpoint import (
    check_finite,
    check_materialised,
    folder_of,
    inspect,
    inspect_before,
    unloadable,
)
from mxcheck.models.zoo.known_models import ModelSource, model_source
from mxcheck.models.zoo.load_check import check_taken
from mxcheck.models.zoo.outliers import add_outliers
from mxcheck.models.zoo.refusal import UnfitError, listed, reading, refused, shown
from mxcheck.models.zoo.tokenizer_files import tokenizer_fingerprint
from mxcheck.models.zoo.weight_files import Stored

#: One load at a time in a process: transformers sets torch's default dtype while it builds a model, so that
#: of 60 models loaded by concurrent threads 44 had wrong dtypes (transformers 5.23). Processes need no lock:
#: the hub cache has file locks.
_LOADING = threading.Lock()

#: Maximum number of missing parameters with which the loader is still called.
_MUCH = 10**8

#: By default transformers asks a hub service to convert a repository without safetensors.
_NO_CONVERSION_SERVICE = {"DISABLE_SAFETENSORS_CONVERSION": "1"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedModel:
    """A model ready to be measured. Fingerprints are SHA-256: of every weight's name, dtype, shape and bytes
    as loaded, and of the tokenizer's files."""

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
    share: float = 0.5,
) -> LoadedModel:
    """Load a model of the zoo, a directory or a hub id with eager attention in `dtype` (None: the source's,
    which is the checkpoint's for a model with a card and float32 for any other).

    `device="cuda"` lets accelerate spread a model: over `devices` (index -> bytes) where there are several,
    or without `devices` over all GPUs, if by its card the model is too large for one. `"cuda:0"` never
    spreads, and `share` is the share of each device that a spread model may take: the quantized weights need
    the other half where they are kept. `trust_remote_code` executes the checkpoint's code if it needs it.

    Raises ValueError, in one line that names the model, for unsuitable files: they hold no model in its
    original precision, are damaged or contradictory, lack tensors of the model, hold tensors that the model
    did not take (`mxcheck.models.zoo.load_check`), or hold weights that are not finite; and where the hub
    does not deliver the model. torch.OutOfMemoryError and MemoryError pass.
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
        max_memory = {index: int(share * size) for index, size in devices.items()}
    # Process-wide settings: set within the lock, or threads would restore each other's values.
    with _LOADING, usual_settings(), _environment(_NO_CONVERSION_SERVICE):
        model = _from_pretrained(source, dtype, device_map, max_memory, trust_remote_code)
    check_materialised(model, source)
    if hasattr(model, "set_experts_implementation"):
        # The loop over experts: the only implementation with plain linear calls as products.
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
        tokenizer_fingerprint=tokenizer_fingerprint(source),
    )


def _extension(source: ModelSource) -> dict[str, Any]:
    """Return the configuration's replacements where a model gets more positions than its files declare."""
    if source.positions is None:
        return {}
    rope = {"rope_type": "default", "rope_theta": source.rope_theta}
    return {"max_position_embeddings": source.positions, "rope_parameters": rope}


def _from_pretrained(
    source: ModelSource,
    dtype: str,
    device_map: str | None,
    max_memory: dict[int, int] | None,
    trust_remote_code: bool,
) -> PreTrainedModel:
    stored = inspect_before(source)
    with reading(lambda error: unloadable(source, error)), _without_load_report():
        if stored is not None:
            _check_size(source, stored, trust_remote_code)
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
            **_extension(source),
        )
    model: PreTrainedModel
    model, info = loading
    spare = sorted(info["unexpected_keys"])
    others = f" (the files have {shown(spare[0])}, which has no place)" if spare else ""
    short = [f"{name} {list(got)} for {list(wanted)}" for name, got, wanted in info["mismatched_keys"]]
    for what, names in (("missing", [*info["missing_keys"]]), ("mismatched", short)):
        if names:
            raise refused(
                source.name,
                f"{len(names)} {what} tensors: {listed(names)}{others}; they would be initialised at random; "
                f"give a complete checkpoint",
            )
    if stored is None:
        stored = inspect(source, folder_of(source))
    with reading(lambda error: unloadable(source, error)):
        check_taken(model, stored, info["unexpected_keys"])
    return model


def _check_size(source: ModelSource, stored: Sequence[Stored], trust_remote_code: bool) -> None:
    """Refuse a configuration of a much larger model than the files hold: the loader would first allocate the
    missing part, and could exhaust the host's memory. The loader reports small differences itself, naming the
    tensors. The model is built, without storage, only where a number in the configuration is suspicious."""
    held = sum(math.prod(one.shape) for one in stored)
    too_many = held + max(held, _MUCH)
    config = AutoConfig.from_pretrained(
        source.location, revision=source.revision, trust_remote_code=trust_remote_code
    )
    numbers = [value for value in config.get_text_config().to_dict().values() if type(value) is int]
    hidden = getattr(config.get_text_config(), "hidden_size", None)
    width = hidden if type(hidden) is int else 1
    # The largest tensors that one number can cause: an embedding, experts' matrices, a mask of all positions.
    second, largest = sorted([1, 1, *numbers])[-2:]
    if largest * max(largest, width * second) <= too_many:
        return
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    wanted = sum(value.numel() for value in model.parameters())
    masks = sum(value.numel() * value.element_size() for value in model.buffers()) // 4  # as fp32 parameters
    if wanted + masks > too_many:
        raise UnfitError(
            f"config.json describes a model of {wanted + masks:,} parameters, and the files hold {held:,}; "
            f"give the configuration of these weights, or a complete checkpoint"
        )


def unloaded(name: str, *, dtype: str, trust_remote_code: bool = False) -> PreTrainedModel:
    """Build the model that a configuration describes: its modules, with names and shapes and without storage.

    Raises ValueError, in one line, for a configuration that `load` refuses.
    """
    source = model_source(name)
    with _LOADING, usual_settings(), _environment(_NO_CONVERSION_SERVICE):
        stored = inspect_before(source)
        with reading(lambda error: unloadable(source, error)):
            if stored is not None:
                _check_size(source, stored, trust_remote_code)
            config = AutoConfig.from_pretrained(
                source.location,
                revision=source.revision,
                trust_remote_code=trust_remote_code,
                **_extension(source),
            )
            with torch.device("meta"):
                model: PreTrainedModel = AutoModelForCausalLM.from_config(
                    config, trust_remote_code=trust_remote_code, dtype=getattr(torch, dtype)
                )
    return model


@contextmanager
def _without_load_report() -> Iterator[None]:
    """Suppress transformers' table of mismatched names, which contains text from the files; `check_taken` and
    the code above report it in one line. An error that refers to the table gets the reason itself."""
    logger = logging.getLogger("transformers.modeling_utils")
    reports = []

    def is_error(record: logging.LogRecord) -> bool:
        if record.levelno < logging.ERROR:
            reports.append(record.getMessage())
        return record.levelno >= logging.ERROR

    logger.addFilter(is_error)
    try:
        yield
    except RuntimeError as error:
        reasons = re.findall(r"^Error:? (.*)", "\n".join(reports), re.MULTILINE)
        if "conversion" not in str(error) or not reasons:
            raise
        raise UnfitError(f"tensors that cannot be merged: {reasons[0]}; give a sound checkpoint") from error
    finally:
        logger.removeFilter(is_error)


def _spread(card: ModelCard, dtype: str, *, device_bytes: int, devices: int) -> bool:
    """Return whether the model is spread over all devices: there are several, and by its card one is too
    small."""
    if devices == 1 or card.bytes_needed(dtype) <= device_bytes:
        return False
    _check_accelerate(
        f"model {card.name!r} needs {card.bytes_needed(dtype) / GIB:.0f} GiB in {dtype}, got devices of "
        f"{device_bytes / GIB:.0f} GiB"
    )
    return True


def _check_accelerate(why: str) -> None:
    if (reason := missing("accelerate")) is not None:
        raise ValueError(f"{why}; accelerate spreads it over them, and {reason}")


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
    """Return the number of positions of a text model by its configuration; None where it sets no limit
    (ALiBi). Dynamic NTK multiplies it by its factor."""
    rotary = getattr(config, "rope_parameters", None) or {}
    factor = rotary.get("factor", 1) if rotary.get("rope_type") == "dynamic" else 1
    for key in ("max_position_embeddings", "max_seq_len"):  # MPT has the second
        if (value := getattr(config, key, None)) is not None:
            return int(value * factor)
    return None


def weights_fingerprint(model: nn.Module) -> str:
    """Return the SHA-256 over every parameter, and every buffer that a checkpoint stores (such as routers'
    biases), in the order of their names."""
    total = hashlib.sha256()
    stored = model.state_dict().keys()
    buffers = [(name, value) for name, value in model.named_buffers() if name in stored]
    for name, value in sorted([*model.named_parameters(), *buffers], key=lambda pair: pair[0]):
        total.update(f"{name}:{value.dtype}:{tuple(value.shape)}:".encode())
        total.update(tensor_bytes(value))
    return total.hexdigest()


def tensor_bytes(value: torch.Tensor) -> memoryview:
    """Return the tensor's bytes in C order, without a copy where it is contiguous in host memory."""
    array: Any = value.detach().cpu().contiguous().view(torch.uint8).numpy()
    return memoryview(array).cast("B")
