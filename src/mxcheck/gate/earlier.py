"""Baselines of the previous format version, and what they share with a new record.

A new format adds figures. Where a machine multiplies as the accepting one did and every figure of the earlier
file is reproduced to the bit, the new record only extends the accepted one; elsewhere nothing proves that,
and a person has to accept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mxcheck.files.plain_data import MALFORMED
from mxcheck.files.printed import got, told
from mxcheck.gate.baseline import BaselineError, parsed, read_text, unseal
from mxcheck.gate.drift import Drift, drift, same_arithmetic
from mxcheck.gate.noise import widened
from mxcheck.gate.record import FORMAT_VERSION, OPTIONAL, Noise, Record, record_from_dict

EARLIER_VERSION = 3

#: Fields with another form in the earlier format, or that describe the method and not the result.
_OTHERWISE = frozenset({"digests", "sqnr", "environment", "noise"})
_NOISE = ("reference", "loss", "kl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """An accepted record of the earlier format.

    record: its figures; those that its format lacks are absent.
        fields: names of the fields that it has in the same form.
    """

    record: Record
    fields: frozenset[str]


def read_earlier(path: Path) -> Earlier | None:
    """Read the baseline at `path` if it is of the earlier format; None for the current one. Raises
    BaselineError, in one line, for anything else."""
    try:
        text = read_text(path)
    except FileNotFoundError as error:
        raise BaselineError(f"no baseline at {path}") from error
    data = parsed(text, where=str(path))
    version = data.get("format_version")
    if version == FORMAT_VERSION:
        return None
    if version != EARLIER_VERSION:
        raise BaselineError(
            f"baseline {path} has format version {got(version)}; allowed: {EARLIER_VERSION}, and "
            f"{FORMAT_VERSION}, which is left alone; accept anew with --snapshot-update"
        )
    unseal(data, where=str(path))
    data.pop("format_version")
    try:
        return Earlier(record=_record(data), fields=frozenset(data.keys() - _OTHERWISE))
    except MALFORMED as error:
        raise BaselineError(
            f"corrupt baseline {path}: {told(error)}; restore it from version control"
        ) from error


def _record(data: Mapping[str, Any]) -> Record:
    why = f"record format {EARLIER_VERSION} has none"
    missing = dict.fromkeys(("predictions", "sublayers", "counters"))
    noise = data["noise"]
    return record_from_dict(
        {
            **{name: value for name, value in data.items() if name != "sqnr"},
            **missing,
            "kind": "recipe",
            "subject": "",
            "digests": {},
            "absent": {name: why for name in OPTIONAL if name in missing},
            "noise": None if noise is None else {**noise, "sublayers": None},
        }
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """The comparison of a new record with the accepted one that it may extend.

    Attributes:
        moved: fields of the earlier record whose new values are not equal to the bit.
        drift: how far the reference's losses, the losses and the KL moved, with the bounds of the earlier
            record.
    """

    moved: tuple[str, ...]
    drift: Mapping[str, Drift]

    @property
    def adds_only(self) -> bool:
        """True if every accepted figure is unchanged."""
        return not self.moved

    @property
    def within(self) -> bool:
        """True if every drift is within its bounds."""
        return all(one.within for one in self.drift.values())


def extension(earlier: Earlier, record: Record) -> Extension:
    """Compare a new record with an accepted one of the earlier format. Raises ValueError where their
    sequences cannot be paired."""
    before, after = earlier.record, record
    moved = [name for name in sorted(earlier.fields) if _value(before, name) != _value(after, name)]
    found = {quantity: drift(after, before, quantity) for quantity in _NOISE}
    return Extension(moved=tuple(moved), drift=found)


def _value(record: Record, name: str) -> Any:
    if name == "fingerprints":  # the starting states of the layers are new
        return {key: value for key, value in record.fingerprints.items() if key != "states"}
    return getattr(record, name)


def extended(earlier: Earlier, record: Record, noise: Noise) -> Record:
    """Return the new record with the accepted noise, extended by the newly measured one. Raises ValueError
    where the accepted noise is not reproduced."""
    accepted = earlier.record.noise
    if accepted is None:
        return replace(record, noise=noise)
    names = ["environments", *(f"{one}_{what}" for one in _NOISE for what in ("median", "rms", "max"))]
    moved = [name for name in names if getattr(accepted, name) != getattr(noise, name)]
    if moved:
        raise ValueError(
            f"{record.id}: its figures are the accepted ones, its noise is not ({', '.join(moved)}); accept "
            f"it anew with --snapshot-update"
        )
    return replace(record, noise=noise)


def with_earlier_noise(noise: Noise, record: Record, path: Path) -> Noise:
    """Return the noise with which to accept `record` where the file at `path` is of the earlier format.

    A machine of other arithmetic that accepted the same case may have measured noise that cannot be
    reproduced here (bfloat16 products differ with AVX-512, which not every machine has). It is kept where the
    new record is within the bounds of the earlier one: a larger change is not noise.
    """
    try:
        earlier = read_earlier(path)
        if earlier is None or not _same_case(earlier.record, record):
            return noise
        within = extension(earlier, record).within
    except (BaselineError, ValueError):
        return noise  # a file that cannot be read or paired contributes nothing; the acceptance replaces it
    if not within or same_arithmetic(record, earlier.record):
        return noise
    return widened(noise, record, earlier.record)


def _same_case(earlier: Record, record: Record) -> bool:
    names = ("case", "recipe", "replaced", "fingerprints")
    return all(_value(earlier, name) == _value(record, name) for name in names)
