"""The six steps: every check has a test that makes exactly it fail."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from sample_record import CASTS, UP, Q, build_digests

from mxcheck.gate.bounds_tables import Bounds
from mxcheck.gate.record import Record
from mxcheck.gate.verdict import Verdict, judge, rise, self_sampled_z

MakeRecord = Callable[..., Record]

WIDE = Bounds(kl=1.0, rise=1.0)
PILE = {"used": "pile", "asked": ["pile", "wikitext"], "split": "validation", "documents": 3}
WIKITEXT = {"used": "wikitext", "asked": ["pile", "wikitext"], "split": "test", "documents": 2}
REFERENCE = [2.0, 2.1, 1.9, 2.05]
LOSSES = [2.001, 2.102, 1.9015, 2.0512]
KL = [0.001, 0.0011, 0.0009, 0.001]


def moved(values: list[float], *changes: float) -> list[float]:
    return [value + change for value, change in zip(values, changes, strict=True)]


def test_a_record_passes_against_itself(make_record: MakeRecord) -> None:
    verdict = judge(make_record(), make_record(), WIDE)
    assert verdict.passed
    assert verdict.failures == ()
    assert verdict.failed_steps == ()
    steps = [check.step for check in verdict.checks]
    # recipe, corpus, three fingerprints; z, losses, entropies; bits, modules, bytes, figures; steady, codes,
    # scales, operands; KL, rise; losses, KL, top-1
    assert steps == [1, 1, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 6, 6, 6]


def test_environment_and_noise_are_not_compared(make_record: MakeRecord) -> None:
    record = make_record(environment={"torch": "3"}, noise=None)
    assert judge(record, make_record(), WIDE).passed


OTHER_WEIGHT, OTHER_OPERANDS = build_digests(up="codes"), build_digests(q="operands")


@pytest.mark.parametrize(
    ("changes", "bounds", "step", "words"),
    [
        *(
            pytest.param(
                {
                    "fingerprints": {
                        "weights": "a" * 64,
                        "tokenizer": "b" * 64,
                        "tokens": "c" * 64,
                        name: "f" * 64,
                    }
                },
                WIDE,
                1,
                f"{name} are not the accepted ones: {'f' * 16}…",
                id=name,
            )
            for name in ("weights", "tokenizer", "tokens")
        ),
        pytest.param(
            {"fingerprints": {"weights": "a" * 64, "tokenizer": "b" * 64}},
            WIDE,
            1,
            "tokens are not the accepted ones: none…",
            id="no-fingerprint",
        ),
        pytest.param(
            {"reference_entropies": moved(REFERENCE, -0.1, -0.11, -0.1, -0.11)},
            WIDE,
            2,
            "reference on its own samples",
            id="loss-above-entropy",
        ),
        pytest.param(
            {"reference_entropies": moved(REFERENCE, 0.1, 0.11, 0.1, 0.11)},
            WIDE,
            2,
            "reference on its own samples",
            id="loss-below-entropy",
        ),
        pytest.param(
            {"reference_losses": moved(REFERENCE, 1e-3, 0, 0, 0)},
            WIDE,
            2,
            "reference's losses moved by sequence",
            id="reference-moved",
        ),
        pytest.param({"bit_equal": True}, WIDE, 3, "nothing was quantized", id="nothing-quantized"),
        pytest.param(
            {"changes_bits": False}, WIDE, 3, "though the recipe changes no bit", id="bits-of-no-change"
        ),
        pytest.param({"replaced": {UP: "mlp"}}, WIDE, 3, f"no longer quantized: {Q}", id="module-lost"),
        pytest.param(
            {"replaced": {UP: "mlp", Q: "attention", "head": "head"}},
            WIDE,
            3,
            "newly quantized: head",
            id="module-added",
        ),
        pytest.param({"replaced": {UP: "mlp", Q: "mlp"}}, WIDE, 3, f"another role: {Q}", id="role"),
        pytest.param(
            {"digests": OTHER_WEIGHT},
            WIDE,
            4,
            f"codes of the quantized weights changed bits in 1 of 2 modules: {UP} (rows 32 to 63 of 64)",
            id="codes",
        ),
        pytest.param(
            {"digests": build_digests(up="scales")},
            WIDE,
            4,
            f"scales of the quantized weights changed bits in 1 of 2 modules: {UP} (rows 32 to 63 of 64)",
            id="scales",
        ),
        pytest.param(
            {"digests": OTHER_OPERANDS},
            WIDE,
            4,
            f"operands of the products (fixed activation probe) changed bits in 1 of 2 modules: {Q} "
            "(operands 1 of 2)",
            id="activations-cast",
        ),
        pytest.param({"weight_bytes": 1}, WIDE, 3, "weight_bytes is 1, accepted 33792", id="bytes"),
        pytest.param(
            {"original_bytes": 1}, WIDE, 3, "original_bytes is 1, accepted 131072", id="original-bytes"
        ),
        pytest.param({}, Bounds(kl=0.0009, rise=1.0), 5, "KL to the reference 0.001000", id="kl-bounds"),
        pytest.param({}, Bounds(kl=1.0, rise=0.0014), 5, "rise of the cross-entropy", id="rise-bounds"),
        pytest.param({"sequence_losses": moved(LOSSES, 0, 0, 1e-8, 0)}, WIDE, 6, "losses moved", id="losses"),
        pytest.param({"sequence_kl": moved(KL, 0, 0, 1e-8, 0)}, WIDE, 6, "KL moved", id="kl"),
    ],
)
def test_one_fault_fails_one_check(
    make_record: MakeRecord, changes: dict[str, Any], bounds: Bounds, step: int, words: str
) -> None:
    verdict = judge(make_record(**changes), make_record(), bounds)
    assert {check.step for check in verdict.failures} == {step}
    assert words in verdict.failures[0].message
    assert verdict.failed_steps == (step,)
    assert not verdict.passed


def test_another_number_of_sequences_is_named_not_raised(make_record: MakeRecord) -> None:
    """Losses and reference lose a sequence together, so both comparisons say so."""
    fewer = make_record(
        reference_losses=REFERENCE[:3],
        reference_entropies=[2.01, 2.08, 1.92],
        sequence_losses=LOSSES[:3],
        sequence_kl=KL[:3],
    )
    verdict = judge(fewer, make_record(), WIDE)
    assert [(check.step, check.message) for check in verdict.failures] == [
        (2, "3 sequences, accepted 4"),
        (6, "3 sequences, accepted 4"),
    ]


def test_steps_are_in_order_and_named_once(make_record: MakeRecord) -> None:
    record = make_record(
        sequence_losses=moved(LOSSES, 1, 1, 1, 1), sequence_kl=moved(KL, 1, 1, 1, 1), digests=OTHER_WEIGHT
    )
    verdict = judge(record, make_record(), Bounds(kl=2.0, rise=0.5))
    assert [check.step for check in verdict.failures] == [4, 5, 6, 6]
    assert verdict.failed_steps == (4, 5, 6)


@pytest.mark.parametrize("bit_equal", [True, False])
def test_a_recipe_that_changes_no_bit(make_record: MakeRecord, bit_equal: bool) -> None:
    record = make_record(changes_bits=False, bit_equal=bit_equal)
    assert judge(record, record, WIDE).passed is bit_equal


# Step 1: other recipes


@pytest.mark.parametrize(
    ("change", "key", "value", "accepted"),
    [
        pytest.param({"tier": "A"}, "tier", "A", "B", id="value"),
        pytest.param({"rounding": "away"}, "rounding", "away", "unset", id="added"),
    ],
)
@pytest.mark.parametrize("swapped", [False, True], ids=["record", "baseline"])
def test_other_recipes_are_refused_and_nothing_more_is_judged(
    make_record: MakeRecord, change: dict[str, Any], key: str, value: str, accepted: str, swapped: bool
) -> None:
    everything_else = {
        "fingerprints": {},
        "bit_equal": True,
        "replaced": {},
        "digests": OTHER_WEIGHT,
        "kl": 9.0,
        "sequence_losses": moved(LOSSES, 9, 9, 9, 9),
    }
    plain = make_record()
    other = make_record(recipe={**plain.recipe, **change}, **everything_else)
    pair = (plain, other) if swapped else (other, plain)
    verdict = judge(*pair, Bounds(kl=0.0, rise=0.0))
    got, then = (accepted, value) if swapped else (value, accepted)
    assert [(check.step, check.message) for check in verdict.checks] == [
        (1, f"another recipe: {key} is {got}, accepted {then}")
    ]
    assert verdict.failed_steps == (1,)


def test_every_difference_of_the_recipes_is_named(make_record: MakeRecord) -> None:
    plain = make_record()
    other = make_record(recipe={**plain.recipe, "tier": "A", "outputs": True})
    (check,) = judge(other, plain, WIDE).failures
    assert check.message == "another recipe: outputs is True, accepted unset; tier is A, accepted B"


def test_a_cast_that_differs_is_named_by_its_place(make_record: MakeRecord) -> None:
    """Of a recipe of the user's, say, whose file was changed: not the whole of both recipes."""
    other = {**CASTS, "weights": {**CASTS["weights"], "block_size": 16}}
    record = make_record(recipe={**make_record().recipe, "roles": {"attention": CASTS, "mlp": other}})
    (check,) = judge(record, make_record(), WIDE).failures
    assert check.message == "another recipe: roles.mlp.weights.block_size is 16, accepted 32"


