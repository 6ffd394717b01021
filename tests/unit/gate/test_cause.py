"""The table of causes: every row has an example here that it answers, and the document has every row."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sample_record import COUNTS, ERROR, PREDICTIONS, UP, Q, build_digests, build_full_record, build_record

from mxcheck.gate.absolute_checks import Absolute, absolute_checks
from mxcheck.gate.bounds_tables import Bounds
from mxcheck.gate.cause import LINKS, ROWS, Row, cause, symptoms
from mxcheck.gate.check import check
from mxcheck.gate.held_casts import KERNEL_OPERANDS
from mxcheck.gate.kernel_cells import KernelCell
from mxcheck.gate.orderings import Standing
from mxcheck.gate.record import Record
from mxcheck.gate.sublayer_drift import FIGURES
from mxcheck.gate.verdict import judge

DOCUMENT = Path(__file__).parents[3] / "docs" / "causes.md"
WIDE = Bounds(kl=1.0, rise=1.0)
TIGHT = Bounds(kl=0.0005, rise=1.0)
SAME = build_record()
FULL = build_full_record(
    metrics={"own": [1.0] * 4}, fingerprints={**SAME.fingerprints, "documents": "d", "states": "s"}
)

RIGHT_KERNEL = {"mxfp8_e4m3-floor": KernelCell(verdict="exact")}
WRONG_KERNEL = {
    "mxfp8_e4m3-floor": KernelCell(verdict="red", words="causes: 1 wrong", example=("code: ...",))
}
LIBRARY = {"precision": "bnb_int8", "tier": "B", "library": {"name": "bitsandbytes"}}


def fingerprints(**changes: str) -> dict[str, str]:
    return {**SAME.fingerprints, **changes}


def environment(**changes: str) -> dict[str, str]:
    return {**SAME.environment, **changes}


def shifted(values: list[float], change: float) -> list[float]:
    return [value + change for value in values]


MOVED: dict[str, Any] = {"reference_losses": shifted(SAME.reference_losses, 0.001)}
SAMPLES: dict[str, Any] = {"reference_entropies": shifted(SAME.reference_losses, 0.5)}
LOSSES: dict[str, Any] = {"sequence_losses": shifted(SAME.sequence_losses, 0.1)}
DISTANCE: dict[str, Any] = {"sequence_kl": shifted(SAME.sequence_kl, 0.1)}
ELSEWHERE: dict[str, Any] = {"arithmetic": "0" * 64}
TORCH: dict[str, Any] = {"environment": environment(torch="2.10.0")}
BY_LIBRARY: dict[str, Any] = {"precision": "bnb_int8", "recipe": LIBRARY}
RELEASE: dict[str, Any] = {"environment": environment(bitsandbytes="0.50.0")}
RENAMED: dict[str, Any] = {"environment": environment(transformers="6.0.0")}
WHOLE: dict[str, Any] = {"replaced": {}, "digests": {"parameters": build_digests()[UP]}}


def example(
    now: dict[str, Any], then: dict[str, Any] | None = None, bounds: Bounds = WIDE, *, new: bool = False
) -> tuple[Record, Record | None, Bounds]:
    """A record, its baseline (`then` is what both have that the sample has not) and its bounds."""
    both = then or {}
    return build_record(**{**both, **now}), None if new else build_record(**both), bounds


def full(**now: Any) -> tuple[Record, Record | None, Bounds]:
    """The same for records that have every figure."""
    return replace(FULL, noise=None, **now), FULL, WIDE


def layer(**changes: float) -> dict[str, Any]:
    """All places' errors, with these figures."""
    assert FULL.sublayers is not None
    return {"sublayers": dict.fromkeys(FULL.sublayers, replace(ERROR, **changes))}


def predicted(**changes: Any) -> dict[str, Any]:
    return {"predictions": replace(PREDICTIONS, **changes)}


def counted() -> dict[str, Any]:
    assert FULL.counters is not None
    other = {Q: {"activations": replace(COUNTS, saturated=3200)}}
    return {"counters": replace(FULL.counters, operands={**FULL.counters.operands, **other})}


CONTRADICTING = replace(FULL, **predicted(sequence_k3=[0.5] * 4))

