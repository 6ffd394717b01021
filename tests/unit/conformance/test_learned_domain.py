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

from mxcheck.conformance.cells import cells
from mxcheck.conformance.conditions import Condition
from mxcheck.conformance.disregarded import disregarded
from mxcheck.conformance.learned_domain import learned_domain
from mxcheck.conformance.run import run_cell
from mxcheck.formats.spec import CastSpec
from mxcheck.kernels.domain import Domain, NotSupported
from mxcheck.kernels.eager import fake_quantize_eager, quantize_eager

ROOT = Path(__file__).parents[3]
Cast = Callable[[Tensor, CastSpec], Any]
CELLS = {cell.id: cell for cell in cells("full")}
FLOOR = CELLS["fp8_e4m3-floor"]


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
    "nonfinite": "block",
    "tail": "pad",
}


@pytest.mark.parametrize("values", [False, True], ids=["codes", "values"])
def test_a_kernel_of_one_cast_is_asked_for_that(values: bool) -> None:
    cast = of_one(values=values, **ONE)
    exact = run_cell(cast, CELLS["fp8_e4m3-ceil"], "quick")
    assert (exact.counts, exact.unsupported, exact.learned) == ({}, {}, ())
    assert exact.elements > 1 << 18
    for other in ("fp8_e4m3-floor", "fp8_e5m2-ceil", "fp8_e4m3-ceil-away", "mxint8-ceil", "nvfp4-amax"):
        result = run_cell(cast, CELLS[other], "quick")
        assert result.elements == 0
        assert result.reason == (
            "it gives the same bits whatever is asked for: rounding even, axis -1, block size 32, "
            "format fp8_e4m3, scale rule ceil"
        )


@pytest.mark.parametrize("values", [False, True], ids=["codes", "values"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("axis", 0),
        ("block_size", 64),
        ("format", "fp6_e2m3"),
        ("scale_rule", "rceil"),
        ("nonfinite", "element"),
    ],
)
def test_each_is_told_alone(field: str, value: Any, values: bool) -> None:
    assert disregarded(of_one(values=values, **{field: value}), FLOOR, Domain()) == {field: value}


def test_whoever_looks_at_all_is_asked_for_all() -> None:
    for cell in ("fp8_e4m3-floor", "mxint8-floor-stochastic", "nvfp4-amax", "e4m3_row-amax"):
        assert disregarded(lambda x, spec: quantize_eager(x, spec), CELLS[cell], Domain()) == {}


def test_a_kernel_of_one_rounding_is_asked_for_even_whatever_it_does() -> None:
    away = of_one(rounding="away")
    assert disregarded(away, FLOOR, Domain()) == {"rounding": "even"}
    assert run_cell(away, FLOOR, "quick").counts
    with pytest.raises(NotSupported, match="rounding even"):
        learned_domain(away, CELLS["fp8_e4m3-floor-away"])


def test_a_wrong_kernel_of_one_rule_is_red_there() -> None:
    wrong = of_one(wrong=True, **ONE)
    assert run_cell(wrong, CELLS["fp8_e4m3-ceil"], "quick").counts


def test_what_is_named_is_asked_for() -> None:
    """`--mx-block-size`, `--mx-axis`: a kernel of another one is wrong there."""
    cast = of_one(**ONE)
    within = Domain(block_sizes=(64,), axes=(0,))
    assert {"block_size", "axis"}.isdisjoint(disregarded(cast, CELLS["fp8_e4m3-ceil"], within))


@pytest.mark.parametrize("values", [False, True], ids=["codes", "values"])
@pytest.mark.parametrize("rule", ["rceil", "reciprocal"])
def test_rules_that_differ_at_single_amax_are_told_apart(rule: str, values: bool) -> None:
    """Whichever is asked for."""
    cast = of_one(values=values, scale_rule=rule)
    for asked in ("fp8_e4m3-rceil", "fp8_e4m3-reciprocal"):
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
        learned_domain(cast, CELLS["fp8_e4m3-rceil"])


def test_the_adapter_of_the_docs_shows_torchao_s_findings_alone() -> None:
    """It says nothing of Inf, and divides by 2^-126 under the scale 00: docs/findings.md."""
    pytest.importorskip("torchao", reason="torchao is not installed")
    result = run_cell(of_the_docs("docs/conformance.md", "quantize"), FLOOR, "quick")
    assert {kind for kinds in result.counts.values() for kind in kinds} == {"code", "scale"}
    conditions = [one.sighting.conditions for one in result.mismatches]
    assert all(Condition.LOWEST_SCALE in one or Condition.INF_IN_BLOCK in one for one in conditions)
