"""Checks of a checkpoint before and after loading, and the errors for an unsuitable one."""

from __future__ import annotations

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
from transformers.utils.hub import cached_file

from mxcheck.models.zoo.kind_of_checkpoint import (
    ADAPTER_CONFIG,
    QUANTIZED_FILES,
    check_is_safetensors,
    check_layers,
    check_no_adapter,
    check_original,
    check_plain,
)
from mxcheck.models.zoo.known_models import ModelSource
from mxcheck.models.zoo.load_check import check_equal_where_twice, read_tensor
from mxcheck.models.zoo.refusal import UnfitError, reading, refused, shown, words_of
from mxcheck.models.zoo.weight_files import (
    CONFIG,
    Stored,
    is_complete,
    read_json,
    stored_tensors,
    weight_files,
)

#: Longest excerpt of the hub library's message in an error.
_WORDS = 150
_NOT_IN_CACHE = "is not complete in the hub cache, and the hub was not reached or did not give it"
#: Reasons why the hub returned nothing. The order matters: a gated repository also counts as not found.
_HUB_REASONS: tuple[tuple[type[BaseException], str], ...] = (
    (GatedRepoError, "is gated and this account has no access to it"),
    (RepositoryNotFoundError, "does not exist on the hub, or is private"),
    (RevisionNotFoundError, "has no such revision"),
    (LocalEntryNotFoundError, _NOT_IN_CACHE),
    (OfflineModeIsEnabled, _NOT_IN_CACHE),
)
_GENERATION = "generation_config.json"
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def inspect(source: ModelSource, folder: Path) -> list[Stored]:
    """List the tensors that the loader will read from a directory.

    Raises ValueError, in one line, before anything is loaded: for other contents (an adapter, GGUF, pickles,
    no configuration), for quantized weights, and for files that are missing, damaged, outside the directory
    or contradictory.
    """
    with reading(lambda error: unloadable(source, error)):
        check_no_adapter(folder)
        check_is_safetensors(folder)
        if not (folder / CONFIG).exists() and not (folder / CONFIG).is_symlink():
            raise UnfitError(f"has no {CONFIG}; give a Hugging Face model directory")
        config = read_json(folder / CONFIG)
        check_original(config, folder)
        files = weight_files(folder, config)
        for file in files:
            try:
                with safe_open(file, framework="pt"):
                    pass
            except SafetensorError as error:
                raise UnfitError(f"{file.name} is truncated or corrupt ({error}); copy it again") from error
        if (generation := folder / _GENERATION).is_symlink() or generation.is_file():
            read_json(generation)  # the loader reads it too
        stored = stored_tensors(files)
        check_plain(stored)
        check_layers(config, stored)
        check_equal_where_twice(stored)
    return stored


def inspect_before(source: ModelSource) -> list[Stored] | None:
    """`inspect` a directory, or a complete snapshot of the hub cache. Before a download, check the available
    facts and return None."""
    if source.is_directory:
        return inspect(source, Path(source.location))
    with reading(lambda error: unloadable(source, error)):
        config = hub_file(source, CONFIG)
        if hub_file(source, ADAPTER_CONFIG) is not None:
            raise UnfitError(f"has an adapter ({ADAPTER_CONFIG}); merge it into its model, and give that")
        for name in QUANTIZED_FILES:
            hub_file(source, name)
        if config is not None:
            check_original(read_json(config), config.parent)
        complete = config is not None and is_complete(config.parent)
    return inspect(source, config.parent) if config is not None and complete else None


def folder_of(source: ModelSource) -> Path:
    """Return the folder of a model's files: its directory, or after loading its snapshot in the hub cache."""
    if source.is_directory:
        return Path(source.location)
    with reading(lambda error: unloadable(source, error)):
        config = hub_file(source, CONFIG)
        if config is None:
            raise UnfitError(f"its {CONFIG} is no longer in the hub cache")
    return config.parent


def hub_file(source: ModelSource, name: str) -> Path | None:
    """Return a file of a model on the hub through the cache, or None if it has none. Raises OSError where the
    hub refuses."""
    path: str | None = cached_file(
        source.location,
        name,
        revision=source.revision,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=not constants.HF_HUB_OFFLINE,
    )
    return None if path is None else Path(path)


