"""A model that leaves what its kernel is made for: refused before it is loaded, or by the call."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import own_casts
import pytest
import torch
from architectures import tiny

from mxcheck.formats.spec import CastSpec, cast_spec
from mxcheck.gate.case import Case
from mxcheck.gate.result import result_from_dict
from mxcheck.kernels.domain import NotSupported, domain
from mxcheck.kernels.eager import quantize_eager
from mxcheck.measure.case_run import run_case
from mxcheck.measure.kernel_domain import check_kernel_domain
from mxcheck.measure.made_for import other_options
from mxcheck.measure.measure_case import measure_case
from mxcheck.measure.model_session import ModelSession
from mxcheck.models.conversion.casts import CastRefusedError
from mxcheck.models.conversion.convert import convert
from mxcheck.models.recipes.recipe import recipe
from mxcheck.reporting.table import kernel_lines
from mxcheck.run.measurement_settings import Measuring

NEO = Case(model="ref-neo", precision="mxfp8_e4m3", tier="B")
LLAMA = replace(NEO, model="ref-llama")


@domain(rows_multiple=128, columns_multiple=128)
def tiles(x: torch.Tensor, spec: CastSpec) -> Any:
    assert x.numel() // x.shape[spec.axis] % 128 == 0
    return quantize_eager(x, spec)


@domain(dtypes=[torch.bfloat16])
def bf16(x: torch.Tensor, spec: CastSpec) -> Any:
    assert x.dtype == torch.bfloat16
    return quantize_eager(x, spec)


@domain(formats=["fp8_e4m3"], scale_rules=["floor"])
def e4m3(x: torch.Tensor, spec: CastSpec) -> Any:
    return quantize_eager(x, spec)


@domain(axes=[-1], ranks=[2])
def matrices(x: torch.Tensor, spec: CastSpec) -> Any:
    return quantize_eager(x, spec)


def undeclared(x: torch.Tensor, spec: CastSpec) -> Any:
    if x.numel() // x.shape[spec.axis] < 200:
        raise NotSupported("at least 200 rows")
    return quantize_eager(x, spec)


def undeclared_tiles(x: torch.Tensor, spec: CastSpec) -> Any:
    if x.numel() // x.shape[spec.axis] % 128:
        raise ValueError("whole tiles of 128 rows")
    return quantize_eager(x, spec)


def undeclared_bf16(x: torch.Tensor, spec: CastSpec) -> Any:
    if x.dtype != torch.bfloat16:
        raise TypeError("expected BFloat16")
    return quantize_eager(x, spec)


def of_powers_of_two(x: torch.Tensor, spec: CastSpec) -> Any:
    """More than what is learned of it: rows of two lengths."""
    columns = x.shape[spec.axis]
    if columns & (columns - 1) and columns != 344:
        raise ValueError("columns must be a power of two")
    return quantize_eager(x, spec)


def here(function: Any) -> str:
    return f"{__name__}:{function.__name__}"


def refused(kernel: Any, case: Case, *, options: dict[str, Any] | None = None, **measuring: Any) -> str:
    """What is said of a case before its model is loaded, behind the kernel's name."""
    made = recipe(case.precision, tier=case.tier, kernel=here(kernel), **(options or {}))
    with pytest.raises(ValueError, match="is not made for") as caught:
        check_kernel_domain(Measuring(recipes={case: made}, **measuring), case, made)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"kernel {here(kernel)} is not made for ")


@pytest.mark.parametrize(
    ("kernel", "case", "measuring"),
    [
        (tiles, NEO, {}),
        (bf16, replace(LLAMA, model="bf16-llama"), {}),
        (bf16, LLAMA, {"dtype": "bfloat16"}),
        (e4m3, LLAMA, {}),
        (undeclared_tiles, NEO, {}),
        (undeclared_bf16, replace(LLAMA, model="bf16-llama"), {}),
        (of_powers_of_two, LLAMA, {}),
        (tiles, replace(NEO, precision="bf16", tier=None), {}),
    ],
)
def test_what_a_kernel_is_made_for_is_not_refused(kernel: Any, case: Case, measuring: dict[str, Any]) -> None:
    made = recipe(case.precision, tier=case.tier, kernel=here(kernel))
    check_kernel_domain(Measuring(recipes={case: made}, **measuring), case, made)


_NEO = "ref-neo: activations of transformer.h.0.attn.attention.k_proj are float32"
#: What is said to whoever declares nothing.
WAYS = "; name models that it takes with --mx-models, and declare what it is made for: @mxcheck.domain({})"
_LLAMA = "model.layers.0.self_attn"


