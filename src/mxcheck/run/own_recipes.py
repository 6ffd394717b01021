"""Recipes of the user's own, from `[tool.mxcheck.recipes]` of the project's pyproject.toml. Does not import
torch.

[tool.mxcheck.recipes.w4a8]
mlp = { weights = "fp4_e2m1", activations = { format = "fp8_e4m3", scale_rule = "even" } }
attention = { weights = "fp8_e4m3", activations = "fp8_e4m3" }
attention_products = "fp8_e4m3"
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mxcheck.files.plain_data import MALFORMED, DataError, read_toml
from mxcheck.files.printed import RefusedFileError, got, told
from mxcheck.formats.aliases import ALIASES, PRECISION_ALIASES
from mxcheck.formats.choices import unknown
from mxcheck.gate.case import check_recipe_name
from mxcheck.models.recipes.ladder import LADDER, ROLES
from mxcheck.models.recipes.recipe import Casts, Operand, Recipe
from mxcheck.run.option_choices import MODEL_ROUNDINGS

_OPERAND = ("format", "block_size", "scale_rule", "rounding")
_WHOLE = ("attention_products", "outputs", "elementwise")


class RecipesError(RefusedFileError, ValueError):
    """Recipes that cannot be used. The message is one printable line and names the file."""


def own_recipes(path: Path, *, kernel: str) -> dict[str, Recipe]:
    """Return the recipes of the file at `path`, by name; none where the file or table is missing.

    Raises ValueError, in one line that names file and recipe, for entries that would be ignored or fail
    later.
    """
    try:
        table = read_toml(path)
    except FileNotFoundError:
        return {}
    except DataError as error:
        raise RecipesError(f"{path}: {error}") from error
    tables: Any = table
    for key in ("tool", "mxcheck"):
        tables = _table(tables.get(key, {}), key, path)
    for name in tables.keys() - {"recipes"}:
        raise RecipesError(f"{path}: {unknown('table of tool.mxcheck', name, ('recipes',))}")
    recipes = _table(tables.get("recipes", {}), "recipes", path)
    return {name: _recipe(name, entry, path, kernel) for name, entry in recipes.items()}


def _table(value: Any, name: str, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RecipesError(f"{path}: {name} must be a table, got {got(value)}")
    return value


def _recipe(name: str, entry: Any, path: Path, kernel: str) -> Recipe:
    taken = (*LADDER, *ALIASES, *PRECISION_ALIASES, "all")
    if name in taken or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.]*", name):
        raise RecipesError(
            f"{path}: a recipe cannot be called {got(name)}; allowed: letters, digits, '_' and '.', "
            f"and no name of the ladder or of a format"
        )
    try:
        check_recipe_name(name)
        if not isinstance(entry, dict):
            raise ValueError(f"must be a table of roles, got {got(entry)}")
        for key in entry.keys() - {*ROLES, *_WHOLE}:
            raise unknown("key", key, (*ROLES, *_WHOLE))
        if not isinstance(entry.get("outputs", False), bool):
            raise ValueError(f"outputs must be true or false, got {got(entry['outputs'])}")
        return Recipe(
            precision=name,
            roles={role: _casts(entry[role]) for role in ROLES if role in entry},
            attention=_operand(entry.get("attention_products")),
            outputs=entry.get("outputs", False),
            elementwise=_operand(entry.get("elementwise")),
            kernel=kernel,
        )
    except MALFORMED as error:
        raise RecipesError(f"{path}: recipe {name!r}: {told(error, 1000)}") from error


def _casts(entry: Any) -> Casts:
    if not isinstance(entry, dict) or not entry or not entry.keys() <= {"weights", "activations"}:
        raise ValueError(
            f"a role is a table of weights and activations (one may be left out), got {got(entry)}"
        )
    return Casts(weights=_operand(entry.get("weights")), activations=_operand(entry.get("activations")))


def _operand(entry: Any) -> Operand | None:
    if entry is None or isinstance(entry, str):
        return None if entry is None else Operand(format=entry)
    if not isinstance(entry, dict) or "format" not in entry or not entry.keys() <= set(_OPERAND):
        raise ValueError(f"an operand is a format, or a table of {', '.join(_OPERAND)}, got {got(entry)}")
    if entry.get("rounding") == "stochastic":
        raise ValueError(
            f"rounding stochastic: only the kernel suite has random integers for it; "
            f"allowed: {', '.join(MODEL_ROUNDINGS)}"
        )
    return Operand(**entry)
