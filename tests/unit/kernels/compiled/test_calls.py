"""The compiled casts: eager's bits in every cell, for any input, whatever the process does around them."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import mxcheck
from mxcheck.conformance.cases.cells import Cell, cells
from mxcheck.conformance.verify.verifier import compare
from mxcheck.formats.blocks import BLOCK_FORMATS, E8M0
from mxcheck.formats.elements import ELEMENT_FORMATS
from mxcheck.formats.spec import ROUNDINGS, CastSpec, cast_spec
from mxcheck.kernels.block_views import DTYPES
from mxcheck.kernels.compiled import library
from mxcheck.kernels.compiled.calls import (
    dequantize_cpp,
    elements_cpp,
    fake_quantize_cpp,
    quantize_cpp,
)
from mxcheck.kernels.domain import NotSupported
from mxcheck.kernels.eager import fake_quantize_eager, quantize_eager
from mxcheck.kernels.element_codes import encode, round_elements
from mxcheck.kernels.quantized import QuantizedTensor

CELLS = {cell.id: cell for cell in cells("full")}
# shape, axis and block size: whole blocks, tails, lanes, blocks of one element and of more than a tile.
LAYOUTS = (
    ((7, 96), -1, 32),
    ((3, 65), 1, 32),
    ((67, 5), 0, 16),
    ((2, 40, 3), 1, 5),
    ((2, 300), 0, 32),
    ((1, 5000), -1, 2500),
    ((40, 2), 0, 1),
)

pytestmark = pytest.mark.skipif(library.missing() is not None, reason=f"{library.missing()}")


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def any_bits(shape: tuple[int, ...]) -> Tensor:
    return torch.randint(-(1 << 31), 1 << 31, shape, generator=generator(1)).int().view(torch.float32)


def near_ties(shape: tuple[int, ...]) -> Tensor:
    """Few significand bits, so that many elements are ties; some blocks of zeros, some of subnormals."""
    x = torch.randint(-64, 65, shape, generator=generator(2)) / 8
    return x * 2.0 ** torch.tensor([0, 3, -126, -140])[torch.arange(shape[0]) % 4].view(
        -1, *[1] * (len(shape) - 1)
    )


def same(one: Tensor, other: Tensor) -> bool:
    """Equal bits, but for those of a NaN."""
    if (one.shape, one.dtype, one.is_contiguous()) != (other.shape, other.dtype, True):
        return False
    if one.dtype == torch.uint8:
        return torch.equal(one, other)
    as_integers = {4: torch.int32, 2: torch.int16}[one.element_size()]
    equal = one.view(as_integers) == other.contiguous().view(as_integers)
    return bool((equal | (one.isnan() & other.isnan())).all())


def assert_as_eager(x: Tensor, spec: CastSpec) -> None:
    expected = quantize_eager(x, spec)
    got = quantize_cpp(x, spec)
    assert all(map(same, got, expected))
    assert same(fake_quantize_cpp(x, spec), fake_quantize_eager(x, spec))
    codes, scales, *tensor_scale = expected
    for dtype in DTYPES:
        with library.switched_off():
            values = QuantizedTensor(
                codes=codes, scales=scales, spec=spec, tensor_scale=tensor_scale[0] if tensor_scale else None
            ).dequantize(dtype)
        found = dequantize_cpp(codes, scales, tensor_scale[0] if tensor_scale else None, spec, dtype)
        assert found is not None
        assert same(found, values)


def spec_of(cell: Cell, x: Tensor, axis: int, block_size: int) -> CastSpec:
    random = (
        torch.randint(1 << 32, x.shape, generator=generator(3)) if cell.rounding == "stochastic" else None
    )
    size = {"block_size": block_size} if cell.spec().block.scale == E8M0 else {}
    return cell.spec(axis=axis, random=random, **size)


@pytest.mark.parametrize("name", CELLS)
def test_every_cell_has_the_bits_of_eager(name: str) -> None:
    for shape, axis, block_size in LAYOUTS:
        for numbers in (any_bits, near_ties):
            for dtype in DTYPES:
                x = numbers(shape).to(dtype)
                assert_as_eager(x, spec_of(CELLS[name], x, axis, block_size))


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    view=st.sampled_from(["as it is", "transposed", "every other", "expanded"]),
    name=st.sampled_from(sorted(CELLS)),
    dtype=st.sampled_from(DTYPES),
    data=st.data(),
)
def test_the_oracle_agrees_on_any_layout(
    sizes: list[int], view: str, name: str, dtype: torch.dtype, data: st.DataObject
) -> None:
    x = any_bits(tuple(sizes)).to(dtype)
    x = {
        "as it is": lambda: x,
        "transposed": lambda: x.transpose(0, -1),
        "every other": lambda: x[..., ::2],
        "expanded": lambda: x.unsqueeze(0).expand(3, *x.shape),
    }[view]()
    axis = data.draw(st.integers(-x.dim(), x.dim() - 1), label="axis")
    spec = spec_of(CELLS[name], x, axis, data.draw(st.sampled_from([1, 3, 16, 32, 64]), label="block size"))
    assert not compare(quantize_cpp, x, spec).counts
    assert not compare(fake_quantize_cpp, x, spec).counts


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_every_16_bit_input(dtype: torch.dtype) -> None:
    x = torch.arange(-(1 << 15), 1 << 15).short().view(dtype).view(256, 256)
    for name in ("fp8_e4m3", "e5m2_row"):
        assert_as_eager(x, cast_spec(name))
        assert_as_eager(x, cast_spec(name, axis=0))


@pytest.mark.parametrize("name", ["fp8_e5m2", "mxint8", "nvfp4"])
def test_every_code_under_every_scale_in_every_dtype(name: str) -> None:
    spec = cast_spec(name, block_size=BLOCK_FORMATS[name].block_size)
    size = spec.block_size
    assert size is not None
    codes = torch.arange(2 * spec.element.sign_bit, dtype=torch.uint8).repeat(256, 1)
    scales = torch.arange(256, dtype=torch.uint8).view(256, 1).repeat(1, -(-codes.shape[1] // size))
    for tensor_scale in (torch.tensor(0.3), torch.tensor(2.0**-140)) if name == "nvfp4" else (None,):
        for dtype in DTYPES:
            quantized = QuantizedTensor(codes=codes, scales=scales, spec=spec, tensor_scale=tensor_scale)
            with library.switched_off():
                expected = quantized.dequantize(dtype)
            assert same(quantized.dequantize(dtype), expected)
            found = dequantize_cpp(codes, scales, tensor_scale, spec, dtype)
            assert found is not None
            assert same(found, expected)


def test_a_code_that_the_element_does_not_have_is_an_error_as_before() -> None:
    spec = cast_spec("fp4_e2m1")
    scales = torch.full((1, 1), 127, dtype=torch.uint8)
    quantized = QuantizedTensor(codes=torch.full((1, 32), 16, dtype=torch.uint8), scales=scales, spec=spec)
    assert dequantize_cpp(quantized.codes, scales, None, spec, torch.float32) is None
    with pytest.raises(IndexError):
        quantized.dequantize()


@pytest.mark.parametrize("rounding", ROUNDINGS[:3])
@pytest.mark.parametrize("name", ELEMENT_FORMATS)
def test_elements_alone(name: str, rounding: str) -> None:
    element, x = ELEMENT_FORMATS[name], any_bits((100_000,))
    x = x if element.nan_magnitudes else x[~x.isnan()]
    expected = x.clone()
    round_elements(expected, element, rounding)
    assert torch.equal(elements_cpp(x, element, rounding), encode(expected.copysign_(x), element))


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


LARGE = {
    "many blocks": ((1, 2048, 1100), -1, {}),
    "rows with a tail": ((1030, 1025), -1, {}),
    "lanes": ((1100, 1030), 0, {}),
    "one block of lanes": ((1 << 20, 2), 0, {"block_size": 1 << 20}),
    "long blocks": ((9, 1 << 17), -1, {"block_size": 5000}),
}


@pytest.mark.parametrize("layout", LARGE)
@pytest.mark.parametrize("name", ["fp8_e4m3", "nvfp4", "e4m3_tensor", "e5m2_row"])
def test_threads_change_nothing(name: str, layout: str, threads: Callable[[int], None]) -> None:
    shape, axis, size = LARGE[layout]
    x = torch.randn(shape, generator=generator(4))
    spec = cast_spec(name, axis=axis, **(size if BLOCK_FORMATS[name].scale == E8M0 else {}))
    expected = quantize_eager(x, spec), fake_quantize_eager(x, spec)
    for count in (1, 2, 5):
        threads(count)
        assert all(map(same, quantize_cpp(x, spec), expected[0]))
        assert same(fake_quantize_cpp(x, spec), expected[1])
        codes, scales, *rest = expected[0]
        values = dequantize_cpp(codes, scales, rest[0] if rest else None, spec, torch.float32)
        assert values is not None
        assert same(values, expected[1])


@pytest.mark.parametrize("name", ["fp8_e4m3", "fp4_e2m1", "nvfp4", "e5m2_row"])
def test_flushing_subnormals_changes_nothing(name: str, threads: Callable[[int], None]) -> None:
    spec = cast_spec(name)
    x = torch.cat([any_bits((600, 480)).nan_to_num(0, 1, -1), torch.full((1, 480), 2.0**-140)])
    expected = quantize_eager(x, spec), fake_quantize_eager(x, spec)
    assert torch.set_flush_denormal(True)
    try:
        for count in (1, 2):
            threads(count)
            got = quantize_cpp(x, spec), fake_quantize_cpp(x, spec)
            assert torch.tensor(2.0**-126) * 0.5 == 0, "the caller's setting is left as it was"
            assert all(torch.equal(*pair) for pair in zip(got[0], expected[0], strict=True))
            assert torch.equal(got[1].view(torch.int32), expected[1].view(torch.int32))
    finally:
        torch.set_flush_denormal(False)


def test_a_forked_child_casts_on(threads: Callable[[int], None]) -> None:
    threads(2)
    x = torch.randn(1024, 512, generator=generator(5))
    expected = quantize_cpp(x, cast_spec("fp8_e4m3"))
    child = os.fork()
    if not child:
        got = quantize_cpp(x, cast_spec("fp8_e4m3"))
        os._exit(
            0
            if all(
                one.numpy().tobytes() == two.numpy().tobytes() for one, two in zip(got, expected, strict=True)
            )
            else 1
        )
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_where_no_thread_can_be_started_the_caller_does_its_part(threads: Callable[[int], None]) -> None:
    threads(5)
    x, spec = torch.randn(1024, 1024, generator=generator(11)), cast_spec("e4m3_tensor")
    expected = fake_quantize_eager(x, spec)
    child = os.fork()
    if not child:
        out = torch.empty_like(x)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + (1 << 20)  # less than a thread's stack
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        fake_quantize_cpp(x, spec, out)
        os._exit(0 if out.numpy().tobytes() == expected.numpy().tobytes() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_tensor_that_is_negated_when_it_is_read() -> None:
    x = torch.view_as_complex(torch.randn(4, 64, 2, generator=generator(6))).conj().imag
    assert x.is_neg()
    assert_as_eager(x, cast_spec("fp8_e4m3"))


def test_no_gradient_and_inference_mode() -> None:
    x = torch.randn(4, 64, generator=generator(7)).requires_grad_()
    assert not fake_quantize_cpp(x, cast_spec("fp8_e4m3")).requires_grad
    with torch.inference_mode():
        assert_as_eager(x.detach().clone(), cast_spec("nvfp4"))


def test_another_device_is_refused() -> None:
    with pytest.raises(NotSupported, match="run on a CPU, got a tensor on meta"):
        quantize_cpp(torch.empty(2, 32, device="meta"), cast_spec("fp8_e4m3"))


class Somebodys(Tensor):
    pass


def fake(x: Tensor) -> Tensor:
    return FakeTensorMode().from_tensor(x)


@pytest.mark.parametrize(
    "become",
    [
        fake,
        lambda x: x.as_subclass(Somebodys),
        Tensor.to_sparse,
        lambda x: torch._efficientzerotensor(x.shape),
    ],
    ids=["fake", "subclass", "sparse", "zero"],
)
def test_what_has_no_plain_memory_is_refused(become: Callable[[Tensor], Tensor]) -> None:
    plain, spec = torch.ones(2, 32), cast_spec("fp8_e4m3")
    x = become(plain)
    for cast in (quantize_cpp, fake_quantize_cpp):
        with pytest.raises(NotSupported, match=r"^compiled casts read plain memory, got a .*$"):
            cast(x, spec)
    with pytest.raises(NotSupported):
        fake_quantize_cpp(plain, spec, x)
    integers = replace(spec, rounding="stochastic", random=torch.zeros(2, 32, dtype=torch.int64))
    with pytest.raises(NotSupported):
        fake_quantize_cpp(x, integers)


def test_a_mode_that_makes_other_tensors_is_refused() -> None:
    x = torch.ones(2, 32)
    with FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(NotSupported, match="a dispatch mode"):
        quantize_cpp(x, cast_spec("fp8_e4m3"))


@pytest.mark.parametrize("captured", [False, True])
def test_auto_leaves_the_tensors_of_a_transform_to_eager(captured: bool) -> None:
    x = torch.randn(4, 64, generator=generator(9))

    def summed(z: Tensor, kernel: str) -> Tensor:
        return (mxcheck.fake_quantize(x if captured else z, "fp8_e4m3", kernel=kernel) * z).sum()

    assert torch.equal(torch.func.grad(summed)(x, "auto"), torch.func.grad(summed)(x, "eager"))
    with pytest.raises(NotSupported, match="inside a transform"):
        torch.func.grad(summed)(x, "cpp")


@pytest.mark.parametrize("kernel", ["eager", "auto"])
@pytest.mark.filterwarnings("ignore")
def test_a_trace_is_refused(kernel: str) -> None:
    """It would hold the values of the traced call."""
    x = torch.randn(4, 64, generator=generator(13))
    with pytest.raises(TypeError, match="divmod"):  # of eager, which counts blocks
        torch.jit.trace(lambda z: mxcheck.fake_quantize(z, "fp8_e4m3", kernel=kernel), (x,))


def test_a_fork_while_another_thread_compiles_can_compile() -> None:
    with library._LOADING:
        child = os.fork()
        if not child:
            os._exit(0 if library._LOADING.acquire(timeout=5) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_autograd_is_told_of_what_is_written_to() -> None:
    x, spec = torch.randn(4, 64, generator=generator(10)), cast_spec("nvfp4")
    parts, values = quantize_cpp(x, spec), torch.ones_like(x)
    before = [part._version for part in (*parts, values)]
    quantize_cpp(x, spec, parts)
    leaf = torch.ones(4, 64, requires_grad=True)
    product = (leaf * values).sum()
    fake_quantize_cpp(x, spec, values)
    assert all(part._version > one for part, one in zip((*parts, values), before, strict=True))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()
    with torch.inference_mode():
        fake_quantize_cpp(x, spec, torch.empty_like(x))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(0, 4), "x is empty"),
        (torch.zeros(4, 4, dtype=torch.float64), "x has dtype torch.float64"),
        ("x", "x must be a torch.Tensor"),
    ],
    ids=["empty", "float64", "no tensor"],
)
def test_errors_are_those_of_eager(x: Tensor, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        quantize_cpp(x, cast_spec("fp8_e4m3"))
    with pytest.raises(ValueError, match="axis 4 is out of range"):
        quantize_cpp(torch.ones(2, 2), cast_spec("fp8_e4m3", axis=4))
    with pytest.raises(ValueError, match="stochastic rounding needs random"):
        quantize_cpp(torch.ones(2, 2), cast_spec("fp8_e4m3", rounding="stochastic"))


def test_a_layout_is_kept_without_its_random_integers() -> None:
    x = torch.randn(2, 64, generator=generator(8))
    for seed in range(3):
        random = torch.randint(1 << 32, x.shape, generator=generator(seed))
        assert_as_eager(x, cast_spec("fp8_e4m3", rounding="stochastic", random=random))
        assert_as_eager(
            x, replace(cast_spec("fp8_e4m3", rounding="stochastic"), random=random.t().contiguous().t())
        )
