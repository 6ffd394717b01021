"""Casts that are wrong later, or of other inputs than the first probe: each is seen, by module and kind."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from architectures import tiny
from torch import Tensor, nn
from transformers import PreTrainedModel

from mxcheck.formats.spec import CastSpec
from mxcheck.kernels.eager import quantize_eager
from mxcheck.measure import probe_inputs
from mxcheck.measure.probed_cast import ProbedCast, uneven_probe
from mxcheck.measure.steady_casts import SteadyCasts
from mxcheck.models.conversion.call_casts import ELEMENTWISE
from mxcheck.models.conversion.product_hooks import Cast
from mxcheck.models.recipes.recipe import Recipe, recipe

pytestmark = pytest.mark.slow

LENGTH = 64
UP = "model.layers.0.mlp.up_proj"
E4M3 = recipe("mxfp8_e4m3", tier="B")
EVERYTHING = recipe("mxfp4_e2m1", tier="linears", attention=True, outputs=True, elementwise="fp4_e2m1")


@pytest.fixture
def in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the gate asks: other tests ask less (`tests/unit/conftest.py`)."""
    monkeypatch.setattr(probe_inputs, "MANY_CALLS", 5120)
    monkeypatch.setattr(probe_inputs, "LARGE", 1 << 20)


@contextmanager
def steady(model: PreTrainedModel, made: Recipe, held: set[Hashable] | None = None) -> Iterator[SteadyCasts]:
    casts = SteadyCasts(model, made, held)
    try:
        yield casts
    finally:
        casts.conversion.undo()


def wrong(
    model: PreTrainedModel,
    made: Recipe,
    spoil: Callable[[SteadyCasts], None],
    held: set[Hashable] | None = None,
) -> dict[str, str]:
    """What is found of a conversion that is spoilt after the first probe."""
    with steady(model, made, held) as casts:
        casts.first()
        assert casts.wrong == {}
        spoil(casts)
        casts.last(LENGTH)
        return casts.wrong


def uncast_where(condition: Callable[[Tensor], bool]) -> Callable[[Cast], Cast]:
    return lambda cast: lambda x: x if condition(x) else cast(x)


def after(calls: int) -> Callable[[Cast], Cast]:
    made = 0

    def forgotten(_: Tensor) -> bool:
        nonlocal made
        made += 1
        return made > calls

    return uncast_where(forgotten)


def from_the_storage(cast: Cast) -> Cast:
    return lambda x: cast(x.as_strided(x.shape, x.stride(), 0) if x.is_contiguous() else x)


def clamped_at_the_first(cast: Cast) -> Cast:
    largest: list[Tensor] = []

    def clamped(x: Tensor) -> Tensor:
        largest.append(x.abs().amax())
        return cast(x.clamp(-largest[0], largest[0]))

    return clamped


def by_one_buffer(cast: Cast) -> Cast:
    buffers: dict[Any, Tensor] = {}

    def buffered(x: Tensor) -> Tensor:
        buffer = buffers.setdefault((x.shape, x.dtype), torch.empty(x.shape, dtype=x.dtype))
        buffer.copy_(x)
        return cast(buffer)

    return buffered


