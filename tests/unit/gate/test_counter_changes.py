"""What moved: each counter, each way; what may move where, and what the sentence says."""

from dataclasses import replace
from typing import Any

import pytest

from mxcheck.gate.counter_changes import SHARE, Change, changes
from mxcheck.gate.counters import Absent, Counters, OperandCounts

NAME = "layers.3.mlp.down_proj"
COUNTS = OperandCounts(
    elements=3200, saturated=0, flushed=40, top=60, nan=0, inf=0, zero_blocks=2, scales={0: 2, 120: 98}
)
FP32_SCALED = replace(COUNTS, scales=Absent(reason="fp32"))
SMALL = int(SHARE * COUNTS.elements)


def one(operand: str, counts: OperandCounts | Absent, rows: tuple[int, ...] = ()) -> Counters:
    return Counters(operands={NAME: {operand: counts}}, expert_rows={NAME: rows} if rows else {})


def moved(operand: str, now: Any, then: Any = COUNTS, *, same_inputs: bool = False) -> tuple[Change, ...]:
    return changes(one(operand, now), one(operand, then), same_inputs=same_inputs)


@pytest.mark.parametrize("operand", ["weights", "activations", "probabilities"])
@pytest.mark.parametrize("same_inputs", [True, False])
@pytest.mark.parametrize(
    "counts", [COUNTS, FP32_SCALED, Absent(reason="library")], ids=["e8m0", "fp32", "no"]
)
def test_equal_counters_do_not_move(operand: str, same_inputs: bool, counts: Any) -> None:
    assert moved(operand, counts, counts, same_inputs=same_inputs) == ()


ONE_MORE = {
    "saturated": {"saturated": 1},
    "flushed": {"flushed": 41},
    "top": {"top": 59},
    "nan": {"nan": 1},
    "inf": {"inf": 1},
    "zero_blocks": {"zero_blocks": 1},
    "scales": {"scales": {0: 2, 120: 97, 121: 1}},
}


@pytest.mark.parametrize("figure", ONE_MORE)
@pytest.mark.parametrize(
    ("operand", "same_inputs"), [("weights", True), ("weights", False), ("activations", True)]
)
def test_where_inputs_are_equal_nothing_may_move(figure: str, operand: str, same_inputs: bool) -> None:
    (change,) = moved(operand, replace(COUNTS, **ONE_MORE[figure]), same_inputs=same_inputs)
    assert (change.figure, change.within) == (figure, False)


@pytest.mark.parametrize("figure", ONE_MORE)
def test_elsewhere_activations_may_move_a_little_but_for_nan_and_inf(figure: str) -> None:
    (change,) = moved("activations", replace(COUNTS, **ONE_MORE[figure]))
    assert (change.figure, change.within) == (figure, figure not in ("nan", "inf"))


@pytest.mark.parametrize("figure", ["saturated", "flushed", "top"])
def test_elsewhere_the_bound_is_a_share_of_the_elements(figure: str) -> None:
    (at,) = moved("activations", replace(COUNTS, **{figure: getattr(COUNTS, figure) + SMALL}))
    (above,) = moved("activations", replace(COUNTS, **{figure: getattr(COUNTS, figure) + SMALL + 1}))
    assert (at.within, above.within) == (True, False)
    assert at.share == SHARE


def test_elsewhere_zero_blocks_are_a_share_of_the_blocks() -> None:
    (at,) = moved("activations", replace(COUNTS, zero_blocks=7))
    (above,) = moved("activations", replace(COUNTS, zero_blocks=8))
    assert (at.within, above.within) == (True, False)


def test_what_says_that_another_cast_ran_may_move_nowhere() -> None:
    for now, figure in (
        (replace(COUNTS, elements=3201), "elements"),
        (Absent(reason="the pass did not call it"), "absent"),
        (FP32_SCALED, "scales"),
        (replace(COUNTS, scales={0: 2, 120: 97}), "scales"),
    ):
        for pair in ((now, COUNTS), (COUNTS, now)):
            (change,) = moved("activations", *pair)
            assert (change.figure, change.within) == (figure, False)
    (change,) = moved("activations", Absent(reason="a"), Absent(reason="b"))
    assert change.message == f"activations of {NAME}: no counts: a (accepted: no counts: b)"


def test_a_module_or_an_operand_that_comes_or_goes() -> None:
    none = Counters(operands={}, expert_rows={})
    (gone,) = changes(none, one("activations", COUNTS), same_inputs=False)
    (come,) = changes(one("activations", COUNTS), none, same_inputs=False)
    assert gone.message == f"activations of {NAME}: no counts: not counted (accepted: 3200 elements)"
    assert not gone.within
    assert not come.within


def test_the_sentence() -> None:
    (change,) = moved("activations", replace(COUNTS, saturated=384))
    assert change.message == f"12 % of activations of {NAME} saturated (accepted 0 %)"
    large = replace(COUNTS, elements=10**7, flushed=1_000_000)
    (change,) = moved("activations", replace(large, flushed=1_000_001), large)
    assert change.message == (
        f"1000001 of 10000000 of activations of {NAME} were flushed to zero (accepted 1000000)"
    )
    (change,) = moved("activations", replace(COUNTS, scales={0: 2, 121: 98}))
    assert change.message == (
        f"activations of {NAME}: 98 of 100 scales took another code: on average 118.580 (accepted 117.600)"
    )


def test_the_worst_that_may_not_be_comes_first() -> None:
    now = replace(COUNTS, saturated=1000, flushed=41, nan=3, scales={0: 2, 121: 98})
    assert [(change.figure, change.within) for change in moved("activations", now)] == [
        ("saturated", False),
        ("nan", False),
        ("scales", True),
        ("flushed", True),
    ]


@pytest.mark.parametrize(
    ("rows", "same_inputs", "within"),
    [
        ((52, 48), True, False),
        ((52, 48), False, True),
        ((56, 44), False, False),
        ((50, 49), False, False),
        ((50, 25, 25), False, False),
    ],
)
def test_rows_of_experts(rows: tuple[int, ...], same_inputs: bool, within: bool) -> None:
    then = one("weights", COUNTS, (50, 50))
    assert changes(then, then, same_inputs=same_inputs) == ()
    found = changes(one("weights", COUNTS, rows), then, same_inputs=same_inputs)
    assert found
    assert {change.within for change in found} == {within}
    if rows == (56, 44):
        assert found[0].message == f"56 % of rows of {NAME} entered expert 0 (accepted 50 %)"


def test_elsewhere_rows_of_many_experts_are_judged_together() -> None:
    """None of 64 experts has as many rows as `SHARE`, and each may have another one's."""
    rows = tuple(10 + expert for expert in range(64))
    far = (*rows[16:], *rows[:16])
    near = (rows[0] + 9, rows[1] - 9, *rows[2:])
    assert max(abs(a - b) for a, b in zip(far, rows, strict=True)) < SHARE * sum(rows)
    for now, within in ((far, False), (near, True)):
        found = changes(one("weights", COUNTS, now), one("weights", COUNTS, rows), same_inputs=False)
        assert {change.within for change in found} == {within}