#: By link and `when` of the row, in the order of the table: what makes it the answer.
EXAMPLES: dict[tuple[str, str], tuple[Record, Record | None, Bounds]] = {
    ("gate", "another id, case"): example({"model": "ref-neo"}),
    ("conversion", "case"): example({"recipe": {**SAME.recipe, "tail": "error"}}),
    ("environment", "other transformers, reference exact, weights"): example(
        {"fingerprints": fingerprints(weights="x"), **RENAMED}
    ),
    ("weights", "tokenizer, weights"): example(
        {"fingerprints": fingerprints(weights="x", tokenizer="x", tokens="x"), **MOVED}
    ),
    ("weights", "other size, weights"): example(
        {"fingerprints": fingerprints(weights="x"), "original_bytes": 65_536, **MOVED}
    ),
    ("weights", "reference exact, weights"): example({"fingerprints": fingerprints(weights="x")}),
    ("weights", "weights"): example(
        {
            "fingerprints": fingerprints(weights="x"),
            "digests": build_digests(up="codes scales operands"),
            **MOVED,
            **LOSSES,
        }
    ),
    ("tokenizer", "tokenizer"): example({"fingerprints": fingerprints(tokenizer="x", tokens="x"), **MOVED}),
    ("tokens", "corpus"): example(
        {"corpus": {"used": "wikitext"}, "fingerprints": fingerprints(tokens="x"), **MOVED}
    ),
    ("tokens", "documents"): example(
        {"fingerprints": fingerprints(documents="x", tokens="x"), **MOVED},
        {"fingerprints": fingerprints(documents="d")},
    ),
    ("tokens", "tokens"): example({"fingerprints": fingerprints(tokens="x"), **MOVED, **LOSSES}),
    ("reference", "other count"): example(
        {
            "reference_losses": SAME.reference_losses[:3],
            "reference_entropies": SAME.reference_entropies[:3],
            "sequence_losses": SAME.sequence_losses[:3],
        }
    ),
    ("environment", "other versions, reference"): example({**MOVED, **TORCH, **ELSEWHERE}),
    # On another machine too: arithmetic does not make a loss differ from an entropy that it should equal.
    ("reference", "own samples, reference"): example({**MOVED, **SAMPLES, **ELSEWHERE}),
    ("environment", "other products, reference"): example({**MOVED, **ELSEWHERE}),
    ("reference", "reference"): example({**MOVED, **LOSSES}),
    ("reference", "no baseline, own samples"): example(SAMPLES, new=True),
    ("reference", "own samples"): example(SAMPLES),
    ("reference", "reference entropies"): example({"reference_entropies": [2.0101, 2.08, 1.92, 2.04]}),
    ("conversion", "bits, changes bits"): example(
        {"bit_equal": True, "digests": build_digests(up="operands", q="operands"), **LOSSES}
    ),
    ("conversion", "bits"): example({"bit_equal": False}, {"changes_bits": False, "bit_equal": True}),
    ("environment", "modules, other library"): example({"replaced": {UP: "mlp"}, **RELEASE}, BY_LIBRARY),
    ("conversion", "modules"): example({"replaced": {UP: "mlp"}, **LOSSES}),
    ("environment", "casts, other library"): example(
        {"digests": build_digests(up="codes"), **RELEASE}, BY_LIBRARY
    ),
    ("numerics", "casts, library"): example({"digests": build_digests(up="operands")}, BY_LIBRARY),
    ("numerics", "kernel"): example({"kernel_cells": WRONG_KERNEL, "digests": build_digests(up="codes")}),
    ("numerics", "kernel operands"): (replace(SAME, digests=build_digests(up="codes")), SAME, WIDE),
    ("numerics", "casts, other kernel"): example(
        {
            "digests": build_digests(up="codes scales operands"),
            "environment": environment(kernel="mine.casts:f"),
        },
        {"environment": environment(kernel="eager")},
    ),
    ("conversion", "casts, whole model"): example({"digests": {"parameters": build_digests()[Q]}}, WHOLE),
    ("conversion", "cast operands"): example(
        {"digests": build_digests(up="operands", q="operands"), **LOSSES}
    ),
    ("numerics", "oracle"): (SAME, None, None),
    ("numerics", "steady casts"): example({"unsteady": {UP: "row 3 of 32"}, **LOSSES}),
    ("numerics", "cast weight"): example({"digests": build_digests(up="codes", q="scales")}),
    ("numerics", "casts, whole roles"): example(
        {"digests": build_digests(up="codes scales operands"), **LOSSES}
    ),
    ("conversion", "casts"): example(
        {"digests": build_digests(), **LOSSES},
        {
            "replaced": {UP: "mlp", Q: "mlp"},
            "digests": build_digests(up="codes scales operands"),
        },
    ),
    ("conversion", "bytes"): example({"weight_bytes": 1}),
    ("environment", "drift, elsewhere, other versions"): example({**LOSSES, **ELSEWHERE, **TORCH}),
    ("environment", "drift, other library"): example({**DISTANCE, **RELEASE}, BY_LIBRARY),
    ("numerics", "drift, named kernel"): example({"kernel_cells": RIGHT_KERNEL, **LOSSES, **DISTANCE}),
    ("numerics", "elsewhere, losses"): example({**LOSSES, **ELSEWHERE}),
    ("numerics", "losses"): example({**LOSSES, **DISTANCE}),
    ("tokens", "states"): full(
        fingerprints={**FULL.fingerprints, "states": "x"}, **layer(norm=0.03, size=0.4)
    ),
    ("environment", "elsewhere, finer drift, other versions"): full(**layer(norm=0.03), **ELSEWHERE, **TORCH),
    ("environment", "finer drift, other library"): (
        replace(FULL, **BY_LIBRARY, **RELEASE, **layer(norm=0.03)),
        replace(FULL, **BY_LIBRARY),
        WIDE,
    ),
    ("reference", "layers: places"): full(sublayers={"layers.0.mlp": ERROR}),
    ("reference", "layers: size"): full(**layer(norm=0.03, size=0.4)),
    ("numerics", "layers, named kernel"): full(kernel_cells=RIGHT_KERNEL, **layer(norm=0.03)),
    ("numerics", "layers"): full(**layer(norm=0.03), **DISTANCE, **predicted(sequence_entropies=[3.0] * 4)),
    ("numerics", "KL, elsewhere"): example({**DISTANCE, **ELSEWHERE}),
    ("reference", "KL"): example(DISTANCE),
    ("reference", "entropy"): full(**predicted(sequence_entropies=[3.0] * 4)),
    ("reference", "top-1"): full(top1_agreement=0.5),
    ("reference", "k3"): full(**predicted(sequence_k3=[0.0012, 0.0012, 0.0008, 0.0011])),
    ("reference", "predictions"): full(**predicted(probability_change=-0.002)),
    ("numerics", "counts"): full(**counted()),
    ("reference", "estimates"): (CONTRADICTING, CONTRADICTING, WIDE),
    ("gate", "figures"): full(counters=None, absent={"counters": "nobody knows"}),
    ("gate", "metrics"): example({"metrics": {"own": [1.0, 1.0, 1.0, 1.0]}}),
    ("weights", "zeros"): (SAME, None, None),
    ("reference", "causal"): (SAME, None, None),
    ("reference", "uniform"): (SAME, None, None),
    ("bounds", "signs"): (SAME, None, None),
    ("bounds", "reversed"): (SAME, None, None),
    ("gate", "no bounds"): (SAME, SAME, None),
    ("bounds", "no baseline, over bounds"): example({}, bounds=TIGHT, new=True),
    ("bounds", "accepted too, over bounds"): example({}, bounds=TIGHT),
    ("bounds", "over bounds"): (build_record(), build_record(kl=0.0004999), TIGHT),
    ("gate", "smoke check"): (SAME, SAME, WIDE),
    ("gate", "no baseline"): example({}, new=True),
}


