"""The suite can fail: each wrong cast is caught at `quick`, and told by the smallest input that shows it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import wrong_casts
from torch import Tensor
from wrong_casts import FAULTS, FAULTS_OF_REAL_SCALES, Cast, Fault, Parts, values_of, with_scales

from mxcheck.cli.entry import main, parse
from mxcheck.cli.explain_command import read_cast
from mxcheck.conformance.cases.cells import Cell, cells
from mxcheck.conformance.cell_run import CellResult, counterexamples, run_cell
from mxcheck.conformance.failure_text import as_data, describe
from mxcheck.conformance.shrink.shrinker import Counterexample, shrink
from mxcheck.conformance.verify.verifier import Comparison, compare
from mxcheck.formats.codes import code_values
from mxcheck.formats.spec import CastSpec, cast_spec
from mxcheck.kernels.domain import domain
from mxcheck.kernels.eager import fake_quantize_eager, quantize_eager

pytestmark = [pytest.mark.usefixtures("edges_alone"), pytest.mark.slow]
CELLS = {cell.id: cell for cell in cells("full")}


def cases(faults: dict[str, Fault]) -> list[Any]:
    return [
        pytest.param(fault, CELLS[cell], id=f"{name}-{cell}")
        for name, fault in faults.items()
        for cell in fault.cells
    ]


def caught(kernel: Cast, cell: Cell) -> tuple[CellResult, list[tuple[str, Counterexample]]]:
    """What is seen of a kernel that is to do every cast: of what it does not look at nothing is excused."""
    result = run_cell(domain()(kernel), cell, "quick")
    return result, counterexamples(kernel, result)


def kinds_of(result: CellResult) -> set[str]:
    return {kind for kinds in result.counts.values() for kind in kinds}


def nonzeros(one: Counterexample) -> int:
    return int(one.x.float().view(torch.int32).count_nonzero())


def run_again(one: Counterexample, kernel: Cast) -> Comparison:
    """What comes of the command line that a counterexample is told with."""
    words = shlex.split(as_data(one, "wrong_casts:kernel")["reproduce"])
    assert words[:2] == ["mxcheck", "explain"]
    options = parse(words[1:])
    x, spec = read_cast(options)
    assert options.kernel == "wrong_casts:kernel"
    tensor = torch.from_numpy(x).to(getattr(torch, options.dtype))
    random = None if spec.random is None else torch.from_numpy(spec.random)
    again = CastSpec(**{name: getattr(spec, name) for name in spec.__slots__} | {"random": random})
    assert again == one.spec
    return compare(kernel, tensor, again)


@pytest.mark.parametrize(("fault", "cell"), cases(FAULTS))
def test_a_fault_is_caught_and_shrunk(fault: Fault, cell: Cell) -> None:
    result, found = caught(fault.kernel, cell)
    assert set(fault.kinds) <= kinds_of(result)
    assert "error" not in kinds_of(result)
    assert found[0][1].kind in fault.kinds
    assert found[0][1].single_block == fault.single_block
    for group, one in found:
        assert fault.across_too or one.single_block == fault.single_block, (group, one.kind)
        assert one.kind in one.comparison.counts
        assert nonzeros(one) <= 4
        if one.single_block:
            assert one.comparison.expected[1].size == 1  # scales
        again = run_again(one, fault.kernel)
        assert again.counts == one.comparison.counts
        assert again.places == one.comparison.places


@pytest.mark.parametrize(("fault", "cell"), cases(FAULTS_OF_REAL_SCALES))
def test_a_fault_of_a_real_scale_is_caught_and_shrunk(fault: Fault, cell: Cell) -> None:
    result, found = caught(fault.kernel, cell)
    assert set(fault.kinds) <= kinds_of(result)
    for group, one in found:
        assert one.kind in one.comparison.counts, group
        assert nonzeros(one) <= 3
        if not cell.spec().block.whole_tensor:
            assert one.x.numel() <= 512
        assert run_again(one, fault.kernel).counts == one.comparison.counts


@pytest.mark.parametrize(
    ("name", "cell", "kinds"),
    [
        pytest.param("scale_one_down", "mxfp8_e4m3-floor", {"value"}, id="value"),
        pytest.param("truncation", "mxint8-floor", {"value"}, id="truncation"),
        pytest.param("nan_swallowed", "mxfp4_e2m1-floor", {"nan"}, id="nan"),
        pytest.param("overflow_to_nan", "mxfp8_e4m3-floor", {"nan"}, id="overflow"),
        pytest.param("negative_zero_lost", "mxfp6_e2m3-floor", {"zero sign"}, id="zero sign"),
        pytest.param("always_along_the_last_axis", "mxfp8_e5m2-floor", {"value"}, id="axis"),
        pytest.param("tail_not_written", "mxfp4_e3m0-floor", {"value"}, id="tail"),
    ],
)
def test_so_are_the_faults_of_fake_quantizers(name: str, cell: str, kinds: set[str]) -> None:
    kernel = values_of(FAULTS[name].kernel)
    result, found = caught(kernel, CELLS[cell])
    assert kinds <= kinds_of(result) <= {"value", "nan", "zero sign"}
    for _, one in found:
        assert one.single_block or FAULTS[name].across_too
        assert one.kind in one.comparison.counts
        assert nonzeros(one) <= 3
        assert [part.shape for part in one.comparison.got] == [one.x.shape]
        assert run_again(one, kernel).counts == one.comparison.counts


@pytest.mark.parametrize("cell", ["nvfp4-amax", "e4m3_row-amax"])
def test_and_those_of_fake_quantizers_with_real_scales(cell: str) -> None:
    kernel = values_of(wrong_casts.multiplied_by_the_reciprocal)
    result, found = caught(kernel, CELLS[cell])
    assert kinds_of(result) - {"last bit"} == {"value"}
    assert all(one.kind in one.comparison.counts for _, one in found)


def right_by_another_way(x: Tensor, spec: CastSpec) -> Parts:
    """What the faults are put into: right without them."""
    return with_scales(x, spec, lambda _, right: right)


@pytest.mark.parametrize(
    ("kernel", "cell"),
    [
        *((right_by_another_way, f"{name}-floor") for name in ("mxfp8_e4m3", "mxfp4_e2m1", "mxint8")),
        (right_by_another_way, "mxfp6_e3m2-rceil"),
        (right_by_another_way, "mxfp8_e5m2-floor-zero"),
        *(
            (quantize_eager, cell)
            for cell in ("mxfp8_e5m2-reciprocal-nan_stays", "mxint8-ceil", "e5m2_row-amax")
        ),
        *(
            (fake_quantize_eager, cell)
            for cell in ("mxfp8_e4m3-reciprocal-nan_stays", "mxfp4_e3m0-floor-stochastic")
        ),
        (fake_quantize_eager, "nvfp4-amax"),
    ],
    ids=lambda part: getattr(part, "__name__", part),
)
def test_right_casts_show_nothing(kernel: Cast, cell: str) -> None:
    """(All cells of the house kernel: `tests/kernels`.)"""
    result, found = caught(kernel, CELLS[cell])
    assert (result.counts, result.unsupported, found) == ({}, {}, [])
    assert result.elements > 300_000


@pytest.mark.parametrize(
    ("cell", "other"), [("mxfp8_e4m3-reciprocal", "rceil"), ("mxfp8_e4m3-rceil", "reciprocal")]
)
def test_a_scale_rule_that_differs_at_one_amax_of_all(cell: str, other: str) -> None:
    """The exact rule and Transformer Engine's, each in the place of the other."""

    def kernel(x: Tensor, spec: CastSpec) -> Parts:
        return quantize_eager(x, replace(spec, scale_rule=other))

    result, found = caught(kernel, CELLS[cell])
    assert kinds_of(result) <= {"scale", "code"}
    assert found
    for _, one in found:
        assert one.x.float().abs().max().view(torch.int32).item() == 0x0460_0001


