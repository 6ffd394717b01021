"""Which conversions keep their quantized weights, and that no record depends on it."""

from dataclasses import replace

import pytest
import torch
from architectures import tiny

import mxcheck
from mxcheck.gate.case import Case
from mxcheck.gate.record import Record
from mxcheck.measure import memory_choice
from mxcheck.measure.measure_case import measure_case
from mxcheck.measure.memory_choice import free_bytes, memory_of
from mxcheck.measure.model_session import ModelSession
from mxcheck.models.conversion.convert import convert
from mxcheck.models.conversion.linear import ConvertedLinear
from mxcheck.models.recipes.ladder import LADDER, with_tiers
from mxcheck.models.recipes.recipe import recipe
from mxcheck.run.measurement_settings import Measuring

OURS = [(name, tier) for name, tier in with_tiers() if LADDER[name].library is None]


@pytest.mark.parametrize("precision", ["mxfp8_e4m3", "nvfp4", "bf16_operands"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_auto_keeps_what_fits_in_half_of_what_is_free(
    precision: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("mixtral-8x7b").to(dtype)
    made = recipe(precision, tier="B")
    conversion = convert(model, made)
    copied = sum(
        value.nbytes
        for one in conversion.modules.values()
        if isinstance(one, ConvertedLinear)
        for value in (*one._quantized.values(), *(elements for elements, _ in one._unscaled.values()))
    )
    conversion.undo()
    for free, expected in ((2 * copied, "kept"), (2 * copied - 1, "lean")):
        monkeypatch.setattr(memory_choice, "free_bytes", lambda _, free=free: free)
        assert memory_of("auto", model, made) == expected
        assert memory_of("kept", model, made) == "kept"
        assert memory_of("lean", model, made) == "lean"


@pytest.mark.parametrize(("free", "expected"), [(2**40, "kept"), (0, "lean")])
def test_the_public_conversion_chooses_too(free: int, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_choice, "free_bytes", lambda _: free)
    model, made = tiny("llama-3.1-8b"), recipe("mxfp8_e4m3", tier="B")
    conversion = mxcheck.convert(model, made, memory="auto")
    assert conversion.memory == expected
    with pytest.raises(ValueError, match="the model is converted already"):
        mxcheck.convert(model, made, memory="auto")
    conversion.undo()
    assert mxcheck.convert(model, made).memory == "kept"


def test_the_public_conversion_says_what_it_takes() -> None:
    with pytest.raises(
        ValueError, match=r"^unknown memory 'Auto'; allowed: auto, kept, lean; did you mean 'auto'"
    ):
        mxcheck.convert(tiny("llama-3.1-8b"), recipe("mxfp8_e4m3", tier="B"), memory="Auto")


def test_the_host_has_free_memory() -> None:
    assert 2**20 < free_bytes(torch.device("cpu")) < 2**50


def measured(model: str, precision: str, tier: str | None, *, memory: str) -> Record:
    with ModelSession(Measuring(memory=memory, max_samples=2)) as session:
        return measure_case(session, Case(model=model, precision=precision, tier=tier))


@pytest.mark.parametrize(("precision", "tier"), OURS)
def test_lean_and_kept_give_the_same_record(precision: str, tier: str | None) -> None:
    model = "ref-moe" if tier == "A" else "ref-neo"
    kept, lean = (measured(model, precision, tier, memory=memory) for memory in ("kept", "lean"))
    which = {} if LADDER[precision].operand is None and precision != "mixed" else {"memory": "lean"}
    assert "memory" not in kept.environment
    assert lean == replace(kept, environment=kept.environment | which)
