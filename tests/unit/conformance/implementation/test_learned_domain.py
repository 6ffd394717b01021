"""What is learned of kernels that declare nothing: from what they raise, and what they do not look at."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from wrong_casts import FAULTS

from mxcheck.conformance.cases.cells import cells
from mxcheck.conformance.cell_run import run_cell
from mxcheck.conformance.implementation.disregarded import disregarded
from mxcheck.conformance.implementation.learned_domain import learned_domain
from mxcheck.conformance.verify.conditions import Condition
from mxcheck.formats.spec import CastSpec
from mxcheck.kernels.domain import Domain, NotSupported, domain
from mxcheck.kernels.eager import fake_quantize_eager, quantize_eager

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[4]
Cast = Callable[[Tensor, CastSpec], Any]
CELLS = {cell.id: cell for cell in cells("full")}
FLOOR = CELLS["mxfp8_e4m3-floor"]


def dying(made_for: Domain, *, wrong: bool = False) -> Cast:
    """A cast that raises outside of a domain, and says so nowhere."""

    def cast(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        assert not made_for.refuses(x, spec), "no such tile"
        codes, *others = quantize_eager(x, spec)
        return (codes ^ 1 if wrong else codes, *others)

    return cast


@pytest.mark.parametrize(
    "made_for",
    [
        Domain(dtypes=(torch.bfloat16,)),
        Domain(rows_multiple=128, columns_multiple=128, ranks=(2,), contiguous=True, axes=(-1,)),
        Domain(least_rows=16),
        Domain(scale_rules=("floor",), block_sizes=(32,), axes=(-1,), ragged=False),
    ],
    ids=lambda one: one.words,
)
def test_a_right_kernel_is_exact_with_no_refusal_written(made_for: Domain) -> None:
    right = run_cell(dying(made_for), FLOOR, "quick")
    assert (right.counts, right.unsupported) == ({}, {})
    assert right.elements > 1 << 18
    assert right.learned
    assert all("AssertionError: no such tile" in why for why in right.learned)
    assert run_cell(dying(made_for, wrong=True), FLOOR, "quick").counts


def skips_fp32(x: Tensor, spec: CastSpec) -> Any:
    if x.dtype == torch.float32:
        pytest.skip("hidden")
    return quantize_eager(x, spec)


def lacks_an_operation(x: Tensor, spec: CastSpec) -> Any:
    if x.dtype == torch.float32:
        x.to(torch.float8_e4m3fn).max()  # torch's NotImplementedError
    return quantize_eager(x, spec)


def slips_at_one_row(x: Tensor, spec: CastSpec) -> Any:
    codes, scales = quantize_eager(x, spec)
    if x.shape[0] == 1 and x.dim() == 2:
        scales[1]
    return codes, scales


def fails_at_first() -> Cast:
    calls = [0]

    def cast(x: Tensor, spec: CastSpec) -> Any:
        calls[0] += 1
        if calls[0] < 40:
            torch.zeros(1).view(7)  # whatever happens in a library
        return quantize_eager(x, spec)

    return cast


@pytest.mark.parametrize(
    "kernel",
    [skips_fp32, lacks_an_operation, slips_at_one_row, fails_at_first()],
    ids=["skip", "operation", "index", "at first"],
)
def test_an_error_that_is_not_its_own_word_is_an_error(kernel: Cast) -> None:
    result = run_cell(kernel, FLOOR, "quick")
    assert "error" in {kind for kinds in result.counts.values() for kind in kinds}


def of_three_dimensions(x: Tensor, spec: CastSpec) -> Any:
    batch, tokens, _ = x.shape
    assert batch * tokens
    return quantize_eager(x, spec)


def of_two_dimensions(x: Tensor, spec: CastSpec) -> Any:
    rows, _ = x.shape
    assert rows
    return quantize_eager(x, spec)


def of_one_dimension(x: Tensor, spec: CastSpec) -> Any:
    if x.dim() > 1:
        raise ValueError("one row at a time")
    return quantize_eager(x, spec)


def of_memory_in_one_piece(x: Tensor, spec: CastSpec) -> Any:
    return quantize_eager(x.view(-1).view(x.shape), spec)


@pytest.mark.parametrize(
    ("kernel", "limit", "cell"),
    [
        (of_three_dimensions, "ranks 3", "mxfp8_e4m3-floor"),
        (of_three_dimensions, "ranks 3", "nvfp4-amax"),
        (of_two_dimensions, "ranks 2", "mxfp8_e4m3-floor"),
        (of_two_dimensions, "ranks 2", "e4m3_row-amax"),
        (of_one_dimension, "ranks 1", "nvfp4-amax"),
        (of_one_dimension, "ranks 1", "mxint8-floor-stochastic"),
        (of_memory_in_one_piece, "contiguous True", "e4m3_row-amax"),
        (of_memory_in_one_piece, "contiguous True", "mxint8-floor-stochastic"),
    ],
)
def test_what_only_a_call_tells_is_learned(kernel: Cast, limit: str, cell: str) -> None:
    result = run_cell(kernel, CELLS[cell], "quick")
    assert (result.counts, result.unsupported) == ({}, {})
    assert limit in result.domain
    assert result.elements > 1 << 14


def one_row_or_tiles(x: Tensor, spec: CastSpec) -> Any:
    rows = x.numel() // x.shape[spec.axis]
    assert rows == 1 or rows % 128 == 0, "one row, or tiles of 128"
    codes, scales = quantize_eager(x, spec)
    return codes, torch.zeros_like(scales) if rows == 1 else scales


def wrong_in_its_tails(x: Tensor, spec: CastSpec) -> Any:
    columns = x.shape[spec.axis]
    assert columns % 8 == 0, "words of 16 bytes"
    codes, scales = quantize_eager(x, spec)
    return codes ^ (columns % 32 != 0), scales


@pytest.mark.parametrize("kernel", [one_row_or_tiles, wrong_in_its_tails])
def test_what_it_does_besides_is_asked_too(kernel: Cast) -> None:
    assert run_cell(kernel, FLOOR, "quick").counts


def of_the_axis_minus_one(x: Tensor, spec: CastSpec) -> Any:
    assert spec.axis == -1, "dim must be -1"
    return quantize_eager(x, spec)


def test_an_axis_is_named_as_the_kernel_names_it() -> None:
    for kernel in (of_the_axis_minus_one, domain(axes=[-1])(lambda x, spec: of_the_axis_minus_one(x, spec))):
        result = run_cell(kernel, FLOOR, "quick")
        assert (result.counts, result.unsupported) == ({}, {})


def overlooks_in_tiles(field: str, value: Any) -> Cast:
    def cast(x: Tensor, spec: CastSpec) -> Any:
        tiles = x.dim() == 2 and x.shape[0] % 64 == 0 and x.shape[1] % 128 == 0
        return quantize_eager(x, replace(spec, **{field: value}) if tiles else spec)

    return cast


@pytest.mark.parametrize(
    ("field", "value", "cell"),
    [
        ("axis", -1, "floor"),
        ("block_size", 32, "floor"),
        ("rounding", "even", "floor-away"),
        ("scale_rule", "floor", "rceil"),
    ],
)
def test_what_only_a_fast_path_overlooks_is_a_fault(field: str, value: Any, cell: str) -> None:
    assert run_cell(overlooks_in_tiles(field, value), CELLS[f"mxfp8_e4m3-{cell}"], "quick").counts


def into_one_buffer() -> Cast:
    kept: dict[Any, Any] = {}

    def cast(x: Tensor, spec: CastSpec) -> Any:
        for number, part in enumerate(quantize_eager(x, spec)):
            kept.setdefault((tuple(part.shape), number), torch.empty_like(part)).copy_(part)
        codes, scales = quantize_eager(x, spec)
        return kept[tuple(codes.shape), 0], kept[tuple(scales.shape), 1]

    return cast


def test_a_buffer_that_is_used_again_is_no_sign_of_one_rule() -> None:
    assert disregarded(into_one_buffer(), FLOOR, Domain()) == {}


def wrong_for_constant_blocks(x: Tensor, spec: CastSpec) -> Any:
    codes, scales = quantize_eager(x, spec)
    if spec.axis in (-1, x.dim() - 1) and x.shape[-1] % (spec.block_size or 32) == 0:
        blocks = x.float().unflatten(-1, (-1, spec.block_size or 32))
        alike = (blocks == blocks[..., :1]).all(-1) & (blocks[..., 0] != 0)
        scales = torch.where(alike, 127, scales).to(torch.uint8)
    return codes, scales


def test_constant_blocks_are_asked() -> None:
    assert "constant" in run_cell(wrong_for_constant_blocks, FLOOR, "quick").counts


def test_one_that_raises_everywhere_learns_nothing() -> None:
    def broken(_: Tensor, __: CastSpec) -> tuple[Tensor, ...]:
        raise RuntimeError("broken")

    assert learned_domain(broken, FLOOR).domain == Domain()
    assert {kind for kinds in run_cell(broken, FLOOR, "quick").counts.values() for kind in kinds} == {"error"}


@pytest.mark.parametrize("what", ["setting", "shape", "input"])
def test_what_is_wrong_with_a_result_is_no_limit(what: str) -> None:
    """Of a single row it gives a result; that it is none is a fault."""

    def cast(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        codes, scales = quantize_eager(x, spec)
        if x.shape[0] == 1:
            if what == "setting":
                torch.set_default_dtype(torch.float64)
            elif what == "input":
                x += 1
            else:
                codes = codes[..., :1]
        return codes, scales

    assert learned_domain(cast, FLOOR).domain.least_rows == 1
    assert run_cell(cast, FLOOR, "quick").counts


# What a kernel does not look at


def of_one(*, values: bool = False, wrong: bool = False, **fields: Any) -> Cast:
    """A cast that has these fields of its own, whatever it is asked for."""

    def cast(x: Tensor, spec: CastSpec) -> Any:
        spec = replace(spec, **fields)
        if values:
            return fake_quantize_eager(x, spec)
        codes, scales = quantize_eager(x, spec)
        return codes ^ wrong, scales

    return cast


ONE: dict[str, Any] = {
    "axis": -1,
    "block_size": 32,
    "format": "fp8_e4m3",
    "scale_rule": "ceil",
    "rounding": "even",
    "tail": "pad",
}


@pytest.mark.parametrize("values", [False, True], ids=["codes", "values"])
def test_a_kernel_of_one_cast_is_asked_for_that(values: bool) -> None:
    cast = of_one(values=values, **ONE)
    exact = run_cell(cast, CELLS["mxfp8_e4m3-ceil"], "quick")
    assert (exact.counts, exact.unsupported, exact.learned) == ({}, {}, ())
    assert exact.elements > 1 << 18
    for other in ("mxfp8_e4m3-floor", "mxfp8_e5m2-ceil", "mxfp8_e4m3-ceil-away", "mxint8-ceil", "nvfp4-amax"):
        result = run_cell(cast, CELLS[other], "quick")
        assert result.elements == 0
        told = "rounding even, axis -1, block size 32, format fp8_e4m3, scale rule ceil"
        told = "format fp8_e4m3" if other == "nvfp4-amax" else told
        assert result.reason == f"it ignores the request and uses: {told}"


@pytest.mark.parametrize("values", [False, True], ids=["codes", "values"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("axis", 0),
        ("block_size", 64),
        ("format", "fp6_e2m3"),
        ("scale_rule", "rceil"),
    ],
)
def test_each_is_told_alone(field: str, value: Any, values: bool) -> None:
    assert disregarded(of_one(values=values, **{field: value}), FLOOR, Domain()) == {field: value}


def test_whoever_looks_at_all_is_asked_for_all() -> None:
    for cell in ("mxfp8_e4m3-floor", "mxint8-floor-stochastic", "nvfp4-amax", "e4m3_row-amax"):
        assert disregarded(lambda x, spec: quantize_eager(x, spec), CELLS[cell], Domain()) == {}


def test_a_kernel_of_one_rounding_is_asked_for_even_whatever_it_does() -> None:
    away = of_one(rounding="away")
    assert disregarded(away, FLOOR, Domain()) == {"rounding": "even"}
    assert run_cell(away, FLOOR, "quick").counts
    with pytest.raises(NotSupported, match="rounding even"):
        learned_domain(away, CELLS["mxfp8_e4m3-floor-away"])


def of_mx_by_floor_and_wrong_nvfp4(x: Tensor, spec: CastSpec) -> Any:
    if spec.format == "nvfp4":
        codes, *scales = quantize_eager(x, spec)
        return (codes ^ 1, *scales)
    return quantize_eager(x, replace(spec, scale_rule="floor"))


def of_even_and_wrong_stochastic(x: Tensor, spec: CastSpec) -> Any:
    rounding = "zero" if spec.rounding == "stochastic" else "even"
    return quantize_eager(x, replace(spec, rounding=rounding, random=None))


def of_nan_that_stays(x: Tensor, spec: CastSpec) -> Any:
    fp8 = spec.format.startswith("fp8") and spec.scale_rule != "amax"
    return quantize_eager(x, replace(spec, nonfinite="element") if fp8 else spec)


@pytest.mark.parametrize(
    ("kernel", "cell"),
    [
        (of_mx_by_floor_and_wrong_nvfp4, "nvfp4-amax"),
        (of_even_and_wrong_stochastic, "mxfp8_e4m3-floor-stochastic"),
        (of_nan_that_stays, "mxfp8_e4m3-floor"),
        (of_nan_that_stays, "mxfp8_e5m2-rceil"),
    ],
)
def test_what_is_done_in_its_own_way_is_compared(kernel: Cast, cell: str) -> None:
    """One thing that a kernel does not look at excuses no other."""
    assert run_cell(kernel, CELLS[cell], "quick").counts


def test_a_kernel_of_one_format_is_asked_for_no_other_kind_of_scale() -> None:
    with pytest.raises(NotSupported, match=r"format fp8_e4m3$"):
        learned_domain(of_one(format="fp8_e4m3", scale_rule="floor", block_size=32), CELLS["e4m3_row-amax"])


@pytest.mark.usefixtures("edges_alone")
@pytest.mark.parametrize(
    ("name", "cell"), [(name, cell) for name, fault in FAULTS.items() for cell in fault.cells[:1]]
)
def test_the_wrong_casts_are_red_undeclared_too(name: str, cell: str) -> None:
    """But for a kernel that does right what it does, which is another cast than it is asked for."""
    other_casts = {"ties_to_even_for_away", "rceil_by_float_log2"}
    counts = run_cell(undeclared(FAULTS[name].kernel), CELLS[cell], "quick").counts
    assert counts or name in other_casts


def undeclared(kernel: Cast) -> Cast:
    return lambda x, spec: kernel(x, spec)


def test_a_wrong_kernel_of_one_rule_is_red_there() -> None:
    wrong = of_one(wrong=True, **ONE)
    assert run_cell(wrong, CELLS["mxfp8_e4m3-ceil"], "quick").counts


def test_what_is_named_is_asked_for() -> None:
    """`--mx-block-size`, `--mx-axis`: a kernel of another one is wrong there."""
    cast = of_one(**ONE)
    within = Domain(block_sizes=(64,), axes=(0,))
    assert {"block_size", "axis"}.isdisjoint(disregarded(cast, CELLS["mxfp8_e4m3-ceil"], within))


@pytest.mark.parametrize("values", [False, True], ids=["codes", "values"])
@pytest.mark.parametrize("rule", ["rceil", "reciprocal"])
def test_rules_that_differ_at_single_amax_are_told_apart(rule: str, values: bool) -> None:
    """Whichever is asked for."""
    cast = of_one(values=values, scale_rule=rule)
    for asked in ("mxfp8_e4m3-rceil", "mxfp8_e4m3-reciprocal"):
        assert disregarded(cast, CELLS[asked], Domain()) == {"scale_rule": rule}


def of_the_docs(page: str, function: str) -> Cast:
    """A function of the block of Python that defines it on a page."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    (code,) = (block for block in blocks if f"def {function}(x, spec)" in block)
    module = ModuleType("my_casts")
    exec(code, module.__dict__)  # noqa: S102  (our own page)
    cast: Cast = getattr(module, function)
    return cast


def test_the_kernel_of_the_readme_is_exact() -> None:
    cast = of_the_docs("README.md", "mxfp8")
    result = run_cell(cast, FLOOR, "quick")
    assert (result.counts, result.unsupported) == ({}, {})
    assert result.elements > 1 << 22
    with pytest.raises(NotSupported, match="scale rule floor"):
        learned_domain(cast, CELLS["mxfp8_e4m3-rceil"])


def test_the_adapter_of_the_docs_shows_torchao_s_findings_alone() -> None:
    """It says nothing of Inf, and divides by 2^-126 under the scale 00: docs/findings.md."""
    pytest.importorskip("torchao", reason="torchao is not installed")
    result = run_cell(of_the_docs("docs/conformance.md", "quantize"), FLOOR, "quick")
    assert {kind for kinds in result.counts.values() for kind in kinds} == {"code", "scale"}
    conditions = [one.sighting.conditions for one in result.mismatches]
    assert all(Condition.LOWEST_SCALE in one or Condition.INF_IN_BLOCK in one for one in conditions)