def test_a_role_that_is_no_longer_cast_is_named(make_record: MakeRecord) -> None:
    record = make_record(recipe={**make_record().recipe, "roles": {"mlp": {**CASTS, "activations": None}}})
    (check,) = judge(record, make_record(), WIDE).failures
    assert "roles.attention.weights.format is unset, accepted fp8_e4m3" in check.message
    assert "roles.mlp.activations.format is unset, accepted fp8_e4m3" in check.message


# Step 1: other corpora


def of_corpus(make_record: MakeRecord, corpus: dict[str, Any], documents: str, **others: Any) -> Record:
    fingerprints = {**make_record().fingerprints, "documents": documents}
    return make_record(corpus=corpus, fingerprints=fingerprints, **others)


def test_another_corpus_is_named(make_record: MakeRecord) -> None:
    record = of_corpus(make_record, WIKITEXT, "e" * 64)
    verdict = judge(record, of_corpus(make_record, PILE, "d" * 64), WIDE)
    assert [(check.step, check.message) for check in verdict.failures] == [
        (
            1,
            (
                "another corpus: documents is 2, accepted 3; split is test, accepted validation; "
                "used is wikitext, accepted pile"
            ),
        ),
        (1, f"documents are not the accepted ones: {'e' * 16}…, accepted {'d' * 16}…"),
    ]


