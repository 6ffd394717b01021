"""Domains: the inputs and casts that a kernel is made for, declared beside it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from mxcheck.formats.blocks import BLOCK_FORMATS
from mxcheck.formats.choices import choose
from mxcheck.formats.spec import NONFINITE, ROUNDINGS, SCALE_RULES, CastSpec, resolve_axis

#: Dtypes of a cast's input, by name.
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_ATTRIBUTE = "mxcheck_domain"
_CHOICES: dict[str, tuple[str, tuple[Any, ...]]] = {
    "formats": ("format", tuple(BLOCK_FORMATS)),
    "scale_rules": ("scale rule", SCALE_RULES),
    "roundings": ("rounding", ROUNDINGS),
    "nonfinite": ("NaN/Inf policy", NONFINITE),
    "dtypes": ("dtype", tuple(DTYPES.values())),
}
_COUNTS = ("least_rows", "rows_multiple", "least_columns", "columns_multiple")
_AS_ROWS = " (mxcheck.as_rows makes it a matrix, mxcheck.from_rows undoes that)"
_MOST = ("most_rows", "most_columns")
#: In bytes. Torch aligns CPU memory to the last.
ALIGNMENTS = (1, 2, 4, 8, 16, 32, 64)
_Function = TypeVar("_Function", bound=Callable[..., Any])


class NotSupported(NotImplementedError):  # noqa: N818  (users raise it, and read it as a statement)
    """An implementation does not support a cast. The message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """The casts and inputs that an implementation is made for. A field that is None allows everything.

    *Columns* is the length of the axis that blocks run along, *rows* the product of the other lengths.

    Attributes:
        formats, scale_rules, roundings, nonfinite, block_sizes: allowed values of the fields of that name in
            `CastSpec`.
        dtypes: dtypes of the input.
        axes: axes that blocks may run along; negative ones count from the last.
        ranks: numbers of dimensions of the input.
        least_rows, least_columns: at least 1.
        most_rows, most_columns: None for any number.
        rows_multiple, columns_multiple: numbers that must divide rows and columns.
        ragged: whether the block size need not divide columns.
        contiguous: whether the input must be contiguous.
        alignment: bytes that must divide the address of the first element (`x.data_ptr()`).

    Raises:
        ValueError: a value that is not allowed; one line with the allowed ones.
    """

    formats: Collection[str] | None = None
    scale_rules: Collection[str] | None = None
    roundings: Collection[str] | None = None
    nonfinite: Collection[str] | None = None
    block_sizes: Collection[int | None] | None = None
    dtypes: Collection[torch.dtype] = tuple(DTYPES.values())
    axes: Collection[int] | None = None
    ranks: Collection[int] | None = None
    least_rows: int = 1
    most_rows: int | None = None
    rows_multiple: int = 1
    least_columns: int = 1
    most_columns: int | None = None
    columns_multiple: int = 1
    ragged: bool = True
    contiguous: bool = False
    alignment: int = 1

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _COUNTS:
                if type(value) is not int or value < 1:
                    raise ValueError(f"{field.name} of a Domain must be an integer from 1, got {value!r}")
            elif field.name == "alignment":
                if type(value) is not int or value not in ALIGNMENTS:
                    allowed = ", ".join(map(str, ALIGNMENTS))
                    raise ValueError(f"alignment of a Domain must be {allowed} bytes, got {value!r}")
            elif field.name in _MOST:
                continue
            elif field.name in ("ragged", "contiguous"):
                if type(value) is not bool:
                    raise ValueError(f"{field.name} of a Domain must be True or False, got {value!r}")
            elif value is not None:
                self._check_choices(field.name, value)
        for name in _MOST:
            self._check_most(name, getattr(self, name))

    def _check_most(self, name: str, value: Any) -> None:
        what = name.removeprefix("most_")
        least = up(getattr(self, f"least_{what}"), getattr(self, f"{what}_multiple"))
        if value is not None and (type(value) is not int or value < least):
            raise ValueError(
                f"{name} of a Domain must be None or an integer from {least}, its least number of {what}, "
                f"got {value!r}"
            )

    def _check_choices(self, name: str, value: Any) -> None:
        if isinstance(value, str) or not isinstance(value, Collection) or not len(value):
            raise ValueError(f"{name} of a Domain must be a tuple or a set that is not empty, got {value!r}")
        if name not in _CHOICES:
            wrong = [
                one for one in value if type(one) is not int and not (name == "block_sizes" and one is None)
            ]
            if wrong:
                raise ValueError(f"{name} of a Domain are integers, got {wrong[0]!r}")
            return
        what, allowed = _CHOICES[name]
        for one in value:
            if name == "dtypes":
                if one not in allowed:
                    raise ValueError(f"dtypes of a Domain are {', '.join(map(str, allowed))}; got {one!r}")
            else:
                choose(f"{what} of a Domain", one, allowed)

    def refuses_cast(self, spec: CastSpec) -> str:
        """Return why a cast lies outside for any input; empty if it does not."""
        for what, asked, allowed in (
            ("format", spec.format, self.formats),
            ("scale rule", spec.scale_rule, self.scale_rules),
            ("rounding", spec.rounding, self.roundings),
            ("NaN/Inf policy", spec.nonfinite, self.nonfinite),
            ("block size", spec.block_size, self.block_sizes),
        ):
            if allowed is not None and asked not in allowed:
                return f"no {what} {asked}"
        return ""

    def refuses(self, x: Tensor, spec: CastSpec) -> str:
        """Return why a cast of an input lies outside; empty if it does not. Raises ValueError for an axis
        that x does not have."""
        if why := self.refuses_cast(spec):
            return why
        axis = resolve_axis(x.dim(), spec.axis)
        columns = x.shape[axis]
        rows = x.numel() // max(columns, 1)
        axes = (
            None if self.axes is None else {one % x.dim() for one in self.axes if -x.dim() <= one < x.dim()}
        )
        divides = spec.block_size is None or columns % spec.block_size == 0
        for right, why in (
            (x.dtype in self.dtypes, f"no cast from {named(x.dtype)}"),
            (axes is None or axis in axes, f"no blocks along axis {spec.axis} of {x.dim()}"),
            (
                self.ranks is None or x.dim() in self.ranks,
                f"no input of {x.dim()} dimensions{_AS_ROWS if 2 in (self.ranks or ()) else ''}",
            ),
            (rows >= self.least_rows, f"at least {self.least_rows} rows, got {rows}"),
            (
                self.most_rows is None or rows <= self.most_rows,
                f"at most {self.most_rows} rows, got {rows}",
            ),
            (rows % self.rows_multiple == 0, f"rows that {self.rows_multiple} divides, got {rows}"),
            (columns >= self.least_columns, f"at least {self.least_columns} columns, got {columns}"),
            (
                self.most_columns is None or columns <= self.most_columns,
                f"at most {self.most_columns} columns, got {columns}",
            ),
            (
                columns % self.columns_multiple == 0,
                f"columns that {self.columns_multiple} divides, got {columns}",
            ),
            (self.ragged or divides, f"columns that the block size {spec.block_size} divides, got {columns}"),
            (
                not self.contiguous or x.is_contiguous(),
                f"a contiguous input, got strides {tuple(x.stride())}",
            ),
            (
                self.alignment == 1 or x.data_ptr() % self.alignment == 0,
                f"an address that {self.alignment} divides, got {x.data_ptr():#x}",
            ),
        ):
            if not right:
                return why
        return ""

    def within(self, other: Domain) -> Domain:
        """Return the intersection with `other` in formats, rules, roundings, policies, block sizes, dtypes
        and axes. `other` has one value for each, or all.

        Raises:
            NotSupported: the intersection is empty; with the reason.
        """
        both: dict[str, Any] = {}
        for name in (*_CHOICES, "block_sizes", "axes"):
            own, asked = getattr(self, name), getattr(other, name)
            if asked is None or (name == "dtypes" and len(asked) == len(DTYPES)):
                continue
            of_axes = name == "axes" and own is not None
            left = tuple(one for one in asked if own is None or one in own or (of_axes and _same(one, own)))
            if not left:
                shown = ", ".join(named(one) if isinstance(one, torch.dtype) else str(one) for one in asked)
                raise NotSupported(f"outside of its domain: no {name.replace('_', ' ')} {shown}")
            both[name] = left
        return replace(self, **both)

    @property
    def decorator(self) -> str:
        """The decorator that declares it: `@mxcheck.domain(rows_multiple=128, ragged=False)`."""
        said = [
            f"{field.name}={[*value] if isinstance(value, Collection) else value}"
            for field in fields(self)
            if (value := getattr(self, field.name)) != field.default
        ]
        return f"@mxcheck.domain({', '.join(said)})"

    @property
    def words(self) -> str:
        """Its restrictions in one line: `dtypes bfloat16; rows_multiple 128`. Empty if there are none."""
        parts = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value == field.default:
                continue
            if isinstance(value, Collection):
                value = ", ".join(named(one) if isinstance(one, torch.dtype) else str(one) for one in value)
            parts.append(f"{field.name} {value}")
        return "; ".join(parts)


