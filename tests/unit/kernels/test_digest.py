"""Digests by row group: the same for the same bits however they are read, another for every change tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from mxcheck.gate.row_groups import RowGroups, changed_rows
from mxcheck.kernels import digest as module
from mxcheck.kernels.digest import (
    GROUP_LEVEL,
    LANES,
    MOST_GROUPS,
    ROW_LEVEL,
    SHAPE_LEVEL,
    add_to_groups,
    digest,
    keys,
    sums_of_rows,
    text_digest,
)

DTYPES = (
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.float8_e4m3fn,
    torch.bfloat16,
    torch.float16,
    torch.int32,
    torch.float32,
    torch.int64,
    torch.float64,
    torch.complex64,
    torch.complex128,
)
SHAPES = ((), (1,), (7,), (3, 5), (40, 9), (2, 3, 4), (3, 2, 7, 5))


def octets(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def values(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Random bits (of booleans: random values)."""
    if dtype == torch.bool:
        return octets(*shape) > 127
    return octets(*shape, dtype.itemsize).view(dtype).reshape(shape)


def by_the_definition(*tensors: Tensor) -> list[str]:
    """The digest by its definition, in Python's integers."""

    def key(level: int, lane: int, position: int) -> int:
        z = ((level + lane << 48) + position) * 0x9E3779B97F4A7C15 % 2**64
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return z ^ z >> 31

    def words(data: bytes, *, signed: bool) -> list[int]:
        data += bytes(-len(data) % 4)
        return [int.from_bytes(data[i : i + 4], "little", signed=signed) for i in range(0, len(data), 4)]

    def total(level: int, lane: int, of: list[int]) -> int:
        return sum(key(level, lane, position) * word for position, word in enumerate(of)) % 2**64

    strings: list[bytes] = []
    for tensor in tensors:
        array = tensor.contiguous().reshape(-1, tensor.shape[-1] if tensor.dim() else 1).view(torch.uint8)
        strings += [row.numpy().tobytes() for row in array]
    shapes = ";".join(f"{tensor.dtype}{tuple(tensor.shape)}" for tensor in tensors)
    found = []
    size = -(-len(strings) // MOST_GROUPS)
    for first in range(0, len(strings), size):
        before = [0] * (LANES * first)
        in_group = [
            total(ROW_LEVEL, lane, words(row, signed=True)) >> 32
            for row in strings[first : first + size]
            for lane in range(LANES)
        ]
        lanes = [
            total(GROUP_LEVEL, lane, before + in_group)
            + total(SHAPE_LEVEL, lane, words(shapes.encode(), signed=False))
            for lane in range(LANES)
        ]
        found.append("".join(f"{lane % 2**64 >> 32:08x}" for lane in lanes))
    return found


def test_keys_are_the_numbers_of_splitmix64() -> None:
    # the first three of seed 0, as Vigna's splitmix64.c prints them
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]

    assert keys(0, 1, 3)[0].tolist() == expected
    assert np.array_equal(keys(ROW_LEVEL, 5, 4), keys(ROW_LEVEL, 0, 9)[:, 5:])


