"""What a case measured, as plain data: it travels from worker to controller and lies under `baselines/`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from functools import cache
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from mxcheck.gate.case import Case

#: Layout of the JSON file. A file of another version is refused, never guessed at.
FORMAT_VERSION = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """How far the results moved when only this machine's arithmetic changed (nats per token, by sequence).

    `environments` names the settings that were tried; the figures are the worst of them. Of the absolute
    changes of the sequences `*_median` is the median, `*_rms` the root mean square, `*_max` the largest; for
    the reference's losses, the case's losses and the case's KL.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One case's result. Losses, entropies and KL are in nats per token; SQNR in dB.

    `corpus` says which text was measured, `metrics` holds the user's own figures, one mean a sequence.
    `weight_bytes` are those of all weights with codes and scales packed, `original_bytes` as loaded.
    `unconverted` maps modules that a library left as they are to its reason.

    `arithmetic` is a digest of fixed products in the stage's type: where it and the reference's losses are
    the accepted ones, this machine multiplies as the accepting one did.

    Sequences are listed in the order of the tokens. `digests` holds, by module, what no machine may
    change: the weight's codes and scales, and the operands that a fixed probe brings to the product.
    """

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
    digests: dict[str, dict[str, str]]
    corpus: dict[str, Any]
    scored_tokens: int
    reference_cross_entropy: float
    reference_entropy: float
    reference_losses: list[float]
    reference_entropies: list[float]
    bit_equal: bool
    cross_entropy: float
    perplexity: float
    entropy: float
    kl: float
    top1_agreement: float
    sequence_losses: list[float]
    sequence_kl: list[float]
    sqnr: dict[str, float]
    metrics: dict[str, list[float]]
    noise: Noise | None = None

    @property
    def self_sampled(self) -> bool:
        """Whether the text is the reference's own, so that its cross-entropy must equal its entropy."""
        return bool(self.corpus["used"] == "self")

    @property
    def case(self) -> Case:
        """What it is the record of."""
        return Case(model=self.model, precision=self.precision, tier=self.tier, options=tuple(self.options))

    @property
    def id(self) -> str:
        return self.case.id

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def record_from_dict(data: dict[str, Any]) -> Record:
    """The inverse of `Record.as_dict`. Raises ValueError naming missing or unknown fields, and the first that
    is of another type; what lists and dictionaries hold is not looked at."""
    if not isinstance(data, dict):
        raise ValueError(f"a record must be a dict, got {data!r:.40}")
    expected = {field.name for field in fields(Record)}
    missing, unknown = sorted(expected - data.keys()), sorted(data.keys() - expected)
    if missing or unknown:
        raise ValueError(f"missing fields: {missing or 'none'}, unknown fields: {unknown or 'none'}")
    for name, kinds in _kinds().items():
        if not isinstance(data[name], kinds):
            allowed = " or ".join(kind.__name__.removesuffix("Type") for kind in kinds)
            raise ValueError(f"{name} must be {allowed}, got {data[name]!r:.40}")
    noise = data["noise"]
    return Record(**{**data, "noise": None if noise is None else Noise(**noise)})


@cache
def _kinds() -> dict[str, tuple[type, ...]]:
    """The types that each field's JSON may have. A whole number is a float too, as other writers have it."""
    found = {}
    for name, hint in get_type_hints(Record).items():
        kinds = [
            get_origin(one) or one for one in (get_args(hint) if isinstance(hint, UnionType) else (hint,))
        ]
        kinds = [dict if kind is Noise else kind for kind in kinds]
        found[name] = tuple([*kinds, int] if float in kinds else kinds)
    return found
