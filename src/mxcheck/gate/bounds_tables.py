"""Bounds: the permitted cost of a precision. A model's bounds lie beside its baselines; ours apply to our
models."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from itertools import combinations
from pathlib import Path
from typing import Any

from mxcheck.files.plain_data import DataError, read_toml, toml_data
from mxcheck.files.printed import RefusedFileError, got
from mxcheck.formats.aliases import GLOBAL_OPTIONS, own_option, own_precision
from mxcheck.formats.choices import misspelt, unknown
from mxcheck.gate.case import Case, case_of
from mxcheck.gate.shipped import folder_in_force

#: Larger than any cost; a number of 400 digits is refused.
_MOST = 1e9
#: The options with which a precision may have a line of its own (`Case.bounds_key`), in their order.
_OPTIONS = ("attention", "outputs", *GLOBAL_OPTIONS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Upper bounds in nats per token: on the KL divergence to the reference, and on the rise of the
    cross-entropy, to which the gate adds an allowance for the sampling error of the tokens. `whose` names the
    source file, `own` says whether it is the model's, and `reason` is its justification for a case that fails
    the checks of a first acceptance."""

    kl: float
    rise: float
    whose: str = field(default="", compare=False)
    own: bool = field(default=False, compare=False)
    reason: str = field(default="", compare=False)


class BoundsError(RefusedFileError, ValueError):
    """A bounds file that cannot be used. The message is one printable line and names the file."""


class BoundsTables:
    """Tables of bounds, in order of precedence: the user's (`--mx-bounds`), the model's (`bounds.toml` beside
    its baselines), and ours, which apply to our models only."""

    def __init__(
        self,
        tables: list[dict[str, Any]],
        *,
        baselines: Path | None = None,
        precisions: Collection[str] | None = None,
    ) -> None:
        self._tables = tables
        self._baselines = baselines
        self._precisions = precisions

    @property
    def labels(self) -> tuple[str, ...]:
        """Models with tables in the user's file."""
        return tuple(label for table in self._tables[:-1] for label in table.get("models", {}))

    def find(self, case: Case) -> Bounds | None:
        """Return the bounds of a case, or None where no table has them. Raises ValueError for an invalid file
        of the model's."""
        own = []
        if self._baselines is not None:
            own = [read_bounds(folder_in_force(self._baselines, case.model), self._precisions)]
        # a line of a model's own file is for one case, with all its options
        lines = [_line(table, case.model, case.name) for table in own]
        theirs, ours = self._tables[:-1], self._tables[-1:]
        for found in (_of(theirs, case), *lines, _of(ours, case)):
            if found is not None:
                return found
        return None

    def of(self, case: Case) -> Bounds:
        """Return the bounds of a case. Raises ValueError, naming the missing line, where there are none."""
        found = self.find(case)
        if found is None:
            raise ValueError(
                f"no bounds for {case.name} of {case.model}; the first --snapshot-update makes them from "
                f"what it measures, or add `'{case.name}' = {{ kl = NATS }}` to bounds.toml beside its "
                f"baselines"
            )
        return found


def _of(tables: list[dict[str, Any]], case: Case) -> Bounds | None:
    """Return the bounds of the case's own line, else the largest of its precision with fewer of the options
    that cost."""
    plain, *options = case.bounds_key.split("+")
    for table in tables:  # all of the user's before ours: ours never loosen them
        for count in range(len(options), -1, -1):
            fewer = ("+".join([plain, *some]) for some in combinations(options, count))
            if found := [line for name in fewer if (line := _line(table, case.model, name)) is not None]:
                return max(found, key=lambda line: line.kl)
    return None


def _line(table: dict[str, Any], model: str, name: str) -> Bounds | None:
    default = table.get("default", {}) if model in table.get("serves", [model]) else {}
    for section in (table.get("models", {}).get(model, {}), default):
        if name in section:
            entry = section[name]
            # On text sampled from the reference the expected rise equals the KL divergence.
            return Bounds(
                kl=float(entry["kl"]),
                rise=float(entry.get("rise", entry["kl"])),
                whose=table.get("whose", ""),
                own=table.get("own", False),
                reason=entry.get("reason", "").strip(),
            )
    return None


def bounds_path(folder: Path) -> Path:
    """Return the path of the bounds of a model whose baselines are in `folder`."""
    return folder / "bounds.toml"


def read_bounds(folder: Path, precisions: Collection[str] | None = None) -> dict[str, Any]:
    """Return the table in a model's `bounds.toml`, empty where there is no file. Raises ValueError, in one
    line, for an unreadable file, for a line that holds anything but bounds, and for a line whose precision
    without its options is not in `precisions` (None: any), since it would never be read."""
    path = bounds_path(folder)
    if not path.exists() and not path.is_symlink():
        return {}
    lines = _loaded(path, str(path))
    for name, entry in lines.items():
        _check_entry(entry, f"bounds file {path}: {name!r}", {"kl", "rise", "reason"})
        try:
            case = case_of(folder.name, name)
            if wrong := [one for one in case.options if one.startswith("global-") and one not in _OPTIONS]:
                raise unknown(f"option of {name!r}:", wrong[0], GLOBAL_OPTIONS)
            if precisions is not None and case.kind == "recipe" and case.plain not in precisions:
                raise unknown("precision", case.plain, precisions)
        except ValueError as error:
            raise BoundsError(f"bounds file {path}: {error}") from error
    return {"default": _today(lines, f"bounds file {path}"), "whose": str(path), "own": True}