def test_text_of_the_model_s_own_where_a_corpus_was_accepted(make_record: MakeRecord) -> None:
    verdict = judge(make_record(), of_corpus(make_record, PILE, "d" * 64), WIDE)
    assert "used is self, accepted pile" in verdict.failures[0].message
    assert f"documents are not the accepted ones: none…, accepted {'d' * 16}…" in verdict.failures[1].message
    assert verdict.failed_steps == (1,)


def test_changed_documents_of_the_same_corpus(make_record: MakeRecord) -> None:
    pair = (of_corpus(make_record, PILE, documents) for documents in ("e" * 64, "d" * 64))
    (check,) = judge(*pair, WIDE).failures
    assert check.message.startswith("documents are not the accepted ones")


@pytest.mark.parametrize(
    "facts",
    [
        {"asked": ["pile"]},
        {"because": {"wikitext": "offline"}},
        {"revision": "0123abc"},
    ],
    ids=lambda facts: next(iter(facts)),
)
def test_how_the_same_text_was_come_by_is_not_compared(
    make_record: MakeRecord, facts: dict[str, Any]
) -> None:
    record = of_corpus(make_record, {**PILE, **facts}, "d" * 64)
    assert judge(record, of_corpus(make_record, PILE, "d" * 64), WIDE).passed


# Step 3: what a library left as it is

WIDTH, CLASS = "its width is 48, which 16 does not divide", "it is no nn.Linear"


@pytest.mark.parametrize("swapped", [False, True], ids=["record", "baseline"])
def test_another_reason_is_named(make_record: MakeRecord, swapped: bool) -> None:
    pair = (make_record(unconverted={"head": CLASS}), make_record(unconverted={"head": WIDTH}))
    (check,) = judge(*(reversed(pair) if swapped else pair), WIDE).failures
    assert (check.step, check.message) == (3, "left as it is for another reason: head")


def test_the_same_reason_is_no_change(make_record: MakeRecord) -> None:
    pair = (make_record(unconverted={"head": WIDTH, "tail": CLASS}) for _ in range(2))
    assert judge(*pair, WIDE).passed


def test_a_module_that_a_library_no_longer_takes_is_named_as_such(make_record: MakeRecord) -> None:
    record = make_record(replaced={UP: "mlp"}, unconverted={Q: WIDTH}, digests=ONE_LOST)
    (check,) = judge(record, make_record(), WIDE).failures
    assert (check.step, check.message) == (3, f"no longer quantized: {Q}")