def told(name: str, x: Tensor, **cast: Any) -> list[str]:
    """The lines for what a wrong cast makes of a small input."""
    kernel = getattr(wrong_casts, name)
    spec = cast_spec(**cast)
    found = compare(kernel, x, spec)
    kind = next(iter(found.counts))
    one = shrink(kernel, x, spec, kind, found)
    return describe("somewhere", one, "mine:f")


def test_a_wrong_code_in_words() -> None:
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    x[1, 40], x[1, 60] = 17.0, 300.0
    assert told("ties_away", x, format="fp8_e4m3") == [
        "code (tie): smallest input, a single block of 32 float32, shape 1x32, axis -1, from somewhere:",
        "  input: [0, 0] 3f880000 (1.0625); the other 31 are 0",
        "  scales: as expected",
        "  code: [0, 0] got 79, expected 78",
        "  reproduce: mxcheck explain fp8_e4m3 --hex 3f880000 '0*31' --shape 1x32 --kernel mine:f",
    ]


def test_a_wrong_scale_in_words() -> None:
    size = "smallest input, a single block of 3 float32"
    assert told("scale_one_up", torch.tensor([-1.75, 1.0, 0.3]), format="mxint8") == [
        f"scale (threshold of the scale, ragged tail): {size}, from somewhere:",
        "  input: [0] 3f800000 (1); the other 2 are 0",
        "  scale: [0] got 80 (2^1), expected 7f (2^0)",
        "  code: [0] got 20, expected 40",
        "  reproduce: mxcheck explain mxint8 --hex 3f800000 '0*2' --kernel mine:f",
    ]


