"""The noise of a case, from its results in other arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from mxcheck.gate.record import Noise, Record, sublayers_from_dict
from mxcheck.gate.row_groups import Digests, digests_as_dict, digests_from_dict
from mxcheck.gate.statistics import differences, largest, median_abs, rms
from mxcheck.gate.sublayer_drift import SublayerError, sublayer_noise


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Results of one case in one environment, in nats per token and sequence, and the digests of its casts.

    `failure` gives in one line the reason for absent results; `unavailable` says that the precision cannot
    run there (its library needs other instructions). Both are empty where there are results.
    """

    environment: str
    digests: Digests = field(default_factory=dict)
    reference_losses: list[float] = field(default_factory=list)
    sequence_losses: list[float] = field(default_factory=list)
    sequence_kl: list[float] = field(default_factory=list)
    sublayers: dict[str, SublayerError] = field(default_factory=dict)
    failure: str = ""
    unavailable: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        layers = {place: error.as_dict() for place, error in self.sublayers.items()}
        return {**asdict(self), "digests": digests_as_dict(self.digests), "sublayers": layers}


def trial_from_dict(data: dict[str, Any]) -> Trial:
    """Decode the output of `Trial.as_dict`. Raises ValueError or TypeError for anything else."""
    digests, layers = digests_from_dict(data["digests"]), sublayers_from_dict(data["sublayers"])
    return Trial(**{**data, "digests": digests, "sublayers": layers})


def worst(record: Record, trials: Sequence[Trial]) -> Noise:
    """Return the worst of the trials, except environments in which the precision cannot run.

    Raises ValueError where the case failed in an environment or can run in none, and where a cast gave other
    bits, which is not noise.
    """
    unavailable = [trial.unavailable for trial in trials if trial.unavailable]
    trials = [trial for trial in trials if not trial.unavailable]
    if not trials:
        raise ValueError(
            f"it can run in no environment that noise is measured in: {'; '.join(unavailable)}; "
            f"nothing was accepted"
        )
    for trial in trials:
        if trial.failure:
            raise ValueError(
                f"in environment {trial.environment!r} it cannot be measured: {trial.failure}; "
                f"nothing was accepted"
            )
        if trial.digests != record.digests:
            raise ValueError(
                f"the casts gave other bits in environment {trial.environment!r}, which no machine may "
                f"do; mend the cast, nothing was accepted"
            )
    changes = [_changes(trial, record) for trial in trials]
    figures = {name: max(one[name] for one in changes) for name in changes[0]}
    return Noise(
        environments=[trial.environment for trial in trials],
        sublayers=sublayer_noise(record.sublayers, [trial.sublayers for trial in trials])
        if record.sublayers
        else None,
        **figures,
    )


def _changes(other: Trial, record: Record) -> dict[str, float]:
    """Return how far the losses and the KL of a case moved from `record` to `other`."""
    found: dict[str, float] = {}
    for short, now, then in (
        ("reference", other.reference_losses, record.reference_losses),
        ("loss", other.sequence_losses, record.sequence_losses),
        ("kl", other.sequence_kl, record.exact_kl[1]),
    ):
        change = differences(now, then)
        found |= {
            f"{short}_median": median_abs(change),
            f"{short}_rms": rms(change),
            f"{short}_max": largest(change),
        }
    return found
