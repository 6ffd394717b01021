"""The ladder as data."""

from __future__ import annotations

from typing import Any

import pytest

from mxcheck.formats.aliases import PRECISION_ALIASES
from mxcheck.formats.blocks import BLOCK_FORMATS
from mxcheck.formats.elements import ELEMENT_FORMATS
from mxcheck.models.backends.backend import BACKEND_PRECISIONS, backend
from mxcheck.models.recipes.ladder import (
    FORMER_GROUPS,
    GROUPS,
    LADDER,
    MIXED_TIERS,
    MX,
    ROLES,
    TIERS,
    WHOLE_MODEL,
    Precision,
    by_name,
    installed,
    with_tiers,
)
from mxcheck.models.recipes.recipe import recipe

ROW: dict[str, Any] = {"name": "mine", "group": "mine", "what": "a test"}
LIBRARY: dict[str, Any] = {**ROW, "library": "torch", "backend": "scaled_mm_backend:ScaledMM"}


def test_precisions_in_order() -> None:
    assert tuple(LADDER) == (
        "fp32",
        "bf16",
        "bf16_operands",
        "fp8_tensor_e4m3",
        "fp8_tensor_e5m2",
        "mxfp8_e4m3",
        "mxfp8_e5m2",
        "mxfp6_e3m2",
        "mxfp6_e2m3",
        "mxfp4_e2m1",
        "mxint8",
        "mxfp4_e3m0",
        "nvfp4",
        "mixed",
        "bnb_int8",
        "te_fp8_current",
        "te_fp8_delayed",
        "te_mxfp8",
        "scaled_mm_fp8",
        "scaled_mm_fp8_row",
    )
    assert all(row.name == name for name, row in LADDER.items())


def test_what_casts_in_each_precision() -> None:
    casts = {name: row.operand for name, row in LADDER.items() if row.operand}

    assert casts == {
        "bf16_operands": "bf16",
        "fp8_tensor_e4m3": "e4m3_tensor",
        "fp8_tensor_e5m2": "e5m2_tensor",
        **{name if name == "mxint8" else f"mx{name}": name for name in ELEMENT_FORMATS},
        "nvfp4": "nvfp4",
    }
    assert set(casts.values()) <= {"bf16", *BLOCK_FORMATS}
    assert [LADDER[name].operand for name in MX] == list(ELEMENT_FORMATS)
    assert {name for name, row in LADDER.items() if row.library} == set(BACKEND_PRECISIONS)
    assert LADDER.keys() - casts.keys() - set(BACKEND_PRECISIONS) == {*WHOLE_MODEL, "mixed"}


@pytest.mark.parametrize("name", BACKEND_PRECISIONS)
def test_a_librarys_row_makes_its_backend(name: str) -> None:
    assert backend(name).name == name


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({**ROW, "name": "My-own"}, "name must be lower-case letters, digits and '_'"),
        ({**ROW, "name": "fp8_e4m3"}, "name is another name of a precision"),
        ({**ROW, "what": " "}, "what must say in words what it computes"),
        ({**ROW, "library": "torch"}, "library and backend go together"),
        ({**ROW, "backend": "scaled_mm_backend:ScaledMM"}, "library and backend go together"),
        ({**LIBRARY, "backend": "scaled_mm"}, "backend must be module:class"),
        ({**LIBRARY, "operand": "nvfp4"}, "either its library casts or an operand's format"),
        ({**ROW, "operand": "nvfp5"}, "operand must be bf16 or a block format"),
        ({**ROW, "settings": {"threshold": 6.0}}, "settings, arguments and spans_tokens are a library's"),
        ({**ROW, "arguments": {"format": "nvfp4"}}, "settings, arguments and spans_tokens are a library's"),
        ({**ROW, "spans_tokens": True}, "settings, arguments and spans_tokens are a library's"),
    ],
)
def test_a_row_that_contradicts_itself(row: dict[str, Any], why: str) -> None:
    Precision(**ROW)
    Precision(**LIBRARY)
    with pytest.raises(ValueError, match=rf"^precision '.*': {why}; correct its row$"):
        Precision(**row)


def test_a_name_is_of_one_row_and_an_alias_of_some_row() -> None:
    rows = [*LADDER.values()]
    with pytest.raises(ValueError, match=r"^two precisions are called 'nvfp4'; rename one$"):
        by_name([*rows, LADDER["nvfp4"]])
    with pytest.raises(ValueError, match=r"^'bfp16' is another name of 'bf16_operands', which is no prec"):
        by_name(row for row in rows if row.name != "bf16_operands")


def test_groups_are_what_may_be_skipped() -> None:
    assert GROUPS == ("bf16", "bf16_operands", "fp8_tensor", "mx", "nvfp4", "bnb_int8", "te", "scaled_mm")
    assert {name for name, row in LADDER.items() if row.group == "mx"} == {*MX, "mixed"}
    assert set(FORMER_GROUPS.values()) < set(GROUPS)
    assert not FORMER_GROUPS.keys() & {*GROUPS}


@pytest.mark.parametrize(("alias", "name"), PRECISION_ALIASES.items())
def test_a_recipe_takes_other_names(alias: str, name: str) -> None:
    assert recipe(alias, tier="A") == recipe(name, tier="A")
    assert recipe(alias, tier="A").precision == name


def test_every_precision_with_each_of_its_tiers() -> None:
    made = with_tiers()

    assert len(set(made)) == len(made) == 2 + 2 + 2 * (len(LADDER) - 3)
    assert made[:4] == (("fp32", None), ("bf16", None), ("bf16_operands", "A"), ("bf16_operands", "B"))
    assert [tier for name, tier in made if name == "mixed"] == ["C", "D"]
    assert [name for name, _ in made] == sorted((name for name, _ in made), key=list(LADDER).index)
    for name, tier in made:
        assert recipe(name, tier=tier).tier == tier


def test_tiers_name_roles() -> None:
    for roles in (*TIERS.values(), *MIXED_TIERS.values()):
        assert set(roles) <= set(ROLES)
    assert dict(MIXED_TIERS["C"]) == {"mlp": "fp6_e3m2", "attention": "fp8_e4m3"}
    assert dict(MIXED_TIERS["D"]) == {"mlp": "fp4_e2m1", "attention": "fp6_e3m2"}


@pytest.mark.parametrize(
    ("library", "there"), [(None, True), ("torch", True), ("no_such_library_of_anybody", False)]
)
def test_installed(library: str | None, there: bool) -> None:
    backend = None if library is None else "scaled_mm_backend:ScaledMM"
    assert installed(Precision(**ROW, library=library, backend=backend)) is there
