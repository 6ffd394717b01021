"""`mxcheck explain`: a cast block by block, with the origin of each bit, and a kernel's result."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from mxcheck.formats.blocks import E4M3
from mxcheck.formats.codes import code_values
from mxcheck.formats.notation import round_to
from mxcheck.reporting.derivation import Cast, Step, block_steps, element_notes, runs, tensor_steps
from mxcheck.reporting.differences import Differences, Got
from mxcheck.reporting.numbers import binary, decimal, layout_of

#: Maximum number of elements shown of a larger tensor (runs of equal ones count once).
SHOWN = 64
_MOST_BLOCKS = 8
_WRONG = "bold red"
_NOTE_WIDTH = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedCast:
    """A kernel's result for the tensor, and its differences."""

    kernel: str
    dtype: str
    got: Got
    differences: Differences


def print_explanation(
    console: Console, done: Cast, *, dtype: str, comparison: ComparedCast | None = None
) -> None:
    """Print everything at the width that the figures need: only notes are folded, and nothing is cut."""
    for part in _parts(done, dtype, comparison, console):
        if isinstance(part, Table):
            console.width = max(console.width, _size(console, part).minimum)
        console.print(part, soft_wrap=isinstance(part, Text))


def _parts(
    done: Cast, dtype: str, comparison: ComparedCast | None, console: Console
) -> Iterator[RenderableType]:
    yield Text(_headline(done, dtype))
    steps = tensor_steps(done)
    if steps:
        yield Text("")
        yield from _steps(steps, _wrong_tensor_scale(comparison))
    order, left = _blocks_to_show(done, comparison), SHOWN
    everything = done.x.size <= SHOWN
    shown = elements = 0
    for block in order:
        rows = _rows(done, block, comparison)
        if not everything and shown and max(len(rows), 1) > left:
            break
        some = rows if everything or len(rows) <= left else _first_rows(rows, comparison, left)
        yield Text("")
        yield Text(_block_title(done, block), style="bold")
        yield from _steps(block_steps(done, block), _wrong_scale(comparison, block))
        yield _fitting(done, block, some, comparison, console)
        shown, left = shown + 1, left - max(len(some), SHOWN // _MOST_BLOCKS)
        elements += sum(map(len, some))
    if elements < done.x.size:
        yield Text(
            f"\nshown: {shown} of {len(done.blocks)} blocks, {elements} of {done.x.size} elements"
            + (", those that differ first" if comparison and comparison.differences.any else "")
        )
    if comparison is not None:
        text, wrong = comparison.differences.summary(done.spec), comparison.differences.any
        yield Text(f"\nkernel {comparison.kernel}: {text}", style=_WRONG if wrong else "bold green")


def _headline(done: Cast, dtype: str) -> str:
    spec, block = done.spec, done.spec.block
    words = [spec.format]
    if block.block_size is not None:
        words.append(f"blocks of {spec.block_size} with {'E4M3' if block.scale == E4M3 else 'E8M0'} scales")
    else:
        words.append(f"an fp32 scale {'a tensor' if block.whole_tensor else 'a row'}")
    words += [
        f"scale rule {spec.scale_rule}",
        f"rounding {spec.rounding}",
        f"NaN/Inf policy {spec.nonfinite}",
    ]
    shape = "x".join(map(str, done.x.shape))
    words.append(f"{dtype} input [{shape}]" + (f", axis {spec.axis}" if done.x.ndim > 1 else ""))
    return "; ".join(words)


def _steps(steps: Sequence[Step], wrong: str) -> Iterator[Text]:
    """Yield the steps below each other, and `wrong`, a kernel's result instead, after the last."""
    width = max(len(name) for name, _ in steps) + 2
    for number, (name, text) in enumerate(steps, 1):
        line = Text(f"  {name:<{width}}{text}")
        if wrong and number == len(steps):
            line.append(f"   ≠ got {wrong}", _WRONG)
        yield line


def _wrong_tensor_scale(comparison: ComparedCast | None) -> str:
    if comparison is None or not comparison.differences.tensor_scale:
        return ""
    assert comparison.got.tensor_scale is not None
    value = comparison.got.tensor_scale.reshape(())
    return f"{decimal(float(value))} ({_bits(value)})"


def _wrong_scale(comparison: ComparedCast | None, block: int) -> str:
    if comparison is None or not comparison.differences.scales[block]:
        return ""
    assert comparison.got.scales is not None
    return comparison.got.scale_text(block)


def _block_title(done: Cast, block: int) -> str:
    places, size = done.blocks[block], done.spec.block_size
    first, last = (_label(done, place) for place in (places[0], places[-1]))
    padding = 0 if size is None else size - len(places)
    name = "tensor" if done.spec.block.whole_tensor else "row" if size is None else "block"
    return (
        f"{name} {block} of {len(done.blocks)}: "
        + (f"element [{first}]" if first == last else f"elements [{first}] to [{last}]")
        + (f", filled up with {padding} zero{'s' * (padding > 1)}" if padding else "")
    )


def _label(done: Cast, place: int) -> str:
    return ",".join(str(index) for index in np.unravel_index(place, done.x.shape))


def _blocks_to_show(done: Cast, comparison: ComparedCast | None) -> list[int]:
    numbers = list(range(len(done.blocks)))
    if comparison is None or not comparison.differences.any or done.x.size <= SHOWN:
        return numbers
    elements, scales = comparison.differences.elements.ravel(), comparison.differences.scales
    different = [block for block in numbers if scales[block] or elements[done.blocks[block]].any()]
    return different or numbers


def _rows(done: Cast, block: int, comparison: ComparedCast | None) -> list[list[int]]:
    """Return the places in the flattened x, with neighbours of equal bits grouped."""
    places = [int(place) for place in done.blocks[block]]
    bits = done.x.ravel().view(np.uint32)
    random = None if done.spec.rounding != "stochastic" else np.asarray(done.spec.random).ravel()

    def same(place: int) -> object:
        return (
            bits[place],
            None if random is None else random[place],
            None if comparison is None else comparison.got.bits(place),
        )

    return runs(places, [same(place) for place in places])


def _first_rows(rows: list[list[int]], comparison: ComparedCast | None, count: int) -> list[list[int]]:
    if comparison is not None:
        elements = comparison.differences.elements.ravel()
        rows = [row for row in rows if elements[row[0]]] or rows
    return rows[:count]


def _fitting(
    done: Cast,
    block: int,
    rows: Sequence[Sequence[int]],
    comparison: ComparedCast | None,
    console: Console,
) -> Table:
    """Return the table of a block that fits this console: first with less space between columns, then without
    those that others imply. Where none fits, return the narrowest."""
    everything, bits = _columns(done, block, rows, comparison), layout_of(done.spec.element)
    implied = (
        (2, ()),
        (1, ()),
        (1, ("element",)),
        (1, ("element", "error")),
        (1, ("element", "error", bits)),
    )
    layouts = [
        _table([column for column in everything if column.name not in without], padding)
        for padding, without in implied
    ]
    sizes = [_size(console, layout) for layout in layouts]
    for fits in (
        [size.maximum <= console.width for size in sizes],
        [s.minimum <= console.width for s in sizes],
    ):
        if any(fits):
            return layouts[fits.index(True)]
    return layouts[-1]


def _size(console: Console, table: Table) -> Measurement:
    """Return its width without and with folded notes, whatever the console's."""
    return console.measure(table, options=console.options.update(width=10_000))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    name: str
    cells: Sequence[str]
    left: bool = False
    wrong: Sequence[bool] = ()


def _table(columns: Sequence[_Column], padding: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, padding, 0, 0), pad_edge=False)
    for column in columns[:-1]:
        width = max(map(cell_len, (column.name, *column.cells)))
        justify: Literal["left", "right"] = "left" if column.left else "right"
        table.add_column(column.name, justify=justify, no_wrap=True, min_width=width)
    table.add_column(columns[-1].name, min_width=_NOTE_WIDTH)
    for row, wrong in enumerate(columns[0].wrong):
        table.add_row(*(Text(column.cells[row]) for column in columns), style=_WRONG if wrong else None)
    return table


