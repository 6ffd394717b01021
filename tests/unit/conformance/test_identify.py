"""Which rule, rounding and policy an implementation follows: peers, and casts that say nothing of it."""

from __future__ import annotations

import pytest
import torch
from unnamed_casts import UNNAMED, another_rule_in_bf16, of_no_rule, ties_toward_zero, without_negative_zero

from mxcheck.conformance.cases.cells import Cell, cells
from mxcheck.conformance.identify import Identity, identify, identities, looks_like
from mxcheck.formats.spec import CastSpec
from mxcheck.kernels.api import Kernel, resolve_kernel
from mxcheck.kernels.domain import domain
from mxcheck.kernels.eager import fake_quantize_eager, quantize_eager
from mxcheck.kernels.registry import implementation
from mxcheck.reporting.identity import conclusion

FLOOR = Cell(format="fp8_e4m3", scale_rule="floor")


def identified(kernel: Kernel, cell: Cell = FLOOR) -> Identity:
    found = identify(kernel, cell)
    assert isinstance(found, Identity), found
    return found


@pytest.mark.parametrize("name", UNNAMED)
def test_a_cast_that_says_nothing_of_itself(name: str) -> None:
    kernel, rule, rounding, policy = UNNAMED[name]
    found = identified(kernel)
    best = found.best
    assert (best.rule, best.rounding, best.policy) == (rule, rounding, policy), found.matches[:3]
    assert best.exact
    assert found.words.startswith(f"scale rule `{rule}`")
    assert (found.dtype, found.block_size) == {
        "i": ("bfloat16", 32),
        "j": ("float16", 32),
        "k": ("float32", 16),
    }.get(name, ("float32", 32))


def test_dtypes_that_disagree_are_told_apart() -> None:
    told = list(identities(another_rule_in_bf16, "fp8_e4m3", scale_rule="floor", rounding="even"))
    assert [(one.dtype, one.words) for one in told if isinstance(one, Identity)] == [
        ("float32", "scale rule `floor` with ties to even"),
        ("bfloat16", "scale rule `ceil` with ties to even"),
        ("float16", "scale rule `floor` or `floor_log2` with ties to even"),
    ]
    assert (
        looks_like(another_rule_in_bf16, FLOOR)
        == "looks like scale rule `ceil` with ties to even of bfloat16"
    )
    assert looks_like(UNNAMED["a"][0], Cell(format="fp8_e4m3", scale_rule="even")).count("looks like") == 1


def test_the_dtypes_of_a_domain_are_asked() -> None:
    of_bf16 = domain(dtypes=[torch.bfloat16])(lambda x, spec: quantize_eager(x, spec))
    (found,) = identities(of_bf16, "fp8_e4m3", scale_rule="floor", rounding="even")
    assert isinstance(found, Identity)
    assert found.dtype == "bfloat16"
    (found,) = identities(
        quantize_eager, "fp8_e4m3", scale_rule="floor", rounding="even", dtypes=[torch.float16]
    )
    assert isinstance(found, Identity)
    assert (found.dtype, found.best.exact) == ("float16", True)


@pytest.mark.parametrize(
    ("name", "kernel"),
    [("fp4_e2m1", quantize_eager), ("mxint8", quantize_eager), ("fp8_e5m2", fake_quantize_eager)],
)
def test_ours_follow_what_they_are_asked_for(name: str, kernel: Kernel) -> None:
    for cell in cells("quick"):
        if cell.format == name and cell.rounding != "stochastic":
            best = identified(kernel, cell).best
            assert (best.rule, best.rounding, best.policy) == (cell.scale_rule, cell.rounding, cell.nonfinite)
            assert best.exact


def test_rules_that_nothing_tells_apart_are_all_named() -> None:
    """The largest number of E3M0 is a power of two; values do not show a scale."""
    found = identified(quantize_eager, Cell(format="fp4_e3m0", scale_rule="rceil"))
    assert found.words == "scale rule `ceil` or `rceil` with ties to even"
    found = identified(fake_quantize_eager, Cell(format="fp8_e4m3", scale_rule="rceil"))
    assert found.words == "scale rule `rceil` or `reciprocal` with ties to even"