#: What a first acceptance finds in the examples of those rows.
FIRST = {
    "zeros": Absolute(zeros=("q",)),
    "causal": Absolute(sees_later=1.0),
    "uniform": Absolute(of_uniform=0.995),
    "oracle": Absolute(wrong={f"weights of {UP}": "1 of 64 values differ"}),
    "signs": Absolute(signed=(1.0,)),
    "reversed": Absolute(),
}


REVERSED = {"reversed": Standing(reversed=("mxfp6_e3m2-B costs more than mxfp4_e2m1-B",))}


def key(row: Row) -> tuple[str, str]:
    return row.link, ", ".join(sorted(row.when))


def title(row: Row) -> str:
    return ": ".join(key(row))


@pytest.mark.parametrize("row", [pytest.param(row, id=title(row)) for row in ROWS])
def test_each_row_is_the_answer_to_its_example(row: Row) -> None:
    record, baseline, bounds = EXAMPLES[key(row)]
    _, symptom = key(row)
    absolute = (
        tuple(absolute_checks(record, FIRST[symptom], REVERSED.get(symptom, Standing())))
        if symptom in FIRST
        else (check("smoke check", False, "a known figure is wrong"),)
        if symptom == "smoke check"
        else (check(KERNEL_OPERANDS, False, "a scale is wrong"),)
        if symptom == KERNEL_OPERANDS
        else ()
    )
    verdict = judge(record, baseline, bounds, absolute)
    seen = symptoms(verdict, record, baseline)
    first = next(one for one in ROWS if one.when <= seen and not one.unless & seen)
    assert first is row, title(first)
    found = cause(verdict, record, baseline)
    assert found.link == row.link
    assert not re.search("[{}]", found.means + found.look)


