"""The kernel of a model run: what it is asked before a model is converted by it, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import own_casts
import pytest
import torch

from mxcheck.conformance import cell_run
from mxcheck.formats.spec import CastSpec
from mxcheck.gate.case import Case
from mxcheck.gate.kernel_cells import EXACT, KNOWN, LAST_BIT, NOT_COMPARED, NOT_COUNTED, RED, SILENT
from mxcheck.kernels.api import resolve_kernel
from mxcheck.kernels.domain import NotSupported, domain
from mxcheck.kernels.eager import fake_quantize_eager, quantize_eager
from mxcheck.kernels.registry import implementation
from mxcheck.measure.kernel_asked import KernelCells, cells_of
from mxcheck.measure.measure_case import measure_case
from mxcheck.measure.model_session import ModelSession
from mxcheck.models.recipes.recipe import Recipe, recipe
from mxcheck.run.measurement_settings import Measuring

pytestmark = pytest.mark.slow

E4M3 = "mxfp8_e4m3-floor"


def asked(kernel: str, precision: str = "fp8_e4m3", **options: Any) -> dict[str, tuple[str, str]]:
    """The verdict and the words of each cell of a recipe in tier A."""
    found = KernelCells().of(recipe(precision, tier="A", kernel=kernel, **options), "cpu", lambda _: None)
    return {name: (one.verdict, one.words) for name, one in found.items()}


def here(function: Any) -> str:
    return f"{__name__}:{function.__name__}"


def inf_is_saturated(x: torch.Tensor, spec: CastSpec) -> Any:
    """Ours, but for blocks with an Inf, which OCP leaves open: there its scale is FE."""
    codes, scales = quantize_eager(x, spec)
    return codes, scales.clamp(max=0xFE)


@domain(block_sizes=[64], dtypes=[torch.bfloat16])
def in_blocks_of_64(x: torch.Tensor, spec: CastSpec) -> Any:
    assert spec.block_size == 64
    return quantize_eager(x, spec)


def wrong_in_blocks_of_64(x: torch.Tensor, spec: CastSpec) -> Any:
    codes, scales = quantize_eager(x, spec)
    return codes ^ (spec.block_size == 64), scales


def only_64(x: torch.Tensor, spec: CastSpec) -> Any:
    """It declares nothing."""
    if spec.block_size != 64:
        raise NotSupported("blocks of 64 only")
    return quantize_eager(x, spec)


@pytest.mark.parametrize("kernel", ["auto", "eager"])
def test_our_own_kernel_is_not_asked(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell_run, "run_cell", lambda *_: pytest.fail("nothing was to be asked"))
    assert asked(kernel) == {}


def test_a_recipe_without_casts_asks_nothing() -> None:
    assert list(cells_of(recipe("bf16", kernel=here(only_64)))) == []


def test_each_cell_that_a_recipe_casts_with_is_asked_once() -> None:
    cells, heard = KernelCells(), list[str]()
    mixed = recipe("mixed", tier="C", kernel="own_casts:quantize")
    assert {cell.id for cell, _ in cells_of(mixed)} == {E4M3, "mxfp6_e3m2-floor"}
    first = cells.of(mixed, "cpu", heard.append)
    assert {name: one.verdict for name, one in first.items()} == {
        "mxfp6_e3m2-floor": NOT_COMPARED,
        E4M3: EXACT,
    }
    assert first["mxfp6_e3m2-floor"].words == "my_casts has only mxfp8_e4m3-floor, not fp6_e3m2"
    plain = recipe("mxfp8_e4m3", tier="B", kernel="own_casts:quantize")
    assert cells.of(plain, "cpu", heard.append) == {E4M3: first[E4M3]}
    assert sorted(heard) == ["mxfp6_e3m2-floor", E4M3]


def test_a_rounded_logarithm_is_red_with_the_first_counterexample() -> None:
    plain = recipe("mxfp8_e4m3", tier="A", kernel="own_casts:by_logarithm")
    (found,) = KernelCells().of(plain, "cpu", lambda _: None).values()
    assert found.verdict == RED
    assert found.words == "looks like scale rule `floor_log2` with ties to even; causes: 1 wrong"
    assert found.example[0].startswith("scale (threshold of the scale), ")
    assert found.example[-1].endswith("--kernel own_casts:by_logarithm")


def test_what_ocp_leaves_open_is_not_red() -> None:
    verdict, words = asked(here(inf_is_saturated))[E4M3]
    assert verdict == SILENT
    assert words.startswith("causes: ")
    assert words.endswith("where OCP is silent")


def test_values_in_the_last_bit_and_findings_that_are_known() -> None:
    assert asked("own_casts:nvfp4_values", "nvfp4") == {"nvfp4-amax": (LAST_BIT, "")}
    known = asked("torchao")[E4M3]
    assert known[0] == KNOWN
    assert "torchao-scale-00-divisor" in known[1]


def wrong_carries_of_torchao(x: torch.Tensor, spec: CastSpec) -> Any:
    """torchao's, and one wrong code of large numbers."""
    codes, scales = resolve_kernel("torchao")[0](x, spec)
    return codes ^ (codes == 0x7E).to(torch.uint8), scales