#: What a cast of one module becomes, and the kind of input that tells.
SPOILT: dict[str, tuple[Callable[[Cast], Cast], str]] = {
    "at once": (
        lambda _: lambda x: x,
        r"^the fixed probe once more, last in the case: other bits in row 0 and ",
    ),
    "one row": (
        lambda cast: lambda x: torch.cat([cast(x)[..., :3, :], x[..., 3:4, :], cast(x)[..., 4:, :]], -2),
        r"^the fixed probe once more, last in the case: other bits in row 3 of 32 of its activations$",
    ),
    "the sign of zero": (
        lambda cast: lambda x: cast(x) + 0.0,
        r"^the fixed probe once more, .*: other bits in row \d",
    ),
    "longer than the text": (
        uncast_where(lambda x: x.shape[-2] > LENGTH),
        r"^a 3-D input longer than the te",
    ),
    "three axes": (
        uncast_where(lambda x: x.dim() == 3),
        r"^a 3-D input longer than the text: other bits in row \d+ and",
    ),
    "along the rows": (
        lambda cast: lambda x: cast(x.mT.contiguous()).mT if x.dim() == 3 else cast(x),
        r"^a 3-D input longer than the text: ",
    ),
    "a slice": (from_the_storage, r"^a slice with a storage offset: other bits in row "),
    "bfloat16": (uncast_where(lambda x: x.dtype == torch.bfloat16), r"^a bfloat16 input: other bits in row "),
    "float16": (uncast_where(lambda x: x.dtype == torch.float16), r"^a float16 input: other bits in row "),
    "a scale that stays": (clamped_at_the_first, r"^values 1,024 times as large: other bits in row "),
    "beyond 2^20": (
        uncast_where(lambda x: x.numel() > 1 << 20),
        r"^a tensor of 1,050,624 elements: at two threads it gives other bits in row 0 and 16,415 ",
    ),
    "two threads": (
        uncast_where(lambda _: torch.get_num_threads() > 1),
        r"^a tensor of 1,050,624 elements: at two threads alone it gives other bits in row 0 ",
    ),
    "two callers": (by_one_buffer, r"^two callers at once: other bits in row "),
    "100 calls": (after(100), r"^104 calls of one module: at call \d+ it gives other bits in row 0 of 1 of "),
    "5,000 calls": (
        after(5000),
        r"^5,120 calls of one cast: at call [\d,]+ it gives other bits in row 0 of 1 of its activations$",
    ),
}


@pytest.mark.usefixtures("in_full")
@pytest.mark.parametrize("fault", SPOILT)
def test_a_cast_that_is_spoilt_in_one_module_is_seen_there(fault: str) -> None:
    spoil, words = SPOILT[fault]

    def spoil_one(casts: SteadyCasts) -> None:
        module: Any = casts.conversion.modules[name]
        module.cast = spoil(module.cast)

    name = "model.layers.0.self_attn.q_proj"  # the first that is asked
    found = wrong(tiny("llama-3.1-8b"), E4M3, spoil_one)
    assert found.keys() == {name}
    assert re.search(words, found[name]), found[name]


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("llama-3.1-8b", EVERYTHING),
        ("mixtral-8x7b", recipe("nvfp4", tier="A", attention=True)),
        ("gpt-oss-20b", recipe("mxfp8_e4m3", tier="A")),
        ("bloom-560m", recipe("fp8_tensor_e4m3", tier="A", outputs=True)),
        ("llama-3.1-8b", recipe("mxint8", tier="B", weights_only=True)),
        ("llama-3.1-8b", recipe("bf16_operands", tier="B", attention=True)),
        ("llama-3.1-8b", recipe("bf16")),
        ("llama-3.1-8b", recipe("scaled_mm_fp8", tier="B")),
        ("llama-3.1-8b", recipe("scaled_mm_fp8_row", tier="B")),
        ("llama-3.1-8b", recipe("bnb_int8", tier="B")),
    ],
    ids=lambda one: one if isinstance(one, str) else one.precision,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sound_cast_stays_the_same(name: str, made: Recipe, dtype: torch.dtype) -> None:
    if made.precision == "bnb_int8":
        pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    assert wrong(tiny(name).to(dtype), made, lambda _: None) == {}