def test_a_recipe_that_may_or_may_not_change_bits_asserts_neither(make_record: MakeRecord) -> None:
    for bit_equal in (True, False):
        record = make_record(changes_bits=None, bit_equal=bit_equal)
        assert judge(record, make_record(changes_bits=None), WIDE).passed


# Step 2: the reference on its own samples


@pytest.mark.parametrize("sign", [1, -1], ids=["above", "below"])
@pytest.mark.parametrize(("z", "passes"), [(10.6, True), (10.7, False)], ids=["within", "beyond"])
def test_four_standard_errors(make_record: MakeRecord, sign: int, z: float, passes: bool) -> None:
    """Widened for four sequences by 1 + 5/3."""
    # differences m ± 0.01, twice each: standard deviation 0.01 * sqrt(4 / 3), error 0.01 / sqrt(3)
    mean = sign * z * 0.01 / math.sqrt(3)
    gaps = [mean + 0.01, mean - 0.01, mean + 0.01, mean - 0.01]
    record = make_record(reference_entropies=moved(REFERENCE, *(-gap for gap in gaps)))
    assert self_sampled_z(record) == pytest.approx(sign * z, rel=1e-9)
    verdict = judge(record, None, WIDE)
    assert verdict.failed_steps == (() if passes else (2,))


def test_a_corpus_that_is_not_self_sampled_has_no_such_check(make_record: MakeRecord) -> None:
    record = make_record(corpus=PILE, reference_entropies=[0.0, 0.0, 0.1, 0.0])
    verdict = judge(record, None, WIDE)
    assert verdict.passed
    assert [check.step for check in verdict.checks] == [3, 4, 5, 5]


@pytest.mark.parametrize(
    ("gap", "z"),
    [
        pytest.param(0.0, 0.0, id="equal"),
        pytest.param(0.5, math.inf, id="above"),
        pytest.param(-0.5, -math.inf, id="below"),
    ],
)
def test_z_without_spread(make_record: MakeRecord, gap: float, z: float) -> None:
    losses = [2.0, 2.0, 2.0, 2.0]
    record = make_record(reference_losses=losses, reference_entropies=[2.0 - gap] * 4)
    assert self_sampled_z(record) == z


# Step 4: the casts

ONE_LOST = {UP: build_digests()[UP]}
HALF_LOST = {**build_digests(), UP: {"codes": build_digests()[UP]["codes"]}}


@pytest.mark.parametrize("swapped", [False, True], ids=["record", "baseline"])
@pytest.mark.parametrize(
    ("digests", "counts"),
    [
        pytest.param({}, [2, 2, 2], id="all"),
        pytest.param(ONE_LOST, [1, 1, 1], id="one-module"),
        pytest.param(HALF_LOST, [1, 1], id="scales-and-operands-of-one-module"),
    ],
)
def test_a_replaced_module_without_a_digest_fails(
    make_record: MakeRecord, digests: dict[str, Any], counts: list[int], swapped: bool
) -> None:
    pair = (make_record(digests=digests), make_record())
    verdict = judge(*(reversed(pair) if swapped else pair), WIDE)
    assert verdict.failed_steps == (4,)
    for check, count in zip(verdict.failures, counts, strict=True):
        assert f"changed bits in {count} of 2 modules" in check.message
        assert f"({'now' if swapped else 'then'} only)" in check.message


def test_a_whole_model_stage_without_a_digest_fails(make_record: MakeRecord) -> None:
    whole = make_record(replaced={}, digests={"parameters": ONE_LOST[UP]})
    lost = make_record(replaced={}, digests={})
    assert judge(whole, whole, WIDE).passed
    assert judge(lost, whole, WIDE).failed_steps == (4,)


@pytest.mark.parametrize("swapped", [False, True], ids=["lost", "added"])
def test_a_module_lost_or_added_with_its_digests_is_of_step_3_alone(
    make_record: MakeRecord, swapped: bool
) -> None:
    pair = (make_record(replaced={UP: "mlp"}, digests=ONE_LOST), make_record())
    assert judge(*(reversed(pair) if swapped else pair), WIDE).failed_steps == (3,)


# Step 5: bounds


def test_rise_by_hand(make_record: MakeRecord) -> None:
    record = make_record(reference_losses=[1.0, 1.0, 1.0, 1.0], sequence_losses=[2.0, 3.0, 4.0, 5.0])
    error = math.sqrt(5 / 12)
    assert rise(record) == pytest.approx((2.5, error, 2.5 + 1.6448536269514722 * error), rel=1e-12)


