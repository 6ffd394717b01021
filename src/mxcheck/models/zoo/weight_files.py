"""The files of a model directory: JSON, and the headers of safetensors files, checked as they are read.
Torch-free."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mxcheck.files.plain_data import DataError, json_data, read_text
from mxcheck.files.printed import got
from mxcheck.models.zoo.refusal import UnfitError, listed

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
#: File of a model's evaluation tokens, which may lie beside its weights.
TOKENS = "tokens.safetensors"

#: Longest header that the safetensors library reads.
_HEADER_BYTES = 100_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One tensor as stored in a file. `dtype` is the format's own name: F32, BF16, I8, F8_E4M3."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]


def read_json(path: Path) -> dict[str, Any]:
    """Read the object of a JSON file. Raises UnfitError for anything else, and OSError."""
    _check_file(path)
    try:
        data = json_data(read_text(path), twice=True)  # as the loader reads it: the last duplicate key counts
    except DataError as error:
        raise UnfitError(f"{path.name} is no JSON that can be read: {error}") from error
    if not isinstance(data, dict):
        raise UnfitError(f"{path.name} must hold a JSON object, got {type(data).__name__}")
    return data


def weight_files(folder: Path, config: dict[str, Any]) -> list[Path]:
    """Return the files from which transformers reads the weights of a directory, as its loader chooses them:
    the file that the configuration names, else `model.safetensors`, else the shards of the index.

    Raises UnfitError where there are none, where the index leads out of the directory, names missing tensors
    or files, or omits a shard, and where a directory holds two sets of weights.
    """
    named = config.get("transformers_weights")
    if named is not None:
        if not isinstance(named, str) or not named.endswith((".safetensors", ".safetensors.index.json")):
            raise UnfitError(f"transformers_weights of {CONFIG} must name safetensors, got {got(named)}")
        first = folder / _inside(named, CONFIG)
    elif _there(folder / WEIGHTS):
        first = folder / WEIGHTS
    elif _there(folder / INDEX):
        first = folder / INDEX
    else:
        found = listed(path.name for path in folder.glob("*.safetensors"))
        raise UnfitError(f"has neither {WEIGHTS} nor {INDEX}, got {found}; name the file {WEIGHTS}")
    places = _places(first) if first.name.endswith(".json") else {}
    files = _shards(folder, first, places) if places else [first]
    for file in files:
        if not _there(file):
            raise UnfitError(f"{file.name} of {first.name} is missing; copy the whole checkpoint")
        _check_file(file)
    unread = {path.name for path in folder.glob("model-*-of-*.safetensors")} - {file.name for file in files}
    if unread:
        raise _two_sets(first, unread)
    _check_tensors(folder, first, files, places)
    return files


def _check_tensors(folder: Path, first: Path, files: list[Path], places: Mapping[str, str]) -> None:
    """Refuse an index that places a tensor in the wrong file, and unread files with the same tensors, such as
    shards of an earlier download. Unreadable extra files are ignored, since the loader does not open them."""
    names = {file: {one.name for one in read_header(file)} for file in files}
    for name, place in places.items():
        if name not in names[folder / place]:
            raise UnfitError(f"{first.name} places {name} in {place}, which has not got it; copy both again")
    read = set[str]().union(*names.values())
    beside = [path for path in folder.glob("*.safetensors") if path not in names]
    others = [path for path in beside if not _VARIANT.fullmatch(path.name)]
    if stale := {path.name for path in others if not read.isdisjoint(_names_in(path))}:
        raise _two_sets(first, stale)


def _names_in(path: Path) -> set[str]:
    """Return the tensors of a file; none where it cannot be read."""
    try:
        return {one.name for one in read_header(path)}
    except (UnfitError, OSError):
        return set()


#: Another dtype of the same weights, which the loader reads on request: `model.fp16.safetensors`.
_VARIANT = re.compile(r"model\.[A-Za-z0-9_]+(-\d{5}-of-\d{5})?\.safetensors")


def _two_sets(first: Path, unread: Iterable[str]) -> UnfitError:
    return UnfitError(
        f"the loader reads {first.name} and not {listed(unread)} beside it; keep one set of weights"
    )


def is_complete(folder: Path) -> bool:
    """Return whether a snapshot of a hub cache already has its weights. Raises UnfitError for an unsafe
    index."""
    if (folder / WEIGHTS).exists():
        return True
    index = folder / INDEX
    return index.exists() and all(file.exists() for file in _shards(folder, index, _places(index)))


def _there(path: Path) -> bool:
    if path.is_symlink() and not path.exists():
        raise UnfitError(_dangling(path))
    return path.exists()


def _check_file(path: Path) -> None:
    """Refuse anything but a regular file: a reader would wait for ever on a pipe."""
    if path.is_symlink() and not path.exists():
        raise UnfitError(_dangling(path))
    if path.exists() and not path.is_file():
        raise UnfitError(
            f"{path.name} is {'a directory' if path.is_dir() else 'no file'}; give the file itself"
        )


def _dangling(path: Path) -> str:
    return (
        f"{path.name} is a dangling link to {path.readlink()}; copy the files that the links lead to, "
        f"or the whole hub cache with its blobs"
    )


def _places(index: Path) -> dict[str, str]:
    """Return the file of each tensor, from an index."""
    data = read_json(index)
    places = data.get("weight_map")
    if not isinstance(places, dict) or not places:
        raise UnfitError(f"{index.name} must hold a weight_map of tensors to files")
    if not isinstance(data.get("metadata"), dict):  # the loader fails on it without naming file or key
        raise UnfitError(f'{index.name} must hold metadata, an object; add "metadata": {{}}')
    for name, place in places.items():
        if not isinstance(place, str) or not place.endswith(".safetensors"):
            raise UnfitError(f"{index.name} must place {name} in a safetensors file, got {got(place)}")
    return places


def _shards(folder: Path, index: Path, places: Mapping[str, str]) -> list[Path]:
    return [folder / _inside(place, index.name) for place in sorted(set(places.values()))]


def _inside(name: str, where: str) -> Path:
    """Return the path of a file that a checkpoint names, which must be in its own directory. A link there may
    lead elsewhere, as in a hub cache: the owner of the directory created it."""
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name or "\\" in name:
        raise UnfitError(f"{where} leads out of the directory, to {name}; give names of files inside it")
    return path


def stored_tensors(files: list[Path]) -> list[Stored]:
    """Return every tensor of safetensors files, from their headers. Raises OSError and UnfitError."""
    return [tensor for file in files for tensor in read_header(file)]


def read_header(path: Path) -> list[Stored]:
    """Read the tensors of a safetensors file: 8 bytes, little-endian, are the header's length, then follows
    JSON by tensor. Raises OSError, and UnfitError where the file does not begin so.

    Source: the format's description in the safetensors repository.
    """
    _check_file(path)
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > _HEADER_BYTES:
            raise UnfitError(f"{path.name} is no safetensors file: a header of {size} bytes")
        try:
            header = json_data(file.read(size))
        except DataError as error:
            raise UnfitError(f"{path.name} is no safetensors file: its header is {error}") from error
    if not isinstance(header, dict):
        raise UnfitError(f"{path.name} is no safetensors file: its header is no JSON object")
    return [_stored(path, name, entry) for name, entry in header.items() if name != "__metadata__"]


def _stored(path: Path, name: str, entry: Any) -> Stored:
    shape = entry.get("shape") if isinstance(entry, dict) else None
    dtype = entry.get("dtype") if isinstance(entry, dict) else None
    sizes = isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
    if not sizes or not isinstance(dtype, str):
        raise UnfitError(f"{path.name} is no safetensors file: tensor {name} has no shape and dtype")
    assert isinstance(shape, list)
    return Stored(name=name, file=path, dtype=dtype, shape=tuple(shape))
