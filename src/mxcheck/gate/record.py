"""Measurements of a case, as plain data: sent from worker to controller and stored under `baselines/`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from mxcheck.formats.aliases import own_option, own_precision
from mxcheck.formats.choices import choose
from mxcheck.gate.case import KINDS, Case, Kind
from mxcheck.gate.counters import Counters, counters_from_dict
from mxcheck.gate.kernel_cells import (
    AskedKernel,
    KernelCell,
    kernel_cells_as_dict,
    kernel_cells_from_dict,
)
from mxcheck.gate.predictions import Predictions, predictions_from_dict
from mxcheck.gate.row_groups import Digests, digests_as_dict, digests_from_dict
from mxcheck.gate.sublayer_drift import (
    SublayerError,
    SublayerNoise,
    sublayer_error_from_dict,
    sublayer_noise_from_dict,
)

#: Version of the JSON layout. A file of another version is refused.
FORMAT_VERSION = 4

#: Figures that some kinds of case cannot give: each is then None, and `Record.absent` has the reason.
OPTIONAL = (
    "bit_equal",
    "entropy",
    "kl",
    "top1_agreement",
    "sequence_kl",
    "predictions",
    "sublayers",
    "counters",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Changes of the results when only this machine's arithmetic changed (nats per token, by sequence).

    `environments` names the tested settings; the figures are the worst of them. Over the absolute changes of
    the sequences, `*_median` is the median, `*_rms` the root mean square, `*_max` the maximum; for the
    reference's losses, the case's losses and the case's KL. `sublayers` are the changes of the layers'
    figures, or None.
    """

    environments: list[str]
    reference_median: float
    reference_rms: float
    reference_max: float
    loss_median: float
    loss_rms: float
    loss_max: float
    kl_median: float
    kl_rms: float
    kl_max: float
    sublayers: SublayerNoise | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One case's result. Losses, entropies and KL are in nats per token.

    `kind`, `subject`, `model`, `precision`, `tier` and `options` are the case's. `corpus` identifies the
    measured text, `metrics` holds the user's own figures, one mean for each sequence. `weight_bytes` is the
    size of all weights with codes and scales packed, `original_bytes` as loaded. `unconverted` maps modules
    that a library did not convert to its reason.

    `arithmetic` is a digest of fixed products in the case's type. Where it and the reference's losses equal
    the accepted ones, this machine has the baseline's arithmetic.

    Sequences are listed in the order of the tokens. `digests` holds, by module, bits that are equal on every
    machine: the weight's codes and scales, and the operands of the product in a fixed probe, each by groups
    of rows. `predictions` are figures over single tokens; `sublayers` the errors of each decoder layer, its
    attention and its MLP on stored reference states; `counters` counts the effects of the casts.

    `unsteady` maps modules whose casts changed during the case to a description. JSON omits it where it is
    empty, as it is in every accepted record.

    `kernel_cells` holds a named kernel's results for the cells of the kernel suite that the case casts with.
    It is absent from baselines, and from cases that our own kernel casts.

    `absent` maps a figure that is None (its name), or a missing part of one (`sublayers` and `counters`,
    `<figure>: <part>`), to the reason.
    """

    kind: Kind
    subject: str
    model: str
    precision: str
    tier: str | None
    options: list[str]
    recipe: dict[str, Any]
    changes_bits: bool | None
    fingerprints: dict[str, str]
    arithmetic: str
    environment: dict[str, str]
    replaced: dict[str, str]
    unconverted: dict[str, str]
    weight_bytes: int
    original_bytes: int
    digests: Digests
    corpus: dict[str, Any]
    scored_tokens: int
    reference_cross_entropy: float
    reference_entropy: float
    reference_losses: list[float]
    reference_entropies: list[float]
    bit_equal: bool | None
    cross_entropy: float
    perplexity: float
    entropy: float | None
    kl: float | None
    top1_agreement: float | None
    sequence_losses: list[float]
    sequence_kl: list[float] | None
    predictions: Predictions | None
    sublayers: dict[str, SublayerError] | None
    counters: Counters | None
    metrics: dict[str, list[float]]
    absent: dict[str, str]
    unsteady: dict[str, str] = field(default_factory=dict)
    kernel_cells: dict[str, KernelCell] = field(default_factory=dict)
    noise: Noise | None = None

    @property
    def self_sampled(self) -> bool:
        """True if the text was sampled from the reference, so that its cross-entropy must equal its
        entropy."""
        return bool(self.corpus["used"] == "self")

    @property
    def case(self) -> Case:
        """The case that was measured."""
        return Case(
            kind=self.kind,
            subject=self.subject,
            model=self.model,
            precision=self.precision,
            tier=self.tier,
            options=tuple(self.options),
        )

    @property
    def id(self) -> str:
        return self.case.id

    @property
    def asked_kernel(self) -> AskedKernel | None:
        """The named kernel of the casts with its results for the cells, or None."""
        if not self.kernel_cells:
            return None
        return AskedKernel(name=self.environment.get("kernel", "of the case"), cells=self.kernel_cells)

    @property
    def exact_kl(self) -> tuple[float, list[float]]:
        """The KL over the whole vocabulary: over all tokens, and by sequence. Raises ValueError, with the
        reason, where the record has none."""
        if self.kl is None or self.sequence_kl is None:
            raise ValueError(f"{self.id} has no KL: {self.absent.get('kl', 'no reason is recorded')}")
        return self.kl, self.sequence_kl

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        data = {one.name: getattr(self, one.name) for one in fields(self)}
        if not self.unsteady:
            del data["unsteady"]
        if not self.kernel_cells:
            del data["kernel_cells"]
        else:
            data["kernel_cells"] = kernel_cells_as_dict(self.kernel_cells)
        for name in ("predictions", "counters"):
            data[name] = None if data[name] is None else data[name].as_dict()
        data["digests"] = digests_as_dict(self.digests)
        if self.sublayers is not None:
            data["sublayers"] = {place: error.as_dict() for place, error in self.sublayers.items()}
        data["noise"] = None if self.noise is None else asdict(self.noise)
        return data


def record_from_dict(data: dict[str, Any]) -> Record:
    """Decode the output of `Record.as_dict`.

    Raises ValueError, in one line, for missing or unknown fields, the first field of another type, a field
    that is absent without a reason, and impossible values: lists by sequence that are empty or of different
    lengths, no scored token, an invalid case name. NaN and infinity are accepted: the gate judges them.
    A former name of a precision is read as today's.
    """
    if not isinstance(data, dict):
        raise ValueError(f"a record must be a dict, got {data!r:.40}")
    data = {"unsteady": {}, "kernel_cells": {}, **data}
    _check_fields(data, Record)
    if data["kind"] not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {data['kind']!r:.40}")
    for name in OPTIONAL:
        if (data[name] is None) != (name in data["absent"]):
            wrong = "is absent without a reason" if data[name] is None else "is there, and absent too"
            raise ValueError(f"{name} {wrong}")
    if unsaid := [name for name, reason in data["absent"].items() if not reason.strip()]:
        raise ValueError(f"{unsaid[0]!r:.60} is absent, and its reason is empty")
    lengths = {name: len(data[name]) for name in _BY_SEQUENCE if data[name] is not None}
    lengths |= {f"metric {name}": len(values) for name, values in data["metrics"].items()}
    if set(lengths.values()) != {lengths["reference_losses"]} or not lengths["reference_losses"]:
        raise ValueError(f"lists by sequence must have one length of at least 1, got {lengths}")
    for name, least in (
        ("scored_tokens", lengths["reference_losses"]),
        ("weight_bytes", 0),
        ("original_bytes", 0),
    ):
        if data[name] < least:
            raise ValueError(f"{name} must be at least {least}, got {data[name]}")
    for name in data["fingerprints"]:
        choose("fingerprint", name, FINGERPRINTS)
    if not isinstance(data["corpus"].get("used"), str):
        raise ValueError(f"corpus must say which text was used, got {data['corpus']!r:.60}")
    data |= {"precision": own_precision(data["precision"]), "options": list(map(own_option, data["options"]))}
    if "precision" in data["recipe"]:
        data["recipe"] = {**data["recipe"], "precision": own_precision(data["recipe"]["precision"])}
    record = Record(**{**data, **{name: read(data[name]) for name, read in _NESTED.items()}})
    record.case  # noqa: B018  (raises for what no case is called)
    return record


#: Inputs of which a record has a fingerprint, as far as it has them; each is a check of step 1.
FINGERPRINTS = ("weights", "tokenizer", "tokens", "documents", "states")
#: Figures with one number for each sequence.
_BY_SEQUENCE = (
    "reference_losses",
    "reference_entropies",
    "sequence_losses",
    "sequence_kl",
)


def _noise_from_dict(data: dict[str, Any]) -> Noise:
    _check_fields(data, Noise)
    for name, value in data.items():
        if isinstance(value, int | float) and not value >= 0:
            raise ValueError(f"noise: {name} must be 0 or more, got {value}")
    layers = data["sublayers"]
    where = "noise of the layers"
    return Noise(
        **{**data, "sublayers": None if layers is None else sublayer_noise_from_dict(layers, where=where)}
    )


def sublayers_from_dict(data: Mapping[str, Any]) -> dict[str, SublayerError]:
    """Decode the layers' errors of a record from plain JSON types. Raises ValueError for anything else."""
    return {place: sublayer_error_from_dict(error, where=place) for place, error in data.items()}