@pytest.mark.parametrize("place", ["result", "first", "second", "elementwise"])
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("a slice", "a slice with a storage offset: other bits in row"),
        ("two threads", "at two threads alone it gives other bits in row"),
    ],
)
def test_every_cast_at_a_call_is_asked(place: str, fault: str, words: str) -> None:
    spoil = SPOILT[fault][0]

    def spoil_one(casts: SteadyCasts) -> None:
        conversion = casts.conversion
        part: Any = {
            "result": next(iter(conversion.modules.values())),
            "elementwise": conversion.elementwise,
        }.get(place, next(iter(conversion.attention.values())))
        attribute = "cast" if place == "elementwise" else place
        setattr(part, attribute, spoil(getattr(part, attribute)))

    found = wrong(tiny("llama-3.1-8b"), EVERYTHING, spoil_one)
    expected = {
        "result": "model.layers.0.self_attn.q_proj",
        "elementwise": ELEMENTWISE,
    }.get(place, "model.layers.0.self_attn")
    assert found.keys() == {expected}
    assert words in found[expected]


def test_a_library_s_cast_is_asked_row_by_row() -> None:
    def spoil_one(casts: SteadyCasts) -> None:
        module: Any = next(iter(casts.conversion.modules.values()))
        operand = module.operand
        module.operand = lambda x: operand(x.clamp(-4, 4) if x.numel() > 1 << 15 else x)

    for precision in ("scaled_mm_fp8", "scaled_mm_fp8_row"):
        ((name, words),) = wrong(tiny("llama-3.1-8b"), recipe(precision, tier="B"), spoil_one).items()
        assert name == "model.layers.0.self_attn.q_proj"
        assert re.match(r"a tensor of 34,816 elements: at two threads it gives other bits in row \d+", words)


def test_a_kernel_that_fails_is_the_case_s_fault_and_no_error_of_ours() -> None:
    def spoil_one(casts: SteadyCasts) -> None:
        module: Any = next(iter(casts.conversion.modules.values()))
        cast = module.cast

        def failing(x: Tensor) -> Tensor:
            if x.dim() == 3:
                raise RuntimeError("no such\nlayout")
            return cast(x)  # type: ignore[no-any-return]

        module.cast = failing

    found = wrong(tiny("llama-3.1-8b"), E4M3, spoil_one)
    assert [*found.values()] == [
        "a 3-D input longer than the text: the cast of its activations raised RuntimeError: no such layout"
    ]


@pytest.mark.parametrize(
    ("target", "value", "made", "dtype", "words"),
    [
        ("activation_cast", lambda made: made, E4M3, torch.float32, None),
        (
            "axis",
            -1,
            recipe("mxfp8_e4m3", tier="B", attention=True),
            torch.float32,
            "row .* of its keys and val",
        ),
        ("uncast", torch.bfloat16, E4M3, torch.bfloat16, "row 0 and .* of its activations"),
    ],
)
def test_without_a_baseline_operands_are_what_the_recipe_says(
    target: str, value: Any, made: Recipe, dtype: torch.dtype, words: str | None
) -> None:
    """What is wrong from the start on: nothing but the recipe can tell."""
    with steady(tiny("llama-3.1-8b").to(dtype), made) as casts:
        conversion = casts.conversion
        if target == "axis":
            for attention in conversion.attention.values():
                attention.second = attention.first
        if target == "uncast":
            for module in conversion.modules.values():
                one: Any = module
                one.cast = uncast_where(lambda x: x.dtype == value)(one.cast)
        casts.first()
        assert (words is None) == (casts.wrong == {})
        assert all(re.search(str(words), found) for found in casts.wrong.values())


