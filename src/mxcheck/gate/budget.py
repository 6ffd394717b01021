"""Budgets: how much a precision may cost. One table, overridable by model."""

from __future__ import annotations

import tomllib
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from mxcheck.formats.choices import unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Upper bounds in nats per token: on the KL divergence to the reference, and on the rise of the
    cross-entropy, to which the gate adds an allowance for the sampling error of the tokens at hand."""

    kl: float
    rise: float


class Budgets:
    """The table, with a user's table (if any) before ours, and a model's entry before the common one."""

    def __init__(self, tables: list[dict[str, Any]]) -> None:
        self._tables = tables

    def of(self, model: str, stage: str) -> Budget:
        """The budget of `stage` (`fp8_e4m3-A`, `bf16`) on `model`. Raises ValueError naming both."""
        for table in self._tables:
            for section in (table.get("models", {}).get(model, {}), table.get("default", {})):
                if stage in section:
                    entry = section[stage]
                    # On text sampled from the reference the expected rise is the KL divergence itself.
                    return Budget(kl=float(entry["kl"]), rise=float(entry.get("rise", entry["kl"])))
        raise ValueError(f"no budget for {stage} of {model}; add it to the file named by --mx-budgets")


def _checked(table: dict[str, Any], path: str, stages: Collection[str]) -> dict[str, Any]:
    """Refuse, in one line that names the file, whatever would be ignored or fail later."""
    for name in table.keys() - {"default", "models"}:
        raise ValueError(f"budgets file {path}: {unknown('table', name, ('default', 'models'))}")
    models = _table(table.get("models", {}), "models", path)
    sections = [("default", table.get("default", {})), *((f"models.{name}", models[name]) for name in models)]
    for title, section in sections:
        for stage, entry in _table(section, title, path).items():
            if stage not in stages:
                raise ValueError(f"budgets file {path}: {unknown(f'stage in [{title}]', stage, stages)}")
            ok = isinstance(entry, dict) and {"kl"} <= entry.keys() <= {"kl", "rise"}
            if not ok or not all(isinstance(v, int | float) and v >= 0 for v in entry.values()):
                raise ValueError(
                    f"budgets file {path}: [{title}] {stage!r} is {entry!r}; allowed: "
                    f"{{ kl = NATS }} or {{ kl = NATS, rise = NATS }} with numbers >= 0"
                )
    return table


def _table(value: Any, title: str, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"budgets file {path}: {title} must be a table, got {value!r}")
    return value


@cache
def load_budgets(path: str | None = None) -> Budgets:
    """Our table, with the TOML file at `path` before it. Raises ValueError for a bad file."""
    ours = tomllib.loads(resources.files("mxcheck.gate").joinpath("budgets.toml").read_text())
    if path is None:
        return Budgets([ours])
    try:
        theirs = tomllib.loads(Path(path).read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"budgets file {path}: {error}") from error
    return Budgets([_checked(theirs, path, ours["default"]), ours])