def unloadable(source: ModelSource, error: BaseException) -> ValueError:
    """Return the error for an unreadable checkpoint: the problem and the remedy, in one line and without
    credentials."""
    if isinstance(error, UnfitError):
        return refused(source.name, str(error))
    words = words_of(error)
    if "trust_remote_code" in words:
        return ValueError(
            f"model {source.name!r} ({source.location}) needs code of its own, which is not executed; read "
            f"that code, then allow it for this model with --mx-trust-remote-code={source.name} (in Python "
            f"trust_remote_code=True)"
        )
    if source.is_directory:
        return refused(source.name, f"cannot be loaded: {words}")
    reason = _hub_reason(error)
    if reason is None and "use_safetensors" in words:
        if _pickled(source):
            return ValueError(
                f"model {source.name!r}: {source.location} at revision {source.revision} has no safetensors, "
                f"and pickled weights (*.bin) may execute code and are never loaded; {_conversion(source)}"
            )
        reason = "has no safetensors in the hub cache, and the hub gave none"
    if reason is None and not isinstance(error, OSError):  # not the hub's error: a download is no remedy
        return refused(source.name, f"cannot be loaded: {words}")
    if reason is None:
        reason = f"cannot be loaded: {words if len(words) <= _WORDS else f'{words[:_WORDS]}…'}"
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
    """Refuse a model with tensors on the meta device: they have no values."""
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
    raise refused(
        source.name, f"{len(left)} tensor(s) left on the meta device, first {shown(left[0])}: {why}; {mend}"
    )


def _is_finite(value: torch.Tensor) -> bool:
    """Return whether a tensor has no NaN (which both extremes take over) and no infinity, without a copy: the
    largest tensor would decide how much memory loading takes."""
    if not value.is_floating_point() or not value.numel():
        return True
    return bool(torch.isfinite(torch.stack(value.aminmax())).all())


def check_finite(model: nn.Module, source: ModelSource) -> None:
    """Refuse NaN or infinity in weights and stored buffers, naming the first tensor and its file; where the
    file's values are finite, say that the dtype of loading cannot hold them."""
    state = model.state_dict()
    bad = [name for name, value in state.items() if not _is_finite(value)]
    if not bad:
        return
    dtype = state[bad[0]].dtype
    stored = stored_tensors(weight_files(folder := folder_of(source), read_json(folder / CONFIG)))
    spoilt = next((one for one in stored if not torch.isfinite(read_tensor(one)).all()), None)
    if spoilt is not None:
        raise refused(
            source.name,
            f"{spoilt.file.name} (tensor {shown(spoilt.name)}) holds weights that are NaN or infinite, "
            f"{len(bad)} tensors in all; give a sound checkpoint",
        )
    limit = torch.finfo(dtype).max
    largest = ((one.name, float(read_tensor(one).abs().max())) for one in stored if 0 not in one.shape)
    too_large = next((f"{shown(name)} reaches {size:.4g}" for name, size in largest if size > limit), bad[0])
    wider = "bf16 or fp32" if dtype == torch.float16 else "fp32"
    raise refused(
        source.name,
        f"{str(dtype).removeprefix('torch.')} ends at {limit:.4g} and cannot hold its weights: {too_large}, "
        f"{len(bad)} tensors overflow; load it in {wider} (--mx-dtype; in Python dtype=)",
    )


def _hub_reason(error: BaseException) -> str | None:
    """Return the hub's or its cache's reason: the first kind of the table that occurs in the error's
    chain."""
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
    """Describe how the user, if they trust pickled weights, can convert them to a safetensors directory."""
    folder = source.card.name if source.card is not None else source.location.rpartition("/")[2]
    arguments = f"'{source.location}', revision='{source.revision}'"
    return (
        f'convert it once, if you trust it, with `python -c "from transformers import '
        f"AutoModelForCausalLM as M, AutoTokenizer as T; "
        f"M.from_pretrained({arguments}, dtype='auto', use_safetensors=False).save_pretrained('{folder}'); "
        f"T.from_pretrained({arguments}).save_pretrained('{folder}')\"` and give ./{folder}"
    )
