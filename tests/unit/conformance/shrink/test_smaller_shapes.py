"""The fewest rows and blocks that show a mismatch, found in few calls."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mxcheck.conformance.shrink.smaller_shapes import alone_among_equals, least_shape
from mxcheck.formats.spec import CastSpec, cast_spec


def least(
    shape: tuple[int, int],
    place: tuple[int, int],
    shows: Callable[[Tensor], bool],
) -> tuple[Tensor, int]:
    """The smallest input, and how many were tried."""
    tried = []

    def shows_it(x: Tensor, _: CastSpec) -> bool:
        tried.append(x.shape)
        return shows(x)

    one = alone_among_equals(torch.full(shape, 3.0), cast_spec("fp8_e4m3"), place, shows_it)
    assert one is not None
    return least_shape(one, shows_it).cast()[0], len(tried)


@pytest.mark.parametrize(
    ("shows", "shape"),
    [
        pytest.param(lambda x: x.numel() > 0, (1, 32), id="anything"),
        pytest.param(lambda x: x.shape[0] >= 77, (77, 32), id="a number between those tried"),
        pytest.param(lambda x: x.shape[0] % 128 == 0 and x.shape[1] % 128 == 0, (128, 128), id="tiles"),
        pytest.param(lambda x: x.shape[0] * x.shape[1] > 1000, (1, 1024), id="both together"),
        pytest.param(lambda x: bool(x[-1].any()), (1, 32), id="in the last row"),
        pytest.param(lambda x: x.shape[0] > 128 and bool(x[128].any()), (129, 32), id="behind a tile"),
        pytest.param(lambda x: x.shape == (1024, 1280), (1024, 1280), id="nothing smaller"),
    ],
)
def test_as_few_rows_and_blocks_as_show_it(shows: Callable[[Tensor], bool], shape: tuple[int, int]) -> None:
    place = (128, 64) if shape == (129, 32) else (1023, 64)
    x, tried = least((1024, 1280), place, shows)
    assert tuple(x.shape) == shape
    assert set(x.unique().tolist()) <= {0.0, 3.0}
    assert int(x.count_nonzero()) == 32
    assert tried < 300


def test_a_ragged_tail_stays_one() -> None:
    x, _ = least((40, 81), (39, 80), lambda x: bool(x[-1, -17:].all()) and x.shape[1] % 32 == 17)
    assert tuple(x.shape) == (1, 17)


def test_where_zeros_hide_it_another_number_lies_around() -> None:
    x, _ = least((64, 64), (5, 40), lambda x: bool(x.all()) and x.shape[0] > 1)
    assert tuple(x.shape) == (2, 32)
    assert sorted(set(x.unique().tolist())) == [1.5, 3.0]


def test_none_where_the_numbers_around_it_matter() -> None:
    spec = cast_spec("fp8_e4m3")
    assert alone_among_equals(torch.ones(4, 64), spec, (0, 0), lambda x, _: bool((x == 1).all())) is None


def test_random_integers_come_along() -> None:
    random = torch.arange(256).view(4, 64)
    spec = CastSpec(format="fp8_e4m3", rounding="stochastic", random=random)
    one = alone_among_equals(torch.ones(4, 64), spec, (3, 33), lambda *_: True)
    assert one is not None
    x, made = least_shape(one, lambda x, _: len(x) > 1).cast()
    assert (tuple(x.shape), tuple(made.random.shape)) == ((2, 32), (2, 32))
    assert set(made.random.unique().tolist()) == {0, *range(224, 256)}
