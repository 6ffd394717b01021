"""Find the options of a cast that an implementation ignores, such as a kernel that gives the same bits for
every scale rule.

Such a kernel does not declare what it is made for. So it is tested on what it does: for each ignored option,
on the value whose bits it gives, or is nearest to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mxcheck.conformance.cases.cells import Cell
from mxcheck.conformance.cases.generator import spread_with_ties
from mxcheck.conformance.cases.inside import columns_of, dtypes_of, rows_of
from mxcheck.conformance.cases.mixtures import BLOCK_SIZES
from mxcheck.conformance.cases.seeded_random import Draws
from mxcheck.conformance.verify.plain_results import plain_result
from mxcheck.conformance.verify.verifier import expected_parts, expected_values
from mxcheck.formats.blocks import BLOCK_FORMATS, E8M0
from mxcheck.formats.spec import CastSpec
from mxcheck.kernels.api import Kernel
from mxcheck.kernels.domain import Domain
from mxcheck.kernels.kept_settings import settings_kept
from mxcheck.kernels.refusals import is_interrupt
from mxcheck.kernels.torch_codes import TORCH_CODES

_E8M0_FORMATS = tuple(name for name, block in BLOCK_FORMATS.items() if block.scale == E8M0)
#: Fields of a cast, and the values that are tried. A kernel that ignores the rounding is tested on rounding
#: to even whatever it gives: ties away from zero are the most common fault.
_CHOICES: Mapping[str, tuple[Any, ...]] = {
    "axis": (-1, 0),
    "block_size": BLOCK_SIZES,
    "format": _E8M0_FORMATS,
    "scale_rule": BLOCK_FORMATS["fp8_e4m3"].scale_rules,
    "rounding": ("even", "away", "zero"),
}
#: The corresponding fields of a domain.
_OF_A_DOMAIN = {
    "axis": "axes",
    "block_size": "block_sizes",
    "format": "formats",
    "scale_rule": "scale_rules",
    "rounding": "roundings",
}
# Rows and columns. Every block size divides the columns, and the number of scales tells the axis. A kernel
# must ignore an option in all of these: ignoring it only in a fast path is a fault.
_ASKED = ((64, 128), (33, 128), (256, 512))

Result = tuple[Tensor, ...]


def disregarded(kernel: Kernel, cell: Cell, domain: Domain) -> dict[str, Any]:
    """Return field -> the implementation's own value, for each field that it ignores and that `domain` leaves
    open; empty if it gives no result.

    The NaN/Inf policy is never included: OCP leaves it open, and no cell is excused by it.
    """
    base = _base(cell, domain)
    shapes = [one for one in _shapes(domain) if _result(kernel, _numbers(one), base) is not None]
    if not shapes:
        return {}
    asked = shapes[0]
    ignored = [
        field
        for field in _fields(base)
        if getattr(domain, _OF_A_DOMAIN[field]) is None
        and all(_gives_one(kernel, shape, cell, base, field) for shape in shapes)
    ]
    found: dict[str, Any] = {"rounding": "even"} if "rounding" in ignored else {}
    told = [field for field in ignored if field != "rounding"]
    x = _numbers(asked)
    got = _result(kernel, x, base)
    if not told or got is None:
        return found
    misses = {
        spec: count
        for spec in _candidates(_with(base, found) or base, told)
        if (count := _misses(got, x, spec)) is not None
    }
    if not misses:
        return {}  # not the shape of a result: each cell reports it
    nearest = min(misses, key=misses.__getitem__)
    return found | {field: getattr(nearest, field) for field in told}


def _candidates(base: CastSpec, told: list[str]) -> list[CastSpec]:
    """Return the casts that a result may belong to: of other formats alone where the scale is no power of
    two."""
    if base.block.scale == E8M0:
        return _with_each(base, told)
    return [CastSpec(format=name) for name in _E8M0_FORMATS]


def _fields(base: CastSpec) -> tuple[str, ...]:
    """Return the fields that are varied: the format alone where its scale is no power of two."""
    return tuple(_CHOICES) if base.block.scale == E8M0 else ("format",)


def with_values(domain: Domain, values: Mapping[str, Any]) -> Domain:
    """Restrict a domain to one value for each of these fields."""
    chosen: dict[str, Any] = {_OF_A_DOMAIN[field]: (value,) for field, value in values.items()}
    return replace(domain, **chosen)


def in_words(values: Mapping[str, Any]) -> str:
    """`it ignores the request and uses: scale rule floor, rounding even`."""
    told = [f"{field.replace('_', ' ')} {value}" for field, value in values.items()]
    return f"it ignores the request and uses: {', '.join(told)}"


def _base(cell: Cell, domain: Domain) -> CastSpec:
    spec = cell.spec()
    if spec.block.scale != E8M0:
        return spec
    sizes = [size for size in domain.block_sizes or () if size is not None]
    return replace(
        spec,
        rounding="even" if spec.rounding == "stochastic" else spec.rounding,
        block_size=min(sizes) if sizes else spec.block_size,
        axis=next(iter(domain.axes)) if domain.axes else -1,
    )


def _shapes(domain: Domain) -> Iterator[_Shape]:
    """Yield the inputs to try: few numbers, an odd number of rows, tiles; in each dtype."""
    for (rows, columns), dtype in product(_ASKED, dtypes_of(domain)):
        yield _Shape(rows_of(rows, domain), columns_of(columns, domain, max(BLOCK_SIZES)), dtype)


class _Shape(NamedTuple):
    rows: int
    columns: int
    dtype: torch.dtype


def _numbers(asked: _Shape) -> Tensor:
    random = Draws("disregarded")
    x = spread_with_ties(asked[:2], random)
    # Values reveal their scale where they are subnormal or too large for their block.
    x *= torch.from_numpy(np.ldexp(np.float32(1), random.integers(-16, 1, asked[:2])))
    # In fp32: amax of E4M3 and of E5M2 for which `reciprocal` and `rceil` give different scales, and numbers
    # that are subnormal under them.
    for row, (amax, small) in enumerate([(-119, -136), (-112, -143)], 2):
        x[row], x[row, 0], x[row, 1] = 0, (1.75 + 2.0**-23) * 2.0**amax, 2.0**small
    return x.to(asked.dtype)


def _result(kernel: Kernel, x: Tensor, spec: CastSpec) -> Result | None:
    """Return a kernel's result, of any shape; None where it gives no tensors."""
    if spec.rounding == "stochastic":
        random = Draws("disregarded, random").integers(0, 1 << 32, tuple(x.shape))
        spec = replace(spec, random=torch.from_numpy(random))
    try:
        with settings_kept(), torch.random.fork_rng(devices=[]):
            returned = plain_result(kernel, kernel(x.clone(), spec), x)
    except BaseException as error:  # (whatever a kernel raises: each cell reports it)
        if is_interrupt(error):
            raise
        return None
    parts = returned if isinstance(returned, tuple) else (returned,)
    if not all(isinstance(part, Tensor) and part.device == x.device for part in parts):
        return None  # each cell reports it
    codes = (part.view(torch.uint8) if part.dtype in TORCH_CODES else part for part in parts)
    return tuple(part.clone() for part in codes)  # a kernel may reuse its memory


