"""What this repository has accepted: the whole matrix, and what outliers do to it.

The orderings of steps are asserted by the model suite: `mxcheck.suite.models.test_orderings`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from mxcheck.gate.baseline import read
from mxcheck.gate.bounds_tables import load_bounds
from mxcheck.gate.case import Case, case_of
from mxcheck.gate.detectable import detectable
from mxcheck.gate.drift import drift
from mxcheck.gate.record import OPTIONAL, Record
from mxcheck.gate.statistics import differences, rms
from mxcheck.gate.verdict import judge
from mxcheck.models.recipes.ladder import LADDER, ROUNDED_UP, TIERS, with_tiers
from mxcheck.models.zoo.known_models import REFERENCE_MODELS
from mxcheck.run.default_gate import FEW_PRECISIONS, WHOLE_LADDER

BASELINES = Path(__file__).parents[3] / "baselines"
#: The MLP of a mixture of experts has no linear module that a library could take.
NO_LINEAR_MLP = ("bnb_int8", "scaled_mm_fp8", "scaled_mm_fp8_row")
#: Everything that runs on a CPU: Transformer Engine does not.
MATRIX = [
    Case(model=model, precision=precision, tier=tier)
    for model in WHOLE_LADDER
    for precision, tier in with_tiers()
    if LADDER[precision].group != "te"
    and not (model == "ref-moe" and tier == "A" and precision in NO_LINEAR_MLP)
] + [
    Case(model=model, precision=precision, tier="B", options=("rceil",))
    for model in WHOLE_LADDER
    for precision in ROUNDED_UP
]

#: What the default gate has besides: few cases of some models, options on one model each.
FEW_MATRIX = [
    *(
        Case(model=model, precision=precision, tier=tier)
        for model, names_of_it in FEW_PRECISIONS.items()
        for precision, tier in names_of_it
    ),
    case_of("ref-neo", "mxfp8_e4m3-B+outputs"),
    case_of("wide-gpt2", "mxfp8_e4m3-B+attention"),
]

#: The real model (`make gate-real`): all of the default ladder on its text, some of it on two others.
REAL = "smollm2-135m-instruct-q4"
FEW = ("bf16", "mxfp8_e4m3-B", "mxfp8_e4m3-B+rceil", "mxfp4_e2m1-B", "mxfp4_e2m1-B+rceil", "mxint8-B")
REAL_MATRIX = [
    *(
        replace(case, model=REAL)
        for case in MATRIX
        if case.model == "ref-llama" and case.precision != "mixed"
    ),
    *(case_of(f"{REAL}-long", case_name) for case_name in FEW),
    *(case_of(REAL, f"{case_name}+prose+length256") for case_name in FEW),
]

each_tier = pytest.mark.parametrize("tier", list(TIERS))


@cache
def accepted(case: Case) -> Record:
    return read(BASELINES / case.baseline)


def kl(model: str, precision: str, tier: str) -> float:
    return accepted(Case(model=model, precision=precision, tier=tier)).exact_kl[0]


def test_the_matrix_is_accepted_and_nothing_else() -> None:
    assert len(MATRIX) == 5 * 37 - 3
    files = {path.relative_to(BASELINES) for path in BASELINES.rglob("*") if path.is_file()}
    others = {
        Path(model) / name
        for model in (REAL, f"{REAL}-long")
        for name in ("bounds.toml", "tokens.safetensors")
    }
    others |= {Path(model) / "bounds.toml" for model in FEW_PRECISIONS}
    for model in (*REFERENCE_MODELS, REAL, f"{REAL}-long"):
        precision = "fp32" if model in FEW_PRECISIONS else "bf16"
        weights = accepted(Case(model=model, precision=precision)).fingerprints["weights"]
        others.add(Path(model) / f"states-{weights[:8]}.safetensors")
    assert files == {case.baseline for case in (*MATRIX, *FEW_MATRIX, *REAL_MATRIX)} | others


@pytest.mark.parametrize("case", REAL_MATRIX, ids=lambda case: case.id)
def test_each_of_the_real_model_is_within_its_own_bounds(case: Case) -> None:
    record = accepted(case)
    assert record.id == case.id
    bounds = load_bounds(baselines=BASELINES).of(case)
    assert bounds.own
    assert judge(record, record, bounds).passed


@pytest.mark.parametrize("case", MATRIX, ids=lambda case: case.id)
def test_each_has_every_figure(case: Case) -> None:
    record = accepted(case)
    assert [name for name in OPTIONAL if getattr(record, name) is None] == []
    assert "states" in record.fingerprints
    assert record.noise is not None
    assert record.noise.sublayers is not None


@pytest.mark.parametrize("case", MATRIX, ids=lambda case: case.id)
def test_each_is_of_its_case_and_within_bounds(case: Case) -> None:
    record = accepted(case)
    assert record.id == case.id
    assert record.noise is not None
    # Format 4 was accepted where there is no AVX-512: what a machine that has it knew of noise is kept.
    # Rows under `rceil` and long-llama came later, and were accepted where there is.
    here = case.options != () or case.model == "long-llama"
    earlier = [] if here else ["accepted before on AVX512"]
    # There oneDNN's int8 products are right at their own instruction set alone (`measure/measured_noise.py`).
    others = ["onednn-as-it-is"] if here and case.precision == "bnb_int8" else ["avx2", "default"]
    assert record.noise.environments == [*others, *earlier]
    verdict = judge(record, record, load_bounds().of(case))
    assert verdict.passed, verdict.failures


@pytest.mark.parametrize("case", FEW_MATRIX, ids=lambda case: case.id)
def test_what_the_gate_has_besides_is_within_bounds(case: Case) -> None:
    record = accepted(case)
    assert record.id == case.id
    assert record.noise is not None
    assert record.noise.environments == ["avx2", "default"]
    verdict = judge(record, record, load_bounds(baselines=BASELINES).of(case))
    assert verdict.passed, verdict.failures


@pytest.mark.parametrize("case", MATRIX, ids=lambda case: case.id)
def test_a_change_of_all_sequences_alike_is_seen_from_the_narrowest_bound_on(case: Case) -> None:
    """The median's, but for the four sequences of long-llama."""
    record = accepted(case)
    seen = detectable(record, load_bounds().of(case))
    for quantity, said in (("loss", seen.loss_median_elsewhere), ("kl", seen.kl_median_elsewhere)):
        found = drift(replace(record, arithmetic="another"), record, quantity)
        assert said == min(found.median_bound, found.rms_bound, found.max_bound)
        assert said == found.median_bound or case.model == "long-llama"


