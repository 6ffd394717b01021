"""Numbers of rows and columns that are learned: by what is taken and what is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mxcheck.conformance.implementation.learned_lengths import learned_lengths


@pytest.mark.parametrize(
    ("takes", "taken", "limits"),
    [
        pytest.param(lambda _: True, 256, (1, 1, None), id="all"),
        pytest.param(lambda count: count >= 16, 256, (16, 1, None), id="from 16"),
        pytest.param(lambda count: count % 128 == 0, 256, (128, 128, None), id="tiles"),
        pytest.param(lambda count: count == 1 or count % 128 == 0, 256, (128, 128, None), id="one or tiles"),
        pytest.param(lambda count: count % 96 == 0, 384, (96, 96, None), id="96"),
        pytest.param(lambda count: count % 1024 == 0, 12_288, (1024, 1024, None), id="1024"),
        pytest.param(lambda count: count <= 256, 128, (1, 1, 256), id="to 256"),
        pytest.param(lambda count: count <= 65_535, 256, (1, 1, 65_535), id="a grid"),
        pytest.param(
            lambda count: count % 64 == 0 and 128 <= count <= 2048, 256, (128, 64, 2048), id="between"
        ),
        pytest.param(lambda count: count & (count - 1) == 0, 256, (128, 128, 256), id="powers of two"),
        pytest.param(lambda count: count == 384, 384, (384, 1, 384), id="one alone"),
    ],
)
def test_the_smallest_multiple_that_explains_all(
    takes: Callable[[int], bool], taken: int, limits: tuple[int, int, int | None]
) -> None:
    found = learned_lengths(lambda count: "" if takes(count) else "no", taken, 65_792)
    assert found[:3] == limits
    assert bool(found.because) == (limits != (1, 1, None))


def test_where_a_few_are_taken_no_others_are_asked() -> None:
    asked: list[int] = []

    def take(count: int) -> str:
        asked.append(count)
        return ""

    learned_lengths(take, 256, 65_792)
    assert asked == [1, 3, 257, 65_792]
