"""The ladder as data."""

from __future__ import annotations

import pytest

from mxcheck.formats.blocks import BLOCK_FORMATS
from mxcheck.formats.elements import ELEMENT_FORMATS
from mxcheck.models.backends.backend import BACKEND_PRECISIONS
from mxcheck.models.ladder import (
    GROUPS,
    LADDER,
    MIXED_TIERS,
    MX,
    ROLES,
    TIERS,
    WHOLE_MODEL,
    Step,
    installed,
    stages,
)
from mxcheck.models.recipe import recipe


def test_steps_in_order() -> None:
    assert tuple(LADDER) == (
        "fp32",
        "bf16",
        "bfp16",
        "nvfp8_emu_e4m3",
        "nvfp8_emu_e5m2",
        "fp8_e4m3",
        "fp8_e5m2",
        "fp6_e3m2",
        "fp6_e2m3",
        "fp4_e2m1",
        "mxint8",
        "fp4_e3m0",
        "nvfp4",
        "mixed",
        "bnb_int8",
        "te_fp8_current",
        "te_fp8_delayed",
        "te_mxfp8",
        "scaled_mm_fp8",
        "scaled_mm_fp8_row",
    )
    assert all(step.name == name for name, step in LADDER.items())


def test_what_casts_in_each_step() -> None:
    casts = {name: step.operand for name, step in LADDER.items() if step.operand}

    assert casts == {
        "bfp16": "bf16",
        "nvfp8_emu_e4m3": "e4m3_tensor",
        "nvfp8_emu_e5m2": "e5m2_tensor",
        **{name: name for name in ELEMENT_FORMATS},
        "nvfp4": "nvfp4",
    }
    assert set(casts.values()) <= {"bf16", *BLOCK_FORMATS}
    assert tuple(ELEMENT_FORMATS) == MX
    assert {name for name, step in LADDER.items() if step.library} == set(BACKEND_PRECISIONS)
    assert LADDER.keys() - casts.keys() - set(BACKEND_PRECISIONS) == {*WHOLE_MODEL, "mixed"}


def test_groups_are_what_may_be_skipped() -> None:
    assert GROUPS == ("bf16", "bfp16", "nvfp8_emu", "mx", "nvfp4", "bnb_int8", "te", "scaled_mm")
    assert {name for name, step in LADDER.items() if step.group == "mx"} == {*MX, "mixed"}


def test_stages_are_every_precision_with_each_of_its_tiers() -> None:
    made = stages()

    assert len(set(made)) == len(made) == 2 + 2 + 2 * (len(LADDER) - 3)
    assert made[:4] == (("fp32", None), ("bf16", None), ("bfp16", "A"), ("bfp16", "B"))
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
    assert installed(Step(name="step", group="step", library=library)) is there