def _today(lines: dict[str, Any], where: str) -> dict[str, Any]:
    """Return lines whose precisions may have former names, under today's. Raises BoundsError for two lines of
    one case, and for a line that no case can have."""
    given: dict[str, str] = {}
    for name in lines:
        try:
            first = given.setdefault(case_of("any", name).name, name)
        except ValueError as error:
            raise BoundsError(f"{where}: {error}") from error
        if first != name:
            raise BoundsError(f"{where}: {first!r} and {name!r} are lines of one case; drop one")
    return {today: lines[name] for today, name in given.items()}


def _loaded(path: Path, named: str) -> dict[str, Any]:
    """Load a TOML file. Raises ValueError, in one line, where it cannot be read."""
    try:
        return read_toml(path)
    except FileNotFoundError as error:
        raise BoundsError(f"bounds file {named} does not exist; name a TOML file") from error
    except DataError as error:
        raise BoundsError(f"bounds file {named}: {error}; give a TOML file") from error


def _check_entry(entry: Any, where: str, allowed: Collection[str]) -> None:
    numbers = (
        {key: value for key, value in entry.items() if key != "reason"} if isinstance(entry, dict) else {}
    )
    ok = isinstance(entry, dict) and {"kl"} <= entry.keys() <= set(allowed)
    ok = ok and all(type(value) in (int, float) and 0 <= value <= _MOST for value in numbers.values())
    reason = entry.get("reason", "a") if isinstance(entry, dict) else "a"
    if not ok or not isinstance(reason, str) or not any(letter.isalnum() for letter in reason):
        more = ', and reason = "TEXT"' if "reason" in allowed else ""
        raise BoundsError(
            f"{where} is {got(entry, 60)}; allowed: {{ kl = NATS }} or {{ kl = NATS, rise = NATS }} with "
            f"numbers from 0 to {_MOST:g}{more}"
        )


def _checked(
    table: dict[str, Any], path: str, precisions: Collection[str], known: Collection[str] | None
) -> dict[str, Any]:
    """Refuse, in one line that names the file, entries that would be ignored or fail later."""
    for name in table.keys() - {"default", "models"}:
        raise BoundsError(f"bounds file {path}: {unknown('table', name, ('default', 'models'))}")
    models = _table(table.get("models", {}), "models", path)
    for name in models:
        if known is not None and name not in known:
            others = [one for one in known if one not in models]  # one with its own table is no misspelling
            if (error := misspelt("model in [models]", name, others)) is not None:
                raise BoundsError(f"bounds file {path}: {error}")
    sections = [("default", table.get("default", {})), *((f"models.{name}", models[name]) for name in models)]
    checked: dict[str, Any] = {}
    for title, section in sections:
        for name, entry in _table(section, title, path).items():
            plain, *options = name.split("+")
            if _plain_today(plain) not in precisions:
                raise BoundsError(
                    f"bounds file {path}: {unknown(f'precision in [{title}]', name, precisions)}"
                )
            _check_options(f"bounds file {path}: [{title}]", name, options)
            _check_entry(entry, f"bounds file {path}: [{title}] {name!r}", {"kl", "rise"})
        checked[title] = _today(section, f"bounds file {path}: [{title}]")
    found = {name: checked[f"models.{name}"] for name in models}
    return {**table, "default": checked["default"], "models": found, "whose": path}


def _check_options(where: str, name: str, options: list[str]) -> None:
    """Refuse a line with options that no case has, or has in another order."""
    for option in options:
        if own_option(option) not in _OPTIONS:
            raise BoundsError(f"{where}: {unknown(f'option of {name!r}:', option, _OPTIONS)}")
    order = [min(_OPTIONS.index(own_option(option)), 2) for option in options]
    if order != sorted(set(order)):
        raise BoundsError(
            f"{where}: {name!r} is the name of no case; allowed: PRECISION+attention+outputs+global-FORMAT, "
            f"each of the three at most once and in this order"
        )


def _plain_today(plain: str) -> str:
    precision, dash, tier = plain.partition("-")
    return f"{own_precision(precision)}{dash}{tier}"


def _table(value: Any, title: str, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BoundsError(f"bounds file {path}: {title} must be a table, got {got(value)}")
    return value


@cache
def load_bounds(
    path: str | None = None,
    own: tuple[str, ...] = (),
    *,
    baselines: Path | None = None,
    models: tuple[str, ...] | None = None,
) -> BoundsTables:
    """Return our table, the TOML file at `path` before it, and between them the files beside the models'
    baselines in the folder `baselines`. Raises ValueError for an invalid file.

    `own` are the user's recipes, for which the file at `path` may have lines too. `models` are the known
    models (None: any): a table whose name nearly matches one of them is refused, since it would never be
    read; any other may belong to a model of another run.
    """
    ours = toml_data(resources.files("mxcheck.gate").joinpath("bounds.toml").read_text())
    ours["whose"] = "mxcheck's own table, mxcheck/gate/bounds.toml"
    precisions = (*(name for name in ours["default"] if "+" not in name), *own)
    if path is None:
        return BoundsTables([ours], baselines=baselines, precisions=precisions)
    theirs = _checked(_loaded(Path(path), path), path, precisions, models)
    return BoundsTables([theirs, ours], baselines=baselines, precisions=precisions)
