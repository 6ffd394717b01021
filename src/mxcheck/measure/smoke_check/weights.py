"""Compare the bytes of a toy model's weights under some recipes with the sums of their codes and scales."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from mxcheck.measure.smoke_check.toy_model import INNER, VOCABULARY, WIDTH, toy_model
from mxcheck.models.conversion.convert import convert
from mxcheck.models.recipes.ladder import ALL_LINEARS
from mxcheck.models.recipes.recipe import recipe

#: Elements of each weight. A tied head shares the embedding's.
_EMBEDDING, _Q, _UP, _DOWN = VOCABULARY * WIDTH, WIDTH * WIDTH, INNER * WIDTH, WIDTH * INNER
_LOADED = 4 * (_EMBEDDING + _Q + _UP + _DOWN)
#: Bytes per row of 48 and of 80 elements, scales included: rows have two and three blocks of 32.
_ROWS = {
    "mxfp8_e4m3": (48 + 2, 80 + 3),
    "mxint8": (48 + 2, 80 + 3),
    "mxfp6_e3m2": (36 + 2, 60 + 3),
    "mxfp4_e2m1": (24 + 2, 40 + 3),
    "nvfp4": (24 + 3, 40 + 5),  # blocks of 16
}
#: NVFP4 also has one fp32 scale per tensor.
_A_TENSOR = {"nvfp4": 4}


def _of_mlp(name: str) -> int:
    """Return the bytes of a model with only its MLP quantized."""
    short, long = _ROWS[name]
    return 4 * (_EMBEDDING + _Q) + INNER * short + WIDTH * long + 2 * _A_TENSOR.get(name, 0)


def _of_all(name: str) -> int:
    """Return the bytes of a model with all linears quantized, including a tied head: the embedding stays as
    loaded."""
    short, long = _ROWS[name]
    rows = (INNER + WIDTH + VOCABULARY) * short + WIDTH * long
    return 4 * _EMBEDDING + rows + 4 * _A_TENSOR.get(name, 0)


_EXPECTED: tuple[tuple[str, str | None, bool, int, int], ...] = (
    ("fp32", None, True, _LOADED, _LOADED),
    ("bf16", None, True, _LOADED // 2, _LOADED),
    ("fp32", None, False, _LOADED + 4 * _EMBEDDING, _LOADED + 4 * _EMBEDDING),
    *((name, "A", True, _of_mlp(name), _LOADED) for name in _ROWS),
    ("mxfp8_e4m3", ALL_LINEARS, True, _of_all("mxfp8_e4m3"), _LOADED),
    ("nvfp4", ALL_LINEARS, True, _of_all("nvfp4"), _LOADED),
    ("mxfp8_e4m3", ALL_LINEARS, False, _of_all("mxfp8_e4m3"), _LOADED + 4 * _EMBEDDING),
)


def weighed() -> Iterator[tuple[str, str]]:
    """Yield the bytes that a conversion counts wrong: of what, and what is wrong."""
    for name, tier, tied, expected, loaded in _EXPECTED:
        model = toy_model(3, tied=tied, dtype=torch.float32)
        conversion = convert(model, recipe(name, tier=tier))
        found = conversion.weight_bytes, conversion.original_bytes
        conversion.undo()
        if found != (expected, loaded):
            what = f"bytes of {name if tier is None else f'{name}-{tier}'}, {'tied' if tied else 'own'} head"
            yield what, f"expected {expected} of {loaded}, got {found[0]} of {found[1]}"