def up(count: int, multiple: int) -> int:
    """Round a count up to a multiple."""
    return -(-count // multiple) * multiple


def _same(axis: int, axes: Collection[int]) -> bool:
    """Return whether an axis of a matrix is one of these, counted from either end."""
    return any((axis - one) % 2 == 0 for one in axes if -2 <= one < 2)


def named(dtype: torch.dtype) -> str:
    """Return the name of a dtype: `bfloat16` for torch.bfloat16."""
    return str(dtype).removeprefix("torch.")


def domain(**limits: Any) -> Callable[[_Function], _Function]:
    """Declare the domain of a cast, as a decorator: `@mxcheck.domain(dtypes=[torch.bfloat16])`.

    It sets the attribute `mxcheck_domain`; the function is unchanged.

    Args:
        limits: fields of `Domain`; a list for several values.

    Raises:
        ValueError: as `Domain`.
    """
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, (list, set)) else value for name, value in limits.items()
    }
    made_for = Domain(**given)
    return lambda function: declared(function, made_for)


def declared(function: _Function, made_for: Domain) -> _Function:
    """Declare a domain on the function, and return it."""
    setattr(function, _ATTRIBUTE, made_for)
    return function


def domain_of(kernel: Callable[..., Any]) -> Domain | None:
    """Return the domain that an implementation declares; None where it declares none.

    Raises:
        ValueError: the attribute is not a Domain.
    """
    kernel = innermost(kernel)
    found = getattr(kernel, _ATTRIBUTE, None)
    if found is not None and not isinstance(found, Domain):
        raise ValueError(f"{_ATTRIBUTE} must be a mxcheck.Domain, got {type(found).__name__}")
    return found


def innermost(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function under a kernel's bound arguments, which has the module and the domain."""
    while isinstance(kernel, partial):
        kernel = kernel.func
    return kernel


def check_domain(made_for: Domain | None, x: Tensor, spec: CastSpec) -> None:
    """Raise NotSupported where a cast of an input lies outside of a domain, if there is one."""
    if made_for is not None and (why := made_for.refuses(x, spec)):
        raise NotSupported(f"outside of its domain: {why}")