def _gives_one(kernel: Kernel, asked: _Shape, cell: Cell, base: CastSpec, field: str) -> bool:
    """Return whether every value of a field, of at least two, gives the same bits. The cell's own values are
    included: stochastic rounding, and the cell's format."""
    specs = _with_each(base, [field])
    if field == "rounding" and cell.rounding == "stochastic":
        specs.append(replace(base, rounding="stochastic"))
    if base.block.scale != E8M0:
        specs = [base, *_candidates(base, [field])]
    results = (_result(kernel, _numbers(asked), spec) for spec in specs)
    first = next(results)
    return len(specs) > 1 and first is not None and all(_alike(first, other) for other in results)


def _alike(one: Result, other: Result | None) -> bool:
    return (
        other is not None
        and len(one) == len(other)
        and all(
            (a.dtype, a.shape) == (b.dtype, b.shape)
            and torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))
            for a, b in zip(one, other, strict=True)
        )
    )


def _with(base: CastSpec, values: Mapping[str, Any]) -> CastSpec | None:
    """Replace fields of a cast; None where the format does not allow such a value."""
    try:
        return replace(base, **values)
    except ValueError:
        return None


def _with_each(base: CastSpec, fields: list[str]) -> list[CastSpec]:
    """Return every combination of the values of fields, in the order of `_CHOICES`."""
    values = (_CHOICES[field] for field in fields)
    specs = (_with(base, dict(zip(fields, some, strict=True))) for some in product(*values))
    return [spec for spec in specs if spec is not None]


def _misses(got: Result, x: Tensor, spec: CastSpec) -> int | None:
    """Count the elements that differ from the oracle's or lie under another scale; None if shapes differ."""
    parts = expected_parts(x, spec)
    if len(got) == 1:
        wanted = expected_values(parts, x.dtype, spec)
        if got[0].shape != wanted.shape:
            return None
        return int((~torch.isclose(got[0].to(wanted.dtype), wanted, rtol=0, atol=0, equal_nan=True)).sum())
    codes, scales = (torch.from_numpy(part) for part in parts[:2])
    if got[0].shape != codes.shape or got[1].shape != scales.shape:
        return None
    return int((got[0] != codes).sum()) + int((got[1] != scales).sum()) * (codes.numel() // scales.numel())
