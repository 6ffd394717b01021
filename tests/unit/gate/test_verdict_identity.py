"""Step 1: a baseline belongs to one case. Another's, under its name, is refused before all else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mxcheck.gate.bounds_tables import Bounds
from mxcheck.gate.record import Record
from mxcheck.gate.verdict import judge

MakeRecord = Callable[..., Record]
WIDE = Bounds(kl=1.0, rise=1.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"model": "ref-moe"}, "model is ref-moe, accepted ref-llama", id="model"),
        pytest.param({"precision": "mxint8"}, "precision is mxint8, accepted mxfp8_e4m3", id="precision"),
        pytest.param({"tier": "A"}, "tier is A, accepted B", id="tier"),
        pytest.param({"tier": None}, "tier is None, accepted B", id="no-tier"),
        pytest.param({"options": ["length512"]}, "options is ['length512'], accepted []", id="options"),
        pytest.param(
            {"model": "ref-moe", "tier": "A"},
            "model is ref-moe, accepted ref-llama; tier is A, accepted B",
            id="two",
        ),
    ],
)
def test_another_case_is_refused(make_record: MakeRecord, change: dict[str, Any], words: str) -> None:
    record = make_record(**change, digests={}, sequence_losses=[9.0] * 4)
    (check,) = judge(record, make_record(), WIDE).checks
    assert (check.step, check.passed, check.message) == (1, False, f"another case: {words}")


def test_the_order_of_options_is_part_of_the_name(make_record: MakeRecord) -> None:
    record, baseline = (make_record(options=names) for names in (["even", "block16"], ["block16", "even"]))
    assert judge(record, baseline, WIDE).failed_steps == (1,)


def test_the_recipe_is_told_as_well(make_record: MakeRecord) -> None:
    recipe = {**make_record().recipe, "tier": "A"}
    (check,) = judge(make_record(tier="A", recipe=recipe), make_record(), WIDE).checks
    assert check.message == "another case: tier is A, accepted B; another recipe: tier is A, accepted B"


def test_the_same_case_is_comparable(make_record: MakeRecord) -> None:
    check = judge(make_record(), make_record(), WIDE).checks[0]
    assert (check.step, check.passed, check.message) == (1, True, "same case, same recipe")