@pytest.mark.parametrize("model", WHOLE_LADDER)
def test_fp32_is_the_reference_itself(model: str) -> None:
    record = accepted(Case(model=model, precision="fp32"))
    assert record.bit_equal
    assert record.sequence_kl == [0.0] * (4 if model == "long-llama" else 64)
    assert record.sequence_losses == record.reference_losses


@each_tier
@pytest.mark.parametrize("precision", ["mxint8", "fp6_e2m3", "fp4_e2m1"])
def test_outliers_ruin_formats_with_few_exponent_bits(precision: str, tier: str) -> None:
    """Their neighbours lose four bits of 16-fold outliers; three times the damage is the least to expect."""
    assert kl("outlier-llama", precision, tier) > 3 * kl("ref-llama", precision, tier)


@each_tier
@pytest.mark.parametrize("precision", ["fp8_e4m3", "fp8_e5m2", "fp6_e3m2"])
def test_outliers_hardly_touch_formats_with_exponent_bits(precision: str, tier: str) -> None:
    assert kl("outlier-llama", precision, tier) < 1.1 * kl("ref-llama", precision, tier)


@pytest.mark.parametrize("model", ["ref-llama", "ref-neo", "outlier-llama"])
def test_a_real_fp8_product_gives_what_its_emulation_gives(model: str) -> None:
    """The same casts, the products added up otherwise: no more apart than by other arithmetic, as it was
    measured. (Of the mixture of experts the library leaves the experts.)"""
    emulated, real = (
        accepted(Case(model=model, precision=precision, tier="B"))
        for precision in ("fp8_tensor_e4m3", "scaled_mm_fp8")
    )
    apart = rms(differences(real.sequence_losses, emulated.sequence_losses))
    assert emulated.noise is not None
    assert apart <= emulated.noise.loss_rms


@pytest.mark.parametrize("case", MATRIX, ids=lambda case: case.id)
def test_weights_are_as_large_as_the_recipe_makes_them(case: Case) -> None:
    record = accepted(case)
    assert record.original_bytes == accepted(Case(model=case.model, precision="fp32")).weight_bytes
    if case.precision == "bf16":
        assert 2 * record.weight_bytes == record.original_bytes
    elif case.precision != "fp32":
        assert record.weight_bytes < record.original_bytes