def test_codes_under_a_poisoned_scale_are_not_told() -> None:
    x, size = torch.tensor([[1.0, torch.inf]]), "smallest input, a single block of 2 float32"
    assert told("scale_never_255", x, format="fp8_e4m3", axis=1)[:-1] == [
        f"scale (Inf in the block, ragged tail): {size}, shape 1x2, axis 1, from somewhere:",
        "  input: [0, 0] 7f800000 (inf); the other 1 are 0",
        "  scale: [0, 0] got fe (2^127), expected ff (NaN)",
    ]


def test_three_scales_in_words() -> None:
    lines = told("tensor_scale_forgotten", torch.tensor([5.0, 3.0]), format="nvfp4")
    assert [re.split("[:(]", line)[0].strip() for line in lines][:4] == [
        "scale",
        "input",
        "scale",
        "tensor scale",
    ]
    assert "got 3f800000 (1), expected 39c30c31" in lines[3]


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("ties_away", "mxfp8_e4m3-floor"),
        ("stochastic_with_greater", "mxfp4_e2m1-floor-stochastic"),
        ("nan_poisons_its_block", "mxfp8_e5m2-reciprocal-nan_stays"),
        ("always_along_the_last_axis", "mxint8-floor"),
        ("in_the_inputs_own_dtype", "mxfp8_e4m3-floor"),
    ],
)
def test_the_command_marks_the_difference(name: str, cell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Pasted into a shell, it exits with 1; without the kernel's name, with 0."""
    _, found = caught(FAULTS[name].kernel, CELLS[cell])
    words = shlex.split(as_data(found[0][1], f"wrong_casts:{name}")["reproduce"])[1:]
    assert main(words) == 1, capsys.readouterr()
    assert main(words[: words.index("--kernel")]) == 0


# Kernels that fail as programs do


def raises_where(condition: Callable[[Tensor], Any]) -> Cast:
    def kernel(x: Tensor, spec: CastSpec) -> Parts:
        if condition(x):
            raise RuntimeError("no\nsuch luck")
        return quantize_eager(x, spec)

    return kernel


def test_a_kernel_that_raises_on_some_numbers() -> None:
    kernel = raises_where(lambda x: (x.abs() == 448).any())
    result, found = caught(kernel, CELLS["mxfp8_e4m3-rceil"])
    assert kinds_of(result) == {"error"}
    assert "every_code" in result.counts
    for group, one in found:
        assert one.comparison.error == "RuntimeError: no"
        assert one.x.numel() <= 128  # one block, or two
        assert nonzeros(one) == 1
        assert describe(group, one, "k:f")[2] == "  RuntimeError: no"


def test_a_kernel_that_raises_in_three_dimensions() -> None:
    _, found = caught(raises_where(lambda x: x.dim() == 3), CELLS["mxfp8_e4m3-floor"])
    assert found
    assert all(one.single_block and one.kind == "error" for _, one in found)


@pytest.mark.parametrize(
    ("result", "error"),
    [
        pytest.param(lambda codes, scales: (codes, scales.float()), "ValueError: kernel ", id="dtype"),
        pytest.param(lambda codes, scales: (codes[..., :1], scales), "ValueError: kernel ", id="shape"),
        pytest.param(lambda codes, _: (codes,), "TypeError: kernel ", id="count"),
        pytest.param(lambda *_: None, "TypeError: kernel ", id="nothing"),
    ],
)
def test_a_kernel_whose_result_is_none(result: Callable[..., Any], error: str) -> None:
    def kernel(x: Tensor, spec: CastSpec) -> Any:
        return result(*quantize_eager(x, spec))

    _, found = caught(kernel, CELLS["mxfp6_e2m3-floor"])
    assert all(one.kind == "error" and one.comparison.error.startswith(error) for _, one in found)
    assert all(one.single_block for _, one in found)


def test_an_input_that_is_changed_is_an_error_alone_too() -> None:
    x, spec = torch.randn(4, 64, generator=torch.Generator().manual_seed(0)), CastSpec(format="mxint8")
    found = compare(wrong_casts.input_overwritten, x.clone(), spec)
    assert (dict(found.counts), found.error) == ({"error": 1}, "it changed its input")
    assert found.places == {"error": (0, 0)}


def test_random_integers_that_are_changed_are_caught() -> None:
    result, found = caught(wrong_casts.random_integers_zeroed, CELLS["mxfp8_e4m3-floor-stochastic"])
    assert kinds_of(result) == {"error"}
    assert found
    assert {one.comparison.error for _, one in found} == {"it changed its random integers"}


@pytest.mark.parametrize(("name", "kernel"), wrong_casts.LEAVES_CHANGED.items())
def test_a_changed_setting_is_caught_and_no_trouble_to_the_next(name: str, kernel: Cast) -> None:
    result = run_cell(kernel, CELLS["mxfp4_e2m1-floor"], "quick")
    assert kinds_of(result) == {"error"}
    assert {one.seen.error for one in result.mismatches} == {f"it changed {name} and left it so"}
    assert run_cell(quantize_eager, CELLS["mxfp4_e2m1-floor"], "quick").counts == {}


def test_random_integers_are_told_of_the_numbers_that_are_left() -> None:
    _, found = caught(wrong_casts.stochastic_with_greater, CELLS["mxfp8_e4m3-floor-stochastic"])
    for _, one in found:
        words = shlex.split(as_data(one, "k:f")["reproduce"])
        random = words[words.index("--random") + 1 : words.index("--kernel")]
        assert len(random) <= 2 * nonzeros(one) + 1


@pytest.mark.parametrize("cell", ["mxfp8_e4m3-floor", "mxint8-floor"])
def test_an_input_that_is_changed_is_shrunk(cell: str) -> None:
    result, found = caught(wrong_casts.input_overwritten, CELLS[cell])
    assert kinds_of(result) == {"error"}
    assert found
    for _, one in found:
        assert one.x.numel() <= 128
        assert one.strided or nonzeros(one) == 1
    assert [one.comparison.error for _, one in found] == ["it changed its input"]


def test_an_error_that_one_block_shows_is_told_as_one() -> None:
    x = torch.zeros(4, 32)
    x[3, 5] = 448.0
    kernel, spec = raises_where(lambda x: (x == 448).any()), CastSpec(format="fp8_e4m3")
    one = shrink(kernel, x, spec, "error", compare(kernel, x, spec))
    assert one.x.shape == (1, 32)
    assert one.single_block


def strides_ignored(x: Tensor, spec: CastSpec) -> Parts:
    """Reads memory in order, whatever the strides."""
    if x.is_contiguous():
        return quantize_eager(x, spec)
    return quantize_eager(x.as_strided(x.shape, torch.empty(x.shape).stride(), 0), spec)


def test_strides_that_are_ignored_are_caught() -> None:
    result = run_cell(strides_ignored, CELLS["mxfp8_e4m3-floor"], "quick")
    assert set(result.counts) >= {"transposed", "strided"}
    assert not any(one.example.x.is_contiguous() for one in result.mismatches)


def test_strides_that_are_ignored_are_shown() -> None:
    x = torch.randn(3, 40, generator=torch.Generator().manual_seed(0)).T
    spec = CastSpec(format="fp8_e4m3")
    found = compare(strides_ignored, x, spec)
    one = shrink(strides_ignored, x, spec, "code", found)
    assert one.comparison.counts
    assert one.note == "a contiguous copy does not show it: strides (1, 40)"
    assert one.x.numel() < x.numel()
    assert not one.x.is_contiguous()
    lines = describe("transposed", one, "wrong:cast")
    assert lines[-2:] == [
        f"  {one.note}",
        "  no one-line reproduction: it depends on the strides of its input",
    ]
    assert not any("explain" in line for line in lines)
    assert as_data(one, "wrong:cast")["reproduce"] == ""


def test_strided_counterexamples_of_a_cell_are_small_views() -> None:
    _, found = caught(strides_ignored, CELLS["mxfp8_e4m3-floor-stochastic"])
    assert found
    for _, one in found:
        assert one.strided
        assert one.x.numel() <= 2048  # of thousands
        assert one.spec.random.shape == one.x.shape
        assert compare(strides_ignored, one.x, one.spec).counts == one.comparison.counts


@pytest.mark.parametrize("name", ["e4m3_row", "e5m2_tensor"])
def test_a_quotient_that_is_rounded_twice_is_caught_with_fp32_scales(name: str) -> None:
    assert run_cell(wrong_casts.divided_in_float32, CELLS[f"{name}-amax"], "quick").counts


@pytest.mark.parametrize("name", ["e4m3_row", "e5m2_row"])
def test_for_there_it_is_wrong(name: str) -> None:
    """Midpoints times such a scale, rounded to fp32: no ties, but their fp32 quotients are."""
    spec = cast_spec(name)
    finite = [value for value in code_values(spec.element) if abs(value) < torch.inf]
    ladder = torch.tensor(sorted({abs(value) for value in finite}), dtype=torch.float64)
    amax = torch.tensor([[1.1], [1.3], [1.7]])
    scales = amax.double() / spec.element.max_value
    x = torch.cat([amax, ((ladder[1:] + ladder[:-1]) / 2 * scales).float()], 1)
    assert compare(wrong_casts.divided_in_float32, x, spec).counts["code"] > 50
    assert not compare(quantize_eager, x, spec).counts