@pytest.mark.parametrize(
    ("kernel", "case", "measuring", "what", "why"),
    [
        (
            tiles,
            NEO,
            {"sequence_length": 100},
            f"{_NEO} [8, 100, 128]",
            "needs rows that 128 divides, got 800",
        ),
        (  # of 11 sequences the last batch has three
            tiles,
            NEO,
            {"sequence_length": 64, "max_samples": 11},
            f"{_NEO} [3, 64, 128]",
            "needs rows that 128 divides, got 192",
        ),
        (
            tiles,
            LLAMA,
            {},
            f"ref-llama: weights of {_LLAMA}.k_proj are float32 [64, 128]",
            "needs rows that 128 divides, got 64",
        ),
        (
            bf16,
            LLAMA,
            {},
            f"ref-llama: weights of {_LLAMA}.q_proj are float32 [128, 128]",
            "has no cast from float32",
        ),
        (  # whose values 16 bits do not hold, so that activations are cast in fp32
            bf16,
            replace(LLAMA, precision="nvfp4"),
            {"dtype": "bfloat16"},
            f"ref-llama: activations of {_LLAMA}.q_proj are float32 [1, 256, 128]",
            "has no cast from float32",
        ),
        (  # `Conv1D` holds its weights the other way round
            matrices,
            replace(LLAMA, model="wide-gpt2"),
            {},
            "wide-gpt2: weights of transformer.h.0.attn.c_attn are float32 [32, 96]",
            "has no blocks along axis -2 of 2",
        ),
        (
            matrices,
            LLAMA,
            {},
            f"ref-llama: activations of {_LLAMA}.q_proj are float32 [8, 256, 128]",
            "has no input of 3 dimensions (mxcheck.as_rows makes it a matrix, mxcheck.from_rows undoes that)",
        ),
        # who declares nothing says it himself
        (
            undeclared,
            LLAMA,
            {},
            f"ref-llama: weights of {_LLAMA}.q_proj are float32 [128, 128]",
            "needs at least 255 rows, got 128 (learned; here it says at least 200 rows)"
            + WAYS.format("least_rows=255"),
        ),
        (
            undeclared_tiles,
            LLAMA,
            {},
            f"ref-llama: weights of {_LLAMA}.k_proj are float32 [64, 128]",
            "needs at least 128 rows, got 64 (learned; here it says ValueError: whole tiles of 128 rows)"
            + WAYS.format("least_rows=128, rows_multiple=128"),
        ),
        (
            undeclared_bf16,
            LLAMA,
            {},
            f"ref-llama: weights of {_LLAMA}.q_proj are float32 [128, 128]",
            "has no cast from float32 (learned; here it says TypeError: expected BFloat16)"
            + WAYS.format("dtypes=[torch.bfloat16]"),
        ),
    ],
)
def test_shapes_and_dtypes_are_known_before_a_model_is_loaded(
    kernel: Any, case: Case, measuring: dict[str, Any], what: str, why: str
) -> None:
    axis = -2 if "gpt2" in what else -1
    assert refused(kernel, case, **measuring) == f"{what}, cast along axis {axis}; it {why}"


def test_casts_are_known_before_a_model_is_loaded() -> None:
    said = refused(e4m3, replace(LLAMA, precision="mxfp8_e5m2"))
    made_for = "it is made for formats fp8_e4m3; scale_rules floor"
    assert said == (
        f"mxfp8_e5m2: it has no format fp8_e5m2; {made_for}; name the cases that it does with --mx-precision"
    )


def test_rules_roundings_and_block_sizes_are_the_recipe_s() -> None:
    assert refused(e4m3, LLAMA, options={"scale_rule": "rceil"}).startswith(
        "mxfp8_e4m3: it has no scale rule rceil"
    )
    options = {"outputs": True, "elementwise": "fp8_e4m3"}
    said = refused(tiles, NEO, options=options, max_samples=1, sequence_length=100)
    assert "[1, 100, 128]" in said


def test_nothing_is_loaded_for_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "mxcheck.models.zoo.load.load", lambda *_, **__: pytest.fail("nothing was to be loaded")
    )
    measuring = Measuring(kernel=here(tiles))
    with ModelSession(measuring) as session:
        with pytest.raises(ValueError, match="k_proj are float32"):
            measure_case(session, LLAMA)
        made = recipe("mxfp8_e4m3", tier="B", kernel=tiles)  # type: ignore[arg-type]
        unnamed = ModelSession(replace(measuring, recipes={LLAMA: made}))
        with pytest.raises(ValueError, match="a case that is measured names its kernel") as error:
            measure_case(unnamed, LLAMA)
    assert "\n" not in str(error.value)


def test_a_kernel_of_whole_tiles_measures_what_ours_does() -> None:
    """Its probes have 32 rows, and the check that a case is measured at all 16 tokens; whether it declares
    its tiles or they are learned."""
    records = []
    for kernel in ("eager", here(tiles), here(undeclared_tiles)):
        with ModelSession(Measuring(kernel=kernel, max_samples=2, sequence_length=64)) as session:
            records.append(measure_case(session, NEO))
    ours, *others = records
    for theirs in others:
        assert theirs.kernel_cells["mxfp8_e4m3-floor"].verdict == "exact"
        assert theirs.unsteady == {}
        assert replace(theirs, kernel_cells={}, environment=ours.environment) == ours