def _unless_none(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda data: None if data is None else read(data)


_NESTED: Mapping[str, Callable[[Any], Any]] = {
    "digests": digests_from_dict,
    "kernel_cells": kernel_cells_from_dict,
    "predictions": _unless_none(predictions_from_dict),
    "sublayers": _unless_none(sublayers_from_dict),
    "counters": _unless_none(counters_from_dict),
    "noise": _unless_none(_noise_from_dict),
}


def _check_fields(data: dict[str, Any], kind: type[Any]) -> None:
    expected = {one.name for one in fields(kind)}
    missing, unknown = sorted(expected - data.keys()), sorted(data.keys() - expected)
    if missing or unknown:
        raise ValueError(f"missing fields: {missing or 'none'}, unknown fields: {unknown or 'none'}")
    for name, hint in _HINTS[kind].items():
        if name in _NESTED:  # checked by its own reader
            hint = dict[str, Any] | None if NoneType in get_args(hint) else dict[str, Any]
        if not _fits(data[name], hint):
            raise ValueError(f"{name} must be {_words(hint)}, got {data[name]!r:.40}")


def _fits(value: Any, hint: Any) -> bool:
    """Return whether the JSON value `value` matches the annotation `hint`, at every depth."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is UnionType:
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return isinstance(value, str)
    if origin is list:
        return isinstance(value, list) and all(_fits(one, inner[0]) for one in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            _fits(key, inner[0]) and _fits(one, inner[1]) for key, one in value.items()
        )
    return hint is Any or _SCALARS[hint](value)


def _is_text(value: Any) -> bool:
    """Return whether a string is printable: without lone surrogates or terminal control characters."""
    return isinstance(value, str) and not any(
        "\ud800" <= one <= "\udfff" or (one < " " and one not in "\n\t") or "\x7f" <= one <= "\x9f"
        for one in value
    )


def _is_number(value: Any) -> bool:
    """Accept a float, or an integer that a float can hold, since other writers store floats as integers."""
    return isinstance(value, float) or (type(value) is int and abs(value) <= sys.float_info.max)


_SCALARS: Mapping[Any, Callable[[Any], bool]] = {
    str: _is_text,
    int: lambda value: type(value) is int,
    bool: lambda value: isinstance(value, bool),
    float: _is_number,
    NoneType: lambda value: value is None,
}


def _words(hint: Any) -> str:
    """Describe an annotation in words."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is UnionType:
        return " or ".join(map(_words, inner))
    if origin is list:
        return f"list of {_words(inner[0])}"
    if origin is dict:
        return "table" if inner[1] is Any else f"table of {_words(inner[1])}"
    return _NAMES.get(hint, "text")


_NAMES = {NoneType: "None", bool: "true or false", int: "whole number", float: "number", dict: "table"}

_HINTS = {kind: get_type_hints(kind) for kind in (Record, Noise)}