def test_there_is_no_example_without_a_row() -> None:
    assert list(EXAMPLES) == [key(row) for row in ROWS]


def test_every_link_has_rows() -> None:
    assert {row.link for row in ROWS} == set(LINKS)


#: For each check that can be made, what makes it fail; others may with it.
FAILING: dict[str, tuple[Record, Record | None, Bounds]] = {
    "case": full(model="another"),
    "corpus": full(corpus={"used": "pile"}),
    **{name: full(fingerprints={**FULL.fingerprints, name: "x"}) for name in FULL.fingerprints},
    "own samples": full(**SAMPLES),
    "estimates": full(**predicted(sequence_k3=[0.5] * 4)),
    "reference": full(**MOVED),
    "reference entropies": full(reference_entropies=[2.0101, 2.08, 1.92, 2.04]),
    "bits": full(bit_equal=True),
    "modules": full(replaced={UP: "mlp"}),
    "bytes": full(weight_bytes=1),
    "figures": full(counters=None),
    "kernel": full(kernel_cells=WRONG_KERNEL),
    "steady casts": full(unsteady={UP: "row 3 of 32"}),
    **{f"cast {kind}": full(digests=build_digests(q=kind)) for kind in ("codes", "scales", "operands")},
    "KL bound": (FULL, FULL, TIGHT),
    "rise bound": (FULL, FULL, Bounds(kl=1.0, rise=0.0)),
    "losses": full(**LOSSES),
    "KL": full(**DISTANCE),
    "entropy": full(**predicted(sequence_entropies=[3.0] * 4)),
    "top-1": full(top1_agreement=0.5),
    "k3": full(**predicted(sequence_k3=[0.0012, 0.0012, 0.0008, 0.0011])),
    "predictions": full(**predicted(probability_change=-0.002)),
    "layers: places": full(sublayers={}),
    **{
        f"layers: {name}": full(**layer(**{name: (1, 2, 3, 4) if name == "sketch" else 1.0}))
        for name in FIGURES
    },
    "counts": full(**counted()),
    "metrics": full(metrics={"own": [2.0] * 4}),
}


def test_every_check_is_made_to_fail() -> None:
    right = replace(FULL, kernel_cells=RIGHT_KERNEL)
    assert {check.key for check in judge(right, FULL, WIDE).checks} == FAILING.keys()
    for name, one in FAILING.items():
        assert name in {check.key for check in judge(*one).failures}


@pytest.mark.parametrize("name", FAILING)
@pytest.mark.parametrize("elsewhere", [{}, ELSEWHERE], ids=["here", "elsewhere"])
def test_whatever_fails_has_a_cause(name: str, elsewhere: dict[str, Any]) -> None:
    record, baseline, bounds = FAILING[name]
    record = replace(record, **elsewhere)
    verdict = judge(record, baseline, bounds)
    if name not in {check.key for check in verdict.failures}:
        assert elsewhere, "it fails here"
        assert name in ("metrics", "k3", "predictions", "reference entropies")  # which are not held elsewhere
        return
    assert cause(verdict, record, baseline).link in LINKS