@pytest.mark.parametrize(
    ("bounds", "failed"),
    [
        pytest.param(Bounds(kl=0.001, rise=2.0), 0, id="kl-at-bound"),
        pytest.param(Bounds(kl=math.nextafter(0.001, 0), rise=2.0), 1, id="kl-beyond"),
        pytest.param(Bounds(kl=1.0, rise=1.4), 1, id="mean-within-upper-bound-beyond"),
        pytest.param(Bounds(kl=1.0, rise=1.7), 0, id="upper-bound-within"),
    ],
)
def test_the_upper_bound_is_held_not_the_mean(make_record: MakeRecord, bounds: Bounds, failed: int) -> None:
    # rises 0.5, 1.5, 0.5, 1.5: mean 1, error 0.5 * sqrt(4 / 3) / 2 = 0.2887, upper 95 % bound 1.4748
    record = make_record(sequence_losses=moved(REFERENCE, 0.5, 1.5, 0.5, 1.5))
    assert len(judge(record, None, bounds).failures) == failed


@pytest.mark.parametrize(("allowed", "passes"), [(0.011, True), (0.009, False)], ids=["within", "beyond"])
def test_a_single_sequence_is_held_by_its_rise(make_record: MakeRecord, allowed: float, passes: bool) -> None:
    record = make_record(
        reference_losses=[2.0], reference_entropies=[2.0], sequence_losses=[2.01], sequence_kl=[0.001]
    )
    assert judge(record, None, Bounds(kl=1.0, rise=allowed)).passed is passes


def test_a_gain_is_within_any_bounds(make_record: MakeRecord) -> None:
    record = make_record(sequence_losses=moved(REFERENCE, -0.1, -0.1, -0.2, -0.1))
    assert judge(record, None, Bounds(kl=1.0, rise=0.0)).passed


@pytest.mark.parametrize("value", [math.nan, math.inf], ids=["nan", "inf"])
@pytest.mark.parametrize(
    ("field", "values", "failed"),
    [
        pytest.param("sequence_losses", LOSSES, (5, 6), id="losses"),
        pytest.param("reference_losses", REFERENCE, (2, 5), id="reference"),
    ],
)
def test_losses_that_are_no_numbers_fail(
    make_record: MakeRecord, field: str, values: list[float], failed: tuple[int, ...], value: float
) -> None:
    verdict = judge(make_record(**{field: [value, *values[1:]]}), make_record(), WIDE)
    assert verdict.failed_steps == failed


def test_a_kl_that_is_no_number_fails(make_record: MakeRecord) -> None:
    assert judge(make_record(kl=math.nan), None, WIDE).failed_steps == (5,)


# Step 6: drift. Its bounds are the matter of test_drift.py.


def test_the_message_of_a_drift_has_all_three_statistics(make_record: MakeRecord) -> None:
    record = make_record(sequence_losses=moved(LOSSES, 0.003, -0.004, 0, 0))
    (check,) = judge(record, make_record(), WIDE).failures
    assert check.message == (
        "losses moved by sequence: median 1.50e-03 (bound 1.00e-09), rms 2.50e-03 (bound 1.00e-09), "
        "max 4.00e-03 (bound 1.00e-09)"
    )


# Without a baseline


def steps(verdict: Verdict) -> set[int]:
    return {check.step for check in verdict.checks}


def test_without_a_baseline_only_steps_2_to_5_are_made(make_record: MakeRecord) -> None:
    verdict = judge(make_record(), None, WIDE)
    assert [check.step for check in verdict.checks] == [2, 3, 4, 5, 5]
    assert verdict.passed


@pytest.mark.parametrize(
    ("changes", "bounds", "step"),
    [
        pytest.param(
            {"reference_entropies": moved(REFERENCE, 0.1, 0.11, 0.1, 0.11)}, WIDE, 2, id="reference"
        ),
        pytest.param({"bit_equal": True}, WIDE, 3, id="conversion"),
        pytest.param({}, Bounds(kl=0.0, rise=1.0), 5, id="kl"),
        pytest.param({}, Bounds(kl=1.0, rise=0.0), 5, id="rise"),
    ],
)
def test_without_a_baseline_faults_still_show(
    make_record: MakeRecord, changes: dict[str, Any], bounds: Bounds, step: int
) -> None:
    verdict = judge(make_record(**changes), None, bounds)
    assert [check.step for check in verdict.failures] == [step]
