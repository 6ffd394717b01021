"""One case of the gate: a model, a precision, a tier, and the options that change its result."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

_COSTLY = ("attention", "outputs")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Case:
    """Identity of one measurement. `options` are the non-default ones, in their fixed order."""

    model: str
    precision: str
    tier: str | None = None
    options: tuple[str, ...] = ()

    @property
    def stage(self) -> str:
        """The part of the name after the model: `fp8_e4m3-A`, `bf16`, `fp8_e4m3-A+block16`."""
        return "+".join([self.plain, *self.options])

    @property
    def plain(self) -> str:
        """The stage without its options."""
        return self.precision if self.tier is None else f"{self.precision}-{self.tier}"

    @property
    def budget_key(self) -> str:
        """Its line of the budget table: options that quantize more may have one of their own; others do not
        change what a precision may cost."""
        costly = [option for option in self.options if option in _COSTLY or option.startswith("global-")]
        return "+".join([self.plain, *costly])

    @property
    def id(self) -> str:
        """pytest id, also what `-k` matches."""
        return f"{self.model}-{self.stage}"

    @property
    def baseline(self) -> Path:
        """Where the accepted record lies, relative to the baselines directory."""
        return Path(self.model) / f"{self.stage}.json"


def model_label(name: str) -> str:
    """A model's name as ids and directories carry it: a hub id `org/name` becomes `org--name`, a path
    its last component. Two models of one run that get the same label are refused by the caller.
    """
    stripped = name.rstrip("/")
    if stripped and (name.startswith((".", "/", "~")) or Path(stripped).is_dir()):
        label = Path(os.path.expanduser(stripped)).resolve().name  # noqa: PTH111  (Path's raises where this does not)
    else:
        label = stripped.replace("/", "--")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", label):
        raise ValueError(
            f"model name {name!r} gives the label {label!r}, which cannot name a test and a directory; "
            f"allowed: letters, digits, '.', '_', '-', the first a letter or digit; rename the directory"
        )
    return label