#: implementation -> what it is asked for -> what it does. torchao and gfloat take logarithms in fp32
#: (docs/findings.md: torchao-rceil-log2, gfloat-log2).
PEERS = {
    "torchao": {"floor": "floor", "ceil": "ceil", "even": "even", "rceil": "rceil_log2"},
    "compressed_tensors": {"even": "even"},
    "gfloat": {"floor": "floor_log2", "floor-away": "floor_log2", "floor-zero": "floor_log2"},
    "ml_dtypes": {"floor": "floor"},
    "microxcaling": {"floor": "floor", "floor-away": "floor", "floor-zero": "floor"},
}


@pytest.mark.parametrize(("name", "asked"), [(name, asked) for name in PEERS for asked in PEERS[name]])
def test_peers(name: str, asked: str) -> None:
    if (missing := implementation(name).missing()) is not None:
        pytest.skip(missing)
    kernel = resolve_kernel(name)[0]
    (cell,) = [cell for cell in cells("quick") if cell.id == f"mxfp6_e2m3-{asked}"]
    found = identified(kernel, cell)
    assert found.fits, found.matches[:3]
    assert found.best.rule == PEERS[name][asked]
    assert found.best.rounding == cell.rounding


def test_a_cast_that_loses_the_sign_of_zeros() -> None:
    """Follows its rule, and not exactly."""
    found = identified(without_negative_zero)
    assert (found.best.rule, found.best.rounding, found.best.blocks) == ("rceil", "even", 0)
    assert found.best.zero_signs
    assert not found.best.exact
    assert conclusion(found) == (
        f"looks like scale rule `rceil` with ties to even; differs in the signs of "
        f"{found.best.zero_signs:,} zeros"
    )


def test_a_cast_of_no_rule() -> None:
    found = identified(of_no_rule)
    assert not found.fits
    assert conclusion(found).startswith("looks like no known rule; nearest is scale rule `")
    assert looks_like(of_no_rule, FLOOR) == ""


def test_what_a_red_cell_looks_like() -> None:
    assert looks_like(ties_toward_zero, FLOOR) == "looks like scale rule `floor` with ties toward zero"
    other = Cell(format="fp8_e4m3", scale_rule="rceil")
    assert looks_like(ties_toward_zero, other) == "looks like scale rule `floor` with ties toward zero"
    assert looks_like(quantize_eager, FLOOR) == ""  # as asked
    assert looks_like(ties_toward_zero, Cell(format="nvfp4", scale_rule="amax")) == ""
    assert (
        looks_like(ties_toward_zero, Cell(format="fp8_e4m3", scale_rule="floor", rounding="stochastic")) == ""
    )


def test_a_cast_that_is_wrong_elsewhere_looks_like_nothing_else() -> None:
    """One code in each tensor: no rule does that."""

    def kernel(x: torch.Tensor, spec: CastSpec) -> tuple[torch.Tensor, ...]:
        codes, *scales = quantize_eager(x, spec)
        codes[0, 0] ^= 1
        return (codes, *scales)

    assert looks_like(kernel, FLOOR) == ""
    assert identified(kernel).best.blocks == 1


def test_one_that_gives_nothing_says_why() -> None:
    def refuses(x: torch.Tensor, spec: CastSpec) -> tuple[torch.Tensor, ...]:
        raise NotImplementedError("no such thing")

    assert identify(refuses, FLOOR) == "no such thing"
    assert looks_like(refuses, FLOOR) == ""
    with pytest.raises(ValueError, match="no rules to try for nvfp4-amax: they are of E8M0 scales"):
        identify(refuses, Cell(format="nvfp4", scale_rule="amax"))


def test_one_that_refuses_nan_is_known_by_the_rest() -> None:
    def kernel(x: torch.Tensor, spec: CastSpec) -> tuple[torch.Tensor, ...]:
        if not x.isfinite().all():
            raise NotImplementedError("finite numbers only")
        return ties_toward_zero(x, spec)

    found = identified(kernel)
    assert (found.best.policy, found.not_finite, found.best.exact) == (None, 0, True)