def test_no_key_serves_twice() -> None:
    levels = [keys(level, 0, 1000) for level in (ROW_LEVEL, GROUP_LEVEL, SHAPE_LEVEL)]

    assert len(np.unique(np.concatenate(levels))) == 3 * LANES * 1000


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_digest_is_what_its_definition_says(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = values(shape, dtype)
    found = digest(x)

    assert list(found.groups) == by_the_definition(x)
    assert found.rows == (x.shape[:-1].numel() if x.dim() else 1)


def test_rows_of_several_tensors_are_counted_through() -> None:
    parts = (octets(20, 6), values((3, 4, 5), torch.float32), torch.tensor(1.5))

    assert digest(*parts).rows == 20 + 12 + 1
    assert list(digest(*parts).groups) == by_the_definition(*parts)
    assert digest(*parts) != digest(*reversed(parts))


def test_it_stays_what_it_was() -> None:
    # Baselines hold digests: another numpy or torch may not change one.
    assert digest(torch.arange(12, dtype=torch.uint8).view(3, 4)).groups == (
        "00cba6297d100b0d",
        "a172341e34e50f2f",
        "3be83bce068b3967",
    )
    assert text_digest("row groups") == "8a4def52b93e736d"


def test_strides_do_not_matter() -> None:
    x = values((6, 10, 24), torch.bfloat16)
    same: list[Callable[[Tensor], Tensor]] = [
        lambda x: x.mT.contiguous().mT,
        lambda x: x.permute(2, 0, 1).contiguous().permute(1, 2, 0),
        lambda x: torch.nn.functional.pad(x.view(torch.int16), (3, 2)).view(torch.bfloat16)[..., 3:27],
        lambda x: x.repeat_interleave(2, dim=1)[:, ::2],
        lambda x: torch.cat([x.new_zeros(1), x.reshape(-1)])[1:].view(x.shape),
    ]

    for view in same:
        assert not torch.equal(x.view(torch.int16), x.flip(0).view(torch.int16))
        assert digest(view(x)) == digest(x)
    assert digest(x[:1].expand(6, 10, 24)) == digest(x[:1].repeat(6, 1, 1))
    one = torch.tensor([2.5])
    assert digest(one.expand(1, 1)) == digest(one.view(1, 1).clone())
    assert digest(octets(4, 7)[1:2]) == digest(octets(4, 7)[1:2].clone())


def test_lazily_conjugated_and_negated_values_are_read_as_they_are() -> None:
    x = torch.complex(torch.randn(3, 4), torch.randn(3, 4))

    assert digest(x.conj()) == digest(x.conj().resolve_conj()) != digest(x)
    assert digest(x.conj().imag) == digest(x.conj().imag.resolve_neg()) != digest(x.imag)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_it_is_the_same_on_one_and_on_two_threads() -> None:
    x = values((300, 1001), torch.float32)
    found = []
    for number in (1, 2):
        torch.set_num_threads(number)
        assert torch.get_num_threads() == number
        found.append(digest(x, x.t()))

    assert found[0] == found[1]


@pytest.mark.parametrize("tile", [1, 3, 64, 1 << 18])
@pytest.mark.parametrize("band", [1, 7, 1 << 17])
def test_it_is_the_same_however_the_work_is_cut(
    tile: int, band: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = [
        values((5, 9, 13), dtype).transpose(0, 1) for dtype in (torch.uint8, torch.float32, torch.int64)
    ]
    whole = digest(*tensors)
    monkeypatch.setattr(module, "_TILE", {"cpu": tile})
    monkeypatch.setattr(module, "_BAND", band)

    assert digest(*tensors) == whole


def test_sums_of_tiles_in_any_order_are_the_sums_of_the_whole() -> None:
    x = values((50, 60), torch.float32)
    whole = np.zeros((LANES, 5), dtype=np.uint64)
    add_to_groups(whole, sums_of_rows(x), 0, 10)

    tiles = [(row, column) for row in range(0, 50, 7) for column in range(0, 60, 11)]
    order = torch.randperm(len(tiles), generator=torch.Generator().manual_seed(1)).tolist()
    rows = {row: np.zeros((LANES, min(7, 50 - row)), dtype=np.uint64) for row in range(0, 50, 7)}
    for row, column in (tiles[place] for place in order):
        rows[row] += sums_of_rows(x[row : row + 7, column : column + 11], start=column)
    summed = np.zeros((LANES, 5), dtype=np.uint64)
    for row in reversed(rows):
        add_to_groups(summed, rows[row], row, 10)

    assert np.array_equal(summed, whole)


def test_every_single_bit_moves_its_group_alone() -> None:
    x = octets(20, 13)
    before = digest(x)
    seen = {before.groups}
    for row in range(20):
        for column in range(13):
            for bit in range(8):
                x[row, column] ^= 1 << bit
                after = digest(x)
                x[row, column] ^= 1 << bit
                moved = [
                    i
                    for i, pair in enumerate(zip(before.groups, after.groups, strict=True))
                    if len({*pair}) == 2
                ]
                assert moved == [row // -(-20 // MOST_GROUPS)]
                seen.add(after.groups)

    assert len(seen) == 20 * 13 * 8 + 1


@pytest.mark.parametrize("width", [1, 4, 6, 32])
def test_every_swap_of_two_rows_is_seen(width: int) -> None:
    x = octets(24, width, seed=1)
    before = digest(x)
    seen = 0
    for first, second in combinations(range(24), 2):
        swapped = x.clone()
        swapped[[first, second]] = x[[second, first]]
        if not torch.equal(swapped, x):
            seen += 1
            assert digest(swapped) != before

    assert seen > 200


@pytest.mark.parametrize("block", [1, 2, 4, 16, 32])
def test_every_swap_of_two_neighbouring_blocks_is_seen(block: int) -> None:
    x = octets(4, 64, seed=2)
    before = digest(x)
    for row in range(4):
        for first, second in pairwise(range(0, 64, block)):
            swapped = x.clone()
            swapped[row, first : first + block] = x[row, second : second + block]
            swapped[row, second : second + block] = x[row, first : first + block]
            if not torch.equal(swapped, x):  # of single bytes some are equal
                assert digest(swapped) != before
    assert digest(x.view(4, 2, 32).flip(1).reshape(4, 64)) != before


def test_shape_dtype_and_order_are_seen() -> None:
    x = octets(4, 8)
    zero = torch.zeros(4, 8, dtype=torch.uint8)
    different = [
        digest(x),
        digest(x.view(2, 16)),
        digest(x.view(4, 8, 1)),
        digest(x.view(1, 4, 8)),
        digest(x.view(-1)),
        digest(x.t()),
        digest(x.view(torch.int8)),
        digest(x, x),
        digest(x[:2], x[2:]),
        digest(zero),
        digest(zero[:, :7]),  # no byte tells them apart
        digest(zero[:, :5]),
        digest(zero[:3]),
        digest(zero[:0]),
        digest(zero[:0, :3]),
        digest(),
    ]

    assert len(set(different)) == len(different)


def test_the_sign_of_zero_and_the_bits_of_nan_are_seen() -> None:
    zeros = torch.zeros(2, 3)
    nan = torch.full((2, 3), torch.nan)
    other = (nan.view(torch.int32) ^ 1).view(torch.float32)

    assert digest(zeros) != digest(-zeros)
    assert digest(nan) != digest(other)


@pytest.mark.parametrize("rows", [1, 2, 15, 16, 17, 31, 32, 33, 100, 1000])
def test_a_changed_row_is_named_by_its_group(rows: int) -> None:
    x = octets(rows, 8)
    before = digest(x)
    assert len(before.groups) <= MOST_GROUPS
    for row in range(rows):
        changed = x.clone()
        changed[row, 3] ^= 1
        now, then = (RowGroups(rows=one.rows, groups=one.groups) for one in (digest(changed), before))
        named = changed_rows(now, then)
        size = -(-rows // MOST_GROUPS)
        first, last = row // size * size, min(rows, row // size * size + size) - 1
        stretch = str(first) if first == last else f"{first} to {last}"
        assert named == ("all 1 rows" if rows == 1 else f"rows {stretch} of {rows}")


def test_fewer_groups_when_asked() -> None:
    x = octets(64, 8)

    assert len(digest(x, most_groups=1).groups) == 1
    assert len(digest(x, most_groups=3).groups) == 3
    assert digest(x, most_groups=1).rows == 64


def test_temporaries_stay_small() -> None:
    # On the CPU torch tells of no peak, so the sizes of the pieces are held: words as int64, and their copy.
    assert module._TILE["cpu"] * (8 + 4) <= 64 * 2**20
    assert module._TILE_ELSEWHERE * (8 + 8 + 4) <= 64 * 2**20
    assert module._BAND * LANES * LANES * 8 * 4 <= 64 * 2**20


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; torch sees none")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_gpu_computes_the_same(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    x = values((3, 700, 1001), dtype)
    expected = digest(x, x.mT)
    assert digest(x.cuda(), x.cuda().mT) == expected
    monkeypatch.setattr(module, "find_spec", lambda _name: None)
    assert digest(x.cuda(), x.cuda().mT) == expected
