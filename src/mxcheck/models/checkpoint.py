"""What a checkpoint must be before and after it is loaded, and what to do where it is not."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError, safe_open
from torch import nn

from mxcheck.models.zoo import ModelSource

_NOT_IN_CACHE = "is not complete in the hub cache, and the hub was not reached or did not give it"
#: Why the hub gave nothing. In this order: a gated repository is also one that was not found.
_HUB_REASONS: tuple[tuple[type[BaseException], str], ...] = (
    (GatedRepoError, "is gated and this account has no access to it"),
    (RepositoryNotFoundError, "does not exist on the hub, or is private"),
    (RevisionNotFoundError, "has no such revision"),
    (LocalEntryNotFoundError, _NOT_IN_CACHE),
    (OfflineModeIsEnabled, _NOT_IN_CACHE),
)
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")

#: Credentials that an endpoint's address or a library's message may carry.
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+@|\bhf_\w{8,}")


def check_directory(directory: Path) -> None:
    """Refuse, by ValueError in one line that names the file, a directory without config.json or safetensors
    and a safetensors file whose header cannot be read."""
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


def unloadable(source: ModelSource, error: OSError | ValueError) -> ValueError:
    """The error for a checkpoint that transformers could not load: what is wrong with it and what to place
    where, in one line and without credentials."""
    words = _CREDENTIALS.sub("***", " ".join(str(error).split())).removesuffix(".")
    if "trust_remote_code" in words:
        return ValueError(
            f"model {source.name!r} ({source.location}) needs code of its own, which is not executed; read "
            f"that code, then allow it for this model with --mx-trust-remote-code {source.name} (in Python "
            f"trust_remote_code=True)"
        )
    if source.is_directory:
        return ValueError(f"model {source.name!r} cannot be loaded from {source.location}: {words}")
    reason = _hub_reason(error)
    if reason is None and "use_safetensors" in words:
        if _pickled(source):
            return ValueError(
                f"model {source.name!r}: {source.location} at revision {source.revision} has no safetensors, "
                f"and pickled weights (*.bin) may execute code and are never loaded; {_conversion(source)}"
            )
        reason = "has no safetensors in the hub cache, and the hub gave none"
    if reason is None:
        reason = f"cannot be loaded: {words}"
    place = f"place it there with `hf download {source.location} --revision {source.revision}`"
    if source.card is not None and source.card.gated:
        place += " (once its licence is accepted on the hub, after `hf auth login`)"
    if source.card is not None and not source.card.safetensors:
        place += f"; it holds no safetensors: {_conversion(source)}"
    return ValueError(
        f"model {source.name!r}: {source.location} at revision {source.revision} {reason} (hub cache: "
        f"{constants.HF_HUB_CACHE}); {place}, or give a local directory"
    )


def check_materialised(model: nn.Module, source: ModelSource) -> None:
    """Refuse a model of which tensors were left on the meta device: they have no values."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    left = [name for name, value in tensors if value.is_meta]
    if not left:
        return
    places = {str(place) for place in getattr(model, "hf_device_map", {}).values()}
    if places & {"cpu", "disk"}:
        why = "the devices have too little memory, so accelerate put them on the CPU or the disk"
        mend = "give more or larger devices"
        if source.card is not None:
            mend += f" ({source.card.devices()} of 80 GB hold it and its quantized weights)"
    else:
        why = "nothing was loaded into them"
        mend = "give a complete checkpoint"
    raise ValueError(
        f"model {source.name!r}: {len(left)} tensor(s) left on the meta device, first {left[0]}: "
        f"{why}; {mend}"
    )


def check_finite(model: nn.Module, source: ModelSource) -> None:
    """Refuse weights that are NaN or infinite, naming the first tensor and, in a directory, its file."""
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


def _hub_reason(error: BaseException) -> str | None:
    """What the hub, or its cache, answered: the first kind of the table in the error's chain."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    reasons = [reason for kind, reason in _HUB_REASONS if any(isinstance(cause, kind) for cause in chain)]
    return reasons[0] if reasons else None


def _pickled(source: ModelSource) -> bool:
    if source.card is not None and not source.card.safetensors:
        return True
    cached = [try_to_load_from_cache(source.location, name, revision=source.revision) for name in _PICKLED]
    return any(isinstance(file, str) for file in cached)


def _conversion(source: ModelSource) -> str:
    """How to make a safetensors directory of pickled weights: for the user to run, who may trust them."""
    folder = source.card.name if source.card is not None else source.location.rpartition("/")[2]
    arguments = f"'{source.location}', revision='{source.revision}'"
    return (
        f'convert it once, if you trust it, with `python -c "from transformers import '
        f"AutoModelForCausalLM as M, AutoTokenizer as T; "
        f"M.from_pretrained({arguments}, dtype='auto', use_safetensors=False).save_pretrained('{folder}'); "
        f"T.from_pretrained({arguments}).save_pretrained('{folder}')\"` and give ./{folder}"
    )


def _first_file_with_non_finite(directory: Path) -> str | None:
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118  (safe_open is no mapping)
                value = tensors.get_tensor(key)
                if value.is_floating_point() and not torch.isfinite(value.float()).all():
                    return f"{file} (tensor {key})"
    return None