def test_findings_at_a_block_size_at_which_nothing_was_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are told as such, and excuse no group of inputs that showed nothing of the kind."""
    name = f"{E4M3} in blocks of 64"
    verdict, words = asked("torchao", block_size=64)[name]
    assert verdict == NOT_COUNTED
    assert "torchao-scale-00-divisor" in words
    torchao = implementation("torchao")
    monkeypatch.setattr("mxcheck.kernels.registry.implementation", lambda _: torchao)
    assert asked(here(wrong_carries_of_torchao), block_size=64)[name][0] == RED


def test_other_blocks_are_asked_for_as_the_recipe_has_them() -> None:
    for kernel in (in_blocks_of_64, only_64):
        assert asked(here(kernel), block_size=64) == {f"{E4M3} in blocks of 64": (EXACT, "")}
    name = f"{E4M3} in blocks of 64"
    assert asked(here(wrong_in_blocks_of_64), block_size=64)[name][0] == RED
    assert asked(here(wrong_in_blocks_of_64))[E4M3] == (EXACT, "")
    assert asked(here(only_64)) == {E4M3: (NOT_COMPARED, "blocks of 64 only")}


def test_the_recipe_of_a_user_is_asked_too() -> None:
    plain = recipe("mxfp8_e4m3", tier="A")
    own = Recipe(precision="mine", roles=plain.roles, kernel="own_casts:quantize")
    assert [cell.id for cell, _ in cells_of(own)] == [E4M3]
    assert own_casts.quantize.__module__ == "own_casts"


def values(x: torch.Tensor, spec: CastSpec) -> Any:
    return fake_quantize_eager(x, spec)


def test_a_case_cast_by_values_is_the_case_cast_by_codes() -> None:
    """Weights, activations, attention and results: digests, bytes and counts."""
    case = Case(model="ref-llama", precision="mxfp4_e2m1", tier="B", options=("attention", "outputs"))
    found = []
    for kernel in ("eager", here(values)):
        made = recipe("mxfp4_e2m1", tier="B", attention=True, outputs=True, kernel=kernel)
        with ModelSession(Measuring(max_samples=2, sequence_length=32, recipes={case: made})) as session:
            session.live = True  # or a check would measure once more
            found.append(measure_case(session, case))
    codes, by_values = found
    assert (codes.kernel_cells, [*by_values.kernel_cells]) == ({}, ["mxfp4_e2m1-floor"])
    assert by_values.kernel_cells["mxfp4_e2m1-floor"].verdict == EXACT
    assert by_values.environment["kernel"] == here(values)
    assert by_values.unsteady == {}
    assert replace(by_values, kernel_cells={}, environment=codes.environment) == codes


def short_of_memory(x: torch.Tensor, spec: CastSpec) -> Any:
    if x.numel() > 10_000:
        raise MemoryError("no room")
    return quantize_eager(x, spec)


def test_where_memory_runs_out_that_is_no_fault_of_the_kernel() -> None:
    with pytest.raises(MemoryError, match="no room"):
        asked(here(short_of_memory))
