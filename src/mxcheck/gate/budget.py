"""Budgets: how much a precision may cost. One table, overridable by model."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import combinations
from pathlib import Path
from typing import Any

from mxcheck.formats.choices import unknown

#: A stage with those of its options that may have a line of their own (`Case.budget_key`), in their order.
_STAGE = re.compile(r"(?P<plain>[^+]+)(\+attention)?(\+outputs)?(\+global-\w+)?")


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
        """The budget of a stage, `fp8_e4m3-A+attention+outputs`, on `model`: its own line, else the
        largest of those of the stage with fewer of these options. Raises ValueError that names both."""
        plain, *options = stage.split("+")
        for table in self._tables:  # all of the user's before ours: what they wrote is never loosened
            for count in range(len(options), -1, -1):
                fewer = ("+".join([plain, *some]) for some in combinations(options, count))
                if found := [line for name in fewer if (line := _line(table, model, name)) is not None]:
                    return max(found, key=lambda line: line.kl)
        raise ValueError(
            f"no budget for {plain} of {model}; add `'{plain}' = {{ kl = NATS }}` under [default] "
            f"or [models.{model}] to the file that --mx-budgets names"
        )


def _line(table: dict[str, Any], model: str, stage: str) -> Budget | None:
    for section in (table.get("models", {}).get(model, {}), table.get("default", {})):
        if stage in section:
            entry = section[stage]
            # On text sampled from the reference the expected rise is the KL divergence itself.
            return Budget(kl=float(entry["kl"]), rise=float(entry.get("rise", entry["kl"])))
    return None


def _checked(table: dict[str, Any], path: str, stages: Collection[str]) -> dict[str, Any]:
    """Refuse, in one line that names the file, whatever would be ignored or fail later."""
    for name in table.keys() - {"default", "models"}:
        raise ValueError(f"budgets file {path}: {unknown('table', name, ('default', 'models'))}")
    models = _table(table.get("models", {}), "models", path)
    sections = [("default", table.get("default", {})), *((f"models.{name}", models[name]) for name in models)]
    for title, section in sections:
        for stage, entry in _table(section, title, path).items():
            plain = _STAGE.fullmatch(stage)
            if plain is None or plain["plain"] not in stages:
                raise ValueError(f"budgets file {path}: {unknown(f'stage in [{title}]', stage, stages)}")
            ok = isinstance(entry, dict) and {"kl"} <= entry.keys() <= {"kl", "rise"}
            if not ok or not all(type(v) in (int, float) and 0 <= v < math.inf for v in entry.values()):
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
def load_budgets(path: str | None = None, own: tuple[str, ...] = ()) -> Budgets:
    """Our table, with the TOML file at `path` before it. Raises ValueError for a bad file.

    `own` are the user's recipes, for which that file may have lines too.
    """
    ours = tomllib.loads(resources.files("mxcheck.gate").joinpath("budgets.toml").read_text())
    if path is None:
        return Budgets([ours])
    try:
        theirs = tomllib.loads(Path(path).read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"budgets file {path}: {error}") from error
    plain = [stage for stage in ours["default"] if "+" not in stage]
    return Budgets([_checked(theirs, path, [*plain, *own]), ours])