def alike(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
    """Ours by another name: its bits tell nothing."""
    return quantize_eager(x, spec)


@pytest.mark.parametrize("ignored", ["", "weights", "activations"])
def test_the_kernel_that_is_called_is_the_recipe_s(ignored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import mxcheck.models.conversion.linear as linear

    made = recipe("mxfp8_e4m3", tier="B", attention=True, kernel=f"{__name__}:alike")
    cast, weight = linear.activation_cast, linear.cast_weight
    if ignored == "activations":
        monkeypatch.setattr(linear, "activation_cast", lambda operand, _, of: cast(operand, "eager", of=of))
    if ignored == "weights":
        monkeypatch.setattr(
            linear, "cast_weight", lambda w, operand, _, **how: weight(w, operand, "eager", **how)
        )
    with steady(tiny("llama-3.1-8b"), made) as casts:
        casts.first()
        casts.last(LENGTH)
    words = set(casts.wrong.values())
    assert len(words) == bool(ignored)
    for one in words:
        assert re.search(
            rf"mxcheck\.kernels\.eager:\w+ cast its {ignored}, .* says .*test_steady_casts:alike$", one
        )


def test_a_module_in_training_mode_is_named() -> None:
    model = tiny("llama-3.1-8b")
    ids = torch.arange(8).unsqueeze(0)
    for left, words in (
        (True, r"^is left in training mode$"),
        (False, r"^ran in training mode while it was mea"),
    ):
        with steady(model, E4M3) as casts, torch.no_grad():
            with casts.measuring():
                module: nn.Module = model.get_submodule(UP)
                if not left:
                    module.train()
                model(input_ids=ids, use_cache=False)
                module.train(left)
            ((name, found),) = casts.wrong.items()
            assert name == UP
            assert re.search(words, found)
        model.eval()


def test_asking_leaves_everything_as_it_was() -> None:
    model, threads = tiny("mixtral-8x7b"), torch.get_num_threads()
    with (
        steady(model, recipe("mxfp8_e4m3", tier="B", attention=True, elementwise="bf16")) as casts,
        torch.no_grad(),
    ):
        casts.first()
        assert {module.calls for module in casts.conversion.modules.values()} == {0}
        model(input_ids=torch.arange(8).unsqueeze(0), use_cache=False)
        assert casts.conversion.elementwise is not None
        noted = [
            [
                (module.calls, getattr(module, "expert_rows", None))
                for module in casts.conversion.modules.values()
            ],
            casts.conversion.elementwise.counts,
        ]
        copied = repr(noted)
        casts.last(LENGTH)
        assert repr(noted) == copied
    assert torch.get_num_threads() == threads


def test_the_thread_count_comes_back_where_a_cast_fails() -> None:
    counts = []

    def failing(cast: Cast) -> Cast:
        def fails(x: Tensor) -> Tensor:
            counts.append(torch.get_num_threads())
            if counts[-1] > 1:
                raise RuntimeError("two are too many")
            return cast(x)

        return fails

    def spoil_one(casts: SteadyCasts) -> None:
        module: Any = next(iter(casts.conversion.modules.values()))
        module.cast = failing(module.cast)

    before = torch.get_num_threads()
    found = wrong(tiny("llama-3.1-8b"), E4M3, spoil_one)
    assert "two are too many" in next(iter(found.values()))
    assert max(counts) == 2
    assert torch.get_num_threads() == before


def test_what_was_held_is_not_asked_again_and_what_was_not_is() -> None:
    held = set[Hashable]()
    assert wrong(tiny("llama-3.1-8b"), E4M3, lambda _: None, held) == {}

    def spoil_one(casts: SteadyCasts) -> None:
        module: Any = next(iter(casts.conversion.modules.values()))
        module.cast = uncast_where(lambda x: x.numel() > 1 << 15)(module.cast)

    assert wrong(tiny("llama-3.1-8b"), E4M3, spoil_one, held) == {}, "the same code was asked in this process"
    held.clear()
    assert wrong(tiny("llama-3.1-8b"), E4M3, spoil_one, held) != {}
    assert wrong(tiny("llama-3.1-8b"), E4M3, spoil_one, held) != {}, "what was wrong is asked again"


def test_another_session_asks_anew() -> None:
    from mxcheck.measure.model_session import ModelSession

    assert ModelSession().held is not ModelSession().held
    session = ModelSession()
    assert session.with_resident(session.__dict__["_resident"]).held is session.held


def limited(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
    """Ours for at most 128 rows, in fp32, and for no large values: the scale of such a kernel is fixed."""
    if x.numel() // x.shape[-1] > 128:
        raise NotImplementedError("at most 128 rows")
    if x.dtype != torch.float32 or x.abs().amax() > 4:
        raise NotImplementedError("small fp32 values only")
    return quantize_eager(x, spec)


def test_what_a_user_s_kernel_refuses_is_noted_and_no_fault() -> None:
    held = set[Hashable]()
    with steady(
        tiny("llama-3.1-8b"), recipe("mxfp8_e4m3", tier="B", kernel=f"{__name__}:limited"), held
    ) as casts:
        casts.first()
        casts.last(LENGTH)
    assert casts.wrong == {}
    of = "(activations of model.layers.0.self_attn.q_proj)"
    assert casts.refused == {
        "a 3-D input longer than the text": f"at most 128 rows {of}",
        "values 1,024 times as large": f"small fp32 values only {of}",
        "a tensor of 34,816 elements": f"at most 128 rows {of}",
        "a tensor of 33,792 elements": "at most 128 rows (activations of model.layers.0.mlp.down_proj)",
    }
    assert {key[0] for key in held if isinstance(key, tuple)} == {"callers", "calls", "many calls"}


def test_a_kernel_of_ours_refuses_nothing() -> None:
    def spoil_one(casts: SteadyCasts) -> None:
        module: Any = next(iter(casts.conversion.modules.values()))
        cast = module.cast

        def refusing(x: Tensor) -> Tensor:
            if x.dtype == torch.float16:
                raise NotImplementedError("no fp16")
            return cast(x)  # type: ignore[no-any-return]

        module.cast = refusing

    (words,) = wrong(tiny("llama-3.1-8b"), E4M3, spoil_one).values()
    assert words == "a float16 input: the cast of its activations raised NotImplementedError: no fp16"


def test_what_was_taken_before_is_not_refused_later() -> None:
    made = recipe("mxfp8_e4m3", tier="B", kernel=f"{__name__}:alike")

    def spoil_one(casts: SteadyCasts) -> None:
        module: Any = next(iter(casts.conversion.modules.values()))
        cast, calls = module.cast, iter(range(60))

        def tired(x: Tensor) -> Tensor:
            if next(calls, None) is None:
                raise NotImplementedError("enough")
            return cast(x)  # type: ignore[no-any-return]

        module.cast = tired

    (words,) = wrong(tiny("llama-3.1-8b"), made, spoil_one).values()
    assert re.match(r"104 calls of one module: at call \d+ it refuses what it took before: enough", words)


#: Of many models that people use; from 13,824 on all rows of the probe, or all but one, have the largest
#: magnitude.
WIDTHS = (
    *(16, 32, 48, 64, 128, 576, 2048, 4096, 5120, 8192, 11008, 13824, 14336, 15360, 16384, 17920, 18944),
    *(20480, 22016, 24576, 25600, 27648, 28672, 29568, 32768, 36864, 53248),
)


@pytest.mark.parametrize("width", WIDTHS)
def test_every_width_has_rows_without_the_largest_magnitude(width: int) -> None:
    before = uneven_probe(width)
    asked = ProbedCast(
        name="a", what="activations", cast=lambda x: (x,), before=before, after=(before,), code="a"
    )
    order = asked.order(6 * 32 + 16)
    assert order[-32:].tolist() == [*range(32)]
    sizes = before.abs().amax(-1)
    fillers = order[:-32]
    assert sizes[fillers].amax() < sizes.amax()
    assert len(set(fillers.tolist())) == 21
    blocks = [tuple(block.tolist()) for block in fillers[:160].split(32)]
    assert len({*blocks}) == len(blocks) == 5
    assert torch.equal(before, before.to(torch.float16).float())
    assert torch.equal(before, before.to(torch.bfloat16).float())
    kinds = [kind for kind in probe_inputs.questions(asked, 64) if kind.key is None or kind.key[0] == "large"]
    assert [kind.ask() for kind in kinds] == ["", "", ""]