def _columns(
    done: Cast, block: int, rows: Sequence[Sequence[int]], comparison: ComparedCast | None
) -> list[_Column]:
    places = [row[0] for row in rows]
    layout = layout_of(done.spec.element)
    wrong = [
        comparison is not None and bool(comparison.differences.elements.ravel()[place]) for place in places
    ]
    random = (
        np.asarray(done.spec.random).ravel()[places].tolist()
        if done.spec.rounding == "stochastic"
        else [0] * len(places)
    )
    names = ("x", "fp32", "x / scale", "code", layout, "element", "value", "error", "error %")
    cells = list(zip(*(_cells(done, block, place) for place in places), strict=True))
    columns = [_Column(name="", cells=[_index(done, row) for row in rows], wrong=wrong)]
    columns += [_Column(name=name, cells=column) for name, column in zip(names, cells, strict=True)]
    if comparison is not None:
        got = [
            comparison.got.cells(place, block, wrong=bad) for place, bad in zip(places, wrong, strict=True)
        ]
        if comparison.got.values is not None:
            expected = round_to(done.values.ravel()[places], comparison.dtype)
            columns.append(_Column(name="as fp32", cells=[_bits(value) for value in expected]))
        columns += [
            _Column(name=name, cells=column)
            for name, column in zip(comparison.got.columns(layout), zip(*got, strict=True), strict=True)
        ]
    notes = [
        "; ".join(element_notes(done, block, place, number))
        for place, number in zip(places, random, strict=True)
    ]
    return [*columns, _Column(name="notes", cells=notes, left=True)]


def _index(done: Cast, row: Sequence[int]) -> str:
    first, last = _label(done, row[0]), _label(done, row[-1])
    return first if len(row) == 1 else f"{first} … {last}"


def _cells(done: Cast, block: int, place: int) -> list[str]:
    x, value = float(done.x.ravel()[place]), float(done.values.ravel()[place])
    scale, code, element = done.scale(block), int(done.codes.ravel()[place]), done.spec.element
    given = [decimal(x), _bits(done.x.ravel()[place])]
    if math.isnan(scale):  # the codes are undefined
        return [*given, "-", "any", "", "-", "NaN", "-", "-"]
    error = value - x
    relative = abs(error / x) if x and math.isfinite(x) else 0.0
    finite = math.isfinite(error)
    return [
        *given,
        decimal(x / scale) if scale else "-",
        f"{code:02X}",
        binary(element, code),
        decimal(code_values(element)[code]),
        decimal(value),
        (f"{error:.3g}" if error else "0") if finite else "-",
        (f"{100 * relative:.3g}" if relative else "0") if finite else "-",
    ]


def _bits(value: NDArray[np.float32] | np.float32) -> str:
    return f"{int(np.asarray(value).view(np.uint32)):08x}"