@domain(ragged=False, scale_rules=["floor"])
def by_logarithm_in_whole_blocks(x: torch.Tensor, spec: CastSpec) -> Any:
    return own_casts.by_logarithm(x, spec)


def test_what_is_wrong_of_a_kernel_is_told_of_a_case_that_it_does_not_do(tmp_path: Any) -> None:
    """First of all that is said, and below the table."""
    name = here(by_logarithm_in_whole_blocks)
    with ModelSession(Measuring(kernel=name)) as session:
        result = run_case(session, LLAMA, lambda _: pytest.fail("it was measured"), baselines=tmp_path)
    first, cause, *_, last = result.message.splitlines()
    assert first == (
        f"ref-llama-mxfp8_e4m3-B: step 4 (casts): the kernel {name} differs from the oracle: mxfp8_e4m3-floor"
        ": looks like scale rule `floor_log2` with ties to even; causes: 1 wrong"
    )
    assert cause.startswith("  scale (threshold of the scale), ")
    assert last.endswith("it needs columns that the block size 32 divides, got 344")
    words = "looks like scale rule `floor_log2` with ties to even; causes: 1 wrong"
    assert kernel_lines([result_from_dict(result.as_dict())]) == [
        f"kernel {name}, compared with the oracle: red: mxfp8_e4m3-floor ({words})"
    ]


def only_rceil(x: torch.Tensor, spec: CastSpec) -> Any:
    if spec.scale_rule != "rceil":
        raise NotSupported("rceil only")
    return quantize_eager(x, spec)


@domain(scale_rules=["rceil"], block_sizes=[64, 32])
def declares_rceil(x: torch.Tensor, spec: CastSpec) -> Any:
    return quantize_eager(x, spec)


def test_another_rule_is_asked_for_by_its_option(tmp_path: Any) -> None:
    way = "; the case asks for scale rule floor: for rceil add --mx-scale-rule=rceil"
    assert refused(declares_rceil, LLAMA).endswith(way)
    with ModelSession(Measuring(kernel=here(only_rceil), max_samples=1, sequence_length=16)) as session:
        result = run_case(session, LLAMA, lambda _: pytest.fail("it was measured"), baselines=tmp_path)
    assert result.reason.endswith(f"along axis -1: rceil only{way}")
    spec = cast_spec("fp8_e4m3")
    assert other_options(declares_rceil, replace(spec, block_size=16), "cpu") == ""
    assert other_options(only_rceil, replace(spec, scale_rule="rceil"), "cpu") == ""
    in_64 = domain(block_sizes=[64])(lambda x, spec: quantize_eager(x, spec))
    assert other_options(in_64, spec, "cpu").endswith("block size 32: for 64 add --mx-block-size=64")


def of_first_call(x: torch.Tensor, spec: CastSpec) -> Any:
    """Nothing of this is learned: there is no gradient, and no such numbers, where it is asked."""
    if x.shape == (128, 128) and float(x.abs().max()) < 1:
        raise ValueError("no weights")
    return quantize_eager(x, spec)


def test_what_is_not_declared_the_call_refuses_by_the_module_s_name(tmp_path: Any) -> None:
    with ModelSession(Measuring(kernel=here(of_first_call), max_samples=1, sequence_length=16)) as session:
        result = run_case(session, LLAMA, lambda _: pytest.fail("it was measured"), baselines=tmp_path)
    assert result.reason == (
        f"kernel {here(of_first_call)} does not cast weights of model.layers.0.self_attn.q_proj, float32 "
        "[128, 128] along axis -1: no weights"
    )


def test_a_converted_model_says_it_too() -> None:
    """Also by a function that has no name, and in its text's own shapes."""
    with pytest.raises(
        CastRefusedError, match=r"^kernel .*:tiles does not cast weights of model\.layers\.0\."
    ):
        convert(tiny("llama-3.1-8b"), recipe("mxfp8_e4m3", tier="A", kernel=tiles))  # type: ignore[arg-type]
    model = tiny("llama-3.1-8b")
    conversion = convert(model, recipe("mxfp8_e4m3", tier="A", kernel=here(short)))
    words = r"does not cast activations of model\.layers\.0\.mlp\.gate_proj, float32 \[2, 8, \d+\] along .*: "
    with (
        torch.no_grad(),
        pytest.raises(CastRefusedError, match=words + "outside of its domain: no input of 3"),
    ):
        model(input_ids=torch.zeros(2, 8, dtype=torch.long))
    conversion.undo()


@domain(ranks=[2])
def short(x: torch.Tensor, spec: CastSpec) -> Any:
    return quantize_eager(x, spec)
