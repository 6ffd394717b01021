"""The cost of measuring a case: sent and reported beside its record, and no figure of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from mxcheck.files.printed import got

#: Parts of a measurement, in the order of tables. `digests` are the casts of the probe, first and last;
#: `metrics` includes what is computed again of the reference's logits.
PARTS = ("convert", "digests", "forward", "metrics", "layers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Cost of one case on a machine.

    Attributes:
        device: the class of the device: `cpu`, `cuda-sm90`.
        tokens: number of scored tokens.
        seconds: wall seconds of each part of the measurement; a part that did not run is missing. Loading the
            model and measuring its reference are not among them.
        peak_bytes: most memory so far: of the process on a CPU, else of torch's allocator since the case
            began, over all its devices.
    """

    device: str
    tokens: int
    seconds: dict[str, float]
    peak_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)

    def per_thousand(self, part: str) -> float | None:
        """Return the seconds of a part for a thousand scored tokens; None if it did not run."""
        return 1000 * self.seconds[part] / self.tokens if part in self.seconds else None


def cost_from_dict(data: Any) -> Cost:
    """Decode the output of `Cost.as_dict`. Raises ValueError, in one line, for anything else."""
    names = {one.name for one in fields(Cost)}
    if not isinstance(data, Mapping) or data.keys() != names:
        raise ValueError(f"a cost must be a table of {', '.join(sorted(names))}, got {got(data, 60)}")
    if not isinstance(data["device"], str):
        raise ValueError(f"device of a cost must be text, got {got(data['device'])}")
    for name, least in (("tokens", 1), ("peak_bytes", 0)):
        if type(data[name]) is not int or data[name] < least:
            raise ValueError(
                f"{name} of a cost must be a whole number from {least} on, got {got(data[name])}"
            )
    seconds = data["seconds"]
    if not isinstance(seconds, Mapping) or not seconds.keys() <= set(PARTS):
        raise ValueError(f"seconds of a cost must be of {', '.join(PARTS)}, got {got(seconds, 60)}")
    for part, value in seconds.items():
        number = type(value) in (int, float)
        if not number or not math.isfinite(value) or value < 0:
            raise ValueError(f"seconds of {part} must be a number from 0 on, got {got(value)}")
    return Cost(**{**data, "seconds": dict(seconds)})