@pytest.mark.parametrize("name", FAILING)
def test_every_check_that_fails_alone_has_a_cause(name: str) -> None:
    """Whatever else is known: there is a row that asks for this check and nothing more."""
    implied = {
        "cast codes": {"cast weight", "casts"},
        "cast scales": {"cast weight", "casts"},
        "cast operands": {"casts"},
        "KL bound": {"over bounds"},
        "rise bound": {"over bounds"},
    }
    known = {name} | implied.get(name, {"layers"} if name.startswith("layers: ") else set())
    assert any(row.when <= known and not row.unless for row in ROWS)


def test_a_green_case_has_none() -> None:
    with pytest.raises(ValueError, match="has no cause: no check failed"):
        cause(judge(SAME, SAME, WIDE), SAME, SAME)


def answer(*parts: Any) -> str:
    record, baseline, bounds = example(*parts)
    found = cause(judge(record, baseline, bounds), record, baseline)
    return f"{found.link}: {found.means}"


def test_what_differs_is_named() -> None:
    assert "libraries differ: torch 2.10.0, accepted with 2.9.0" in answer({**MOVED, **TORCH})
    assert "(capability AVX512, accepted with AVX2)" in answer(
        {**LOSSES, **ELSEWHERE, "environment": environment(capability="AVX512")}
    )
    assert "(nothing that the record names differs)" in answer({**LOSSES, **ELSEWHERE})
    assert "take 65,536 bytes, accepted 131,072" in answer(
        {"fingerprints": fingerprints(weights="x"), "original_bytes": 65_536}
    )
    assert answer({"digests": build_digests(up="codes scales operands")}).endswith("in every module of mlp")


def test_a_version_explains_only_what_it_may() -> None:
    """Another torch is no excuse for other casts of ours, nor for a drift where products are bit-equal."""
    assert answer({"digests": build_digests(up="codes scales operands"), **TORCH}).startswith("numerics")
    assert answer({**LOSSES, **TORCH}).startswith("numerics")
    assert answer({"replaced": {UP: "mlp"}, **RENAMED}).startswith("conversion")


def test_where_losses_moved_finer_figures_change_no_answer() -> None:
    finer = {
        **layer(norm=0.03),
        **counted(),
        **predicted(sequence_entropies=[3.0] * 4),
        "top1_agreement": 0.5,
    }
    for machine in ({}, ELSEWHERE, {**ELSEWHERE, **TORCH}):
        plain, more = (full(**LOSSES, **changes, **machine) for changes in ({}, finer))
        assert cause(judge(*plain), *plain[:2]) == cause(judge(*more), *more[:2])
        assert len(judge(*more).failures) > len(judge(*plain).failures)


@pytest.mark.parametrize("bounds", [TIGHT, Bounds(kl=1.0, rise=0.0001)], ids=["kl", "rise"])
@pytest.mark.parametrize("better", [True, False], ids=["accepted-within", "accepted-over"])
def test_whose_bound_was_broken(bounds: Bounds, better: bool) -> None:
    """Within noise of the accepted figures; only where those were better can it be the noise."""
    tiny = -1e-10 if better else 0.0
    was = replace(SAME, kl=SAME.kl + tiny, sequence_losses=shifted(SAME.sequence_losses, tiny))
    found = cause(judge(SAME, was, bounds), SAME, was)
    assert (found.link, "by no more than noise" in found.means) == ("bounds", better)


def line(row: Row) -> str:
    """The row as the document has it."""
    when = ", ".join(sorted(row.when)) + "".join(f", not {one}" for one in sorted(row.unless))
    plain = [re.sub(r" \(\{\w+\}\)|: \{\w+\}", "", text) for text in (row.means, row.look)]
    plain = [text.replace("{", "*").replace("}", "*") for text in plain]
    return f"| {when} | {row.link} | {plain[0]} | {plain[1]} |"


def test_the_document_has_the_table() -> None:
    rows = [text for text in DOCUMENT.read_text().splitlines() if text.startswith("| ")]
    assert rows[1:] == [line(row) for row in ROWS]
