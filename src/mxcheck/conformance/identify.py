"""Identify the scale rule, rounding and NaN/Inf policy of an implementation: those with the fewest
mismatches.

It casts a few thousand blocks on which the rules of `mxcheck.formats.field_rules` differ, in each dtype and
the first block size that it takes; the answer is compared with each rule under each rounding. Blocks at the
ends of the scale's range are counted apart: implementations fall short there whatever their rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mxcheck.conformance.cases import edge_blocks
from mxcheck.conformance.cases.cells import Cell, cells
from mxcheck.conformance.cases.generator import spread_with_ties
from mxcheck.conformance.cases.inside import dtypes_of
from mxcheck.conformance.cases.mixtures import sixteen_bit_blocks
from mxcheck.conformance.cases.seeded_random import Draws
from mxcheck.conformance.verify.conditions import KINDS
from mxcheck.conformance.verify.verifier import differences, outcome
from mxcheck.formats.blocks import E8M0
from mxcheck.formats.codes import E8M0_NAN
from mxcheck.formats.elements import ELEMENT_FORMATS, ElementFormat
from mxcheck.formats.field_rules import (
    FIELD_ROUNDINGS,
    FIELD_RULES,
    policies_of,
    quantize_blocks,
    rules_of,
)
from mxcheck.formats.spec import CastSpec
from mxcheck.kernels.api import Kernel
from mxcheck.kernels.block_views import DTYPES
from mxcheck.kernels.domain import Domain, domain_of

BLOCK_SIZES = (32, 16, 64, 128)
#: Rows and columns of the input are multiples of this, so that tiles are whole.
_TILE = 128
#: An implementation may differ from the rule that it is said to follow in at most this part of the blocks
#: within the range. Roundings differ from each other in more, and so do rules, except those that differ at
#: single amax only.
_MOST_DIFFERENT = 0.02
#: Number of nearest matches that are also compared on NaN and Inf.
_MOST_HELD = 8

Codes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Distance of an answer from one rule and rounding.

    Attributes:
        policy: NaN/Inf policy with the fewest mismatches; None where the implementation refuses NaN and Inf.
        scales: blocks within the range whose scale differs; None for an implementation that returns values.
        codes: codes (or values) within the range that differ under equal scales.
        blocks: blocks within the range in which either differs.
        at_the_ends: blocks that differ where the scale is 00 or FE, or amax is subnormal or 0.
        zero_signs: zeros of the wrong sign, counted nowhere else.
        not_finite: blocks with NaN or Inf that differ.
    """

    rule: str
    rounding: str
    policy: str | None
    scales: int | None
    codes: int
    blocks: int
    at_the_ends: int
    zero_signs: int
    not_finite: int

    @property
    def exact(self) -> bool:
        """True if no bit differs."""
        return not (self.blocks or self.at_the_ends or self.zero_signs or self.not_finite)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The cast that was asked for, and the rules that the answer matches, nearest first.

    Attributes:
        matches: the nearest rules, and the one that was asked for.
        blocks: number of blocks compared within the range; `at_the_ends`, `not_finite`: numbers of others.
    """

    cell: Cell
    dtype: str
    block_size: int
    blocks: int
    at_the_ends: int
    not_finite: int
    matches: tuple[Match, ...]

    @property
    def best(self) -> Match:
        return self.matches[0]

    @property
    def alike(self) -> set[tuple[str, str]]:
        """The rules and roundings that the answer does not tell from the nearest."""
        best = self.best
        return {
            (one.rule, one.rounding)
            for one in self.matches
            if (one.blocks, one.at_the_ends, one.not_finite)
            == (best.blocks, best.at_the_ends, best.not_finite)
        }

    def agrees_with(self, other: Identity) -> bool:
        """Return whether both may have one rule and rounding: 16-bit inputs tell fewer apart."""
        if not (self.fits and other.fits):
            return self.fits == other.fits
        return self.best.exact == other.best.exact and bool(self.alike & other.alike)

    @property
    def words(self) -> str:
        """The rule in words: scale rule `floor` with ties toward zero. Rules that the answer does not tell
        apart are all named: in `fp4_e3m0` `ceil` and `rceil` are one rule, and other scales may give equal
        values."""
        rounding = self.best.rounding
        # In a fixed order, so that equal answers read alike whatever rule was asked for.
        alike = [f"`{rule}`" for rule in FIELD_RULES if (rule, rounding) in self.alike]
        return f"scale rule {' or '.join(alike)} with {FIELD_ROUNDINGS[rounding]}"

    @property
    def fits(self) -> bool:
        """True if the nearest is near enough to be named."""
        return self.best.blocks <= _MOST_DIFFERENT * self.blocks


def identify(kernel: Kernel, cell: Cell, dtypes: Sequence[torch.dtype] = ()) -> Identity | str:
    """Identify the rule that an implementation follows in a cell, in the first of these dtypes that it takes
    (default: those of its domain); or return its own reason for giving no result.

    Raises:
        ValueError: the cell's format has no E8M0 scales, or its rounding is stochastic.
    """
    if cell.spec().block.scale != E8M0 or cell.rounding == "stochastic":
        raise ValueError(f"no rules to try for {cell.id}: they are of E8M0 scales, without random integers")
    refused = ""
    for block_size, dtype in product(BLOCK_SIZES, dtypes or dtypes_of(domain_of(kernel) or Domain())):
        asked = _asked(cell.format, block_size, dtype)
        answer = _answer(kernel, asked.finite, cell.spec(block_size=block_size))
        if isinstance(answer, str):
            refused = refused or answer
            continue
        not_finite: list[tuple[Tensor, Any]] = []
        for blocks in asked.not_finite:
            got = _answer(kernel, blocks, cell.spec(block_size=block_size))
            if not isinstance(got, str):
                not_finite.append((blocks, got))
        return _held(cell, asked, answer, not_finite)
    return refused


def identities(
    kernel: Kernel,
    name: str,
    *,
    scale_rule: str | None = None,
    rounding: str | None = None,
    dtypes: Sequence[torch.dtype] = (),
) -> Iterator[Identity | str]:
    """Run `identify` on the `quick` cells of the format `name`, with this rule and rounding if given, in each
    of these dtypes or of its domain's."""
    for cell in cells("quick"):
        if cell.format != name or cell.rounding == "stochastic":
            continue
        if scale_rule in (None, cell.scale_rule) and rounding in (None, cell.rounding):
            for dtype in dtypes or dtypes_of(domain_of(kernel) or Domain()):
                yield identify(kernel, cell, [dtype])


def looks_like(kernel: Kernel, cell: Cell) -> str:
    """Return `looks like ...` for a red cell; empty where no rule fits well, or none better than the cell's
    own. By dtype, where it differs between dtypes."""
    if cell.spec().block.scale != E8M0 or cell.rounding == "stochastic":
        return ""
    answers = [identify(kernel, cell, [dtype]) for dtype in dtypes_of(domain_of(kernel) or Domain())]
    given = [one for one in answers if not isinstance(one, str)]
    others = list(filter(_is_other, given))
    told: list[Identity] = []
    for found in others:
        if not any(one.alike & found.alike for one in told):
            told.append(found)
    if not told:
        return ""
    if all(told[0].alike & one.alike for one in given):
        return f"looks like {told[0].words}"
    by_dtype = [
        f"{one.words} of {' and '.join(other.dtype for other in others if one.alike & other.alike)}"
        for one in told
    ]
    return f"looks like {'; '.join(by_dtype)}"


def _is_other(found: Identity) -> bool:
    """Return whether another rule or rounding fits, and better than the one asked for."""
    own = (found.cell.scale_rule, found.cell.rounding)
    asked = next(one for one in found.matches if (one.rule, one.rounding) == own)
    # If it differs at the ends alone, that is no other rule.
    return found.fits and asked.blocks != found.best.blocks


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Asked:
    """Input blocks [n, block size]: the finite ones, and one tensor for each other kind."""

    block_size: int
    finite: Tensor
    not_finite: tuple[Tensor, ...]
    ends: NDArray[np.bool_]  # for each block of `finite`


@lru_cache(maxsize=len(DTYPES) * len(BLOCK_SIZES))
def _asked(name: str, block_size: int, dtype: torch.dtype) -> _Asked:
    cell = Cell(format=name, scale_rule="floor")
    element = cell.spec().element
    made = [
        make(cell, block_size, Draws(f"identify {name} {make.__name__}"))
        for make in (
            edge_blocks.every_code,
            edge_blocks.boundaries,
            edge_blocks.zero_and_subnormal,
            edge_blocks.amax_boundaries,
        )
    ]
    made += [_thresholds(cell, block_size), edge_blocks.wide(cell, block_size, Draws("identify wide"))]
    made.append(spread_with_ties((1024, block_size), Draws("identify ties")).numpy())
    with np.errstate(over="ignore", under="ignore"):
        blocks = torch.from_numpy(np.concatenate(made)).to(dtype)
    if dtype != torch.float32 and block_size == 32:
        blocks = torch.cat([blocks, sixteen_bit_blocks(cell, dtype)])
    finite = _in_tiles(blocks[blocks.isfinite().all(-1)])
    others = [
        _in_tiles(torch.from_numpy(make(cell, block_size, Draws("identify not finite"))).to(dtype))
        for make in (edge_blocks.infinite, edge_blocks.not_finite)
    ]
    amax = finite.abs().amax(-1).float().numpy()
    middle = [
        FIELD_RULES[rule].codes(amax.view(np.uint32).astype(np.int64), element) for rule in ("floor", "ceil")
    ]
    ends = (middle[0] < 2) | (middle[1] >= E8M0_NAN - 1) | (amax < np.finfo(np.float32).tiny)
    return _Asked(block_size=block_size, finite=finite, not_finite=tuple(others), ends=ends)


def _thresholds(cell: Cell, length: int) -> edge_blocks.Blocks:
    """Return amax at the thresholds of the rules: 1.5 times the largest code, every power of two, and one
    fp32 value to each side."""
    exponents = np.arange(-140, 118)
    points = np.ldexp(1.5 * cell.spec().element.max_value, exponents - cell.spec().element.emax)
    bits = points.astype(np.float32).view(np.uint32)
    amax = np.concatenate([bits - 1, bits, bits + 1]).view(np.float32)
    random = Draws("identify thresholds")
    rest = (
        random.integers(-(1 << 12), 1 << 12, (amax.size, length)) / 4096.0 * amax[:, None].astype(np.float64)
    )
    blocks: edge_blocks.Blocks = rest.astype(np.float32)
    blocks[np.arange(amax.size), random.integers(0, length, amax.size)] = amax
    return blocks


def _in_tiles(blocks: Tensor) -> Tensor:
    """Repeat the first blocks behind the last until they fill whole tiles."""
    a_tile = _TILE * _TILE // blocks.shape[1]
    count = -(-len(blocks) // a_tile) * a_tile
    return blocks[torch.arange(count) % len(blocks)]


def _answer(kernel: Kernel, blocks: Tensor, spec: CastSpec) -> tuple[NDArray[Any], ...] | str:
    """Return (codes, scales) or (values,), by blocks; or the reason why there are none."""
    seen = outcome(kernel, blocks.reshape(-1, _TILE).clone(), spec)
    if not seen.got:
        return seen.unsupported or seen.error
    return (seen.got[0].reshape(blocks.shape), *(part.reshape(-1) for part in seen.got[1:]))


def _held(
    cell: Cell,
    asked: _Asked,
    answer: tuple[NDArray[Any], ...],
    not_finite: list[tuple[Tensor, tuple[NDArray[Any], ...]]],
) -> Identity:
    element, dtype, inside = cell.spec().element, asked.finite.dtype, ~asked.ends
    seen = {
        (rule.name, rounding): _differences(
            answer, _expected(cell.format, asked.block_size, dtype, rule.name, rounding), element, dtype
        )
        for rule, rounding in product(rules_of(element), FIELD_ROUNDINGS)
    }

    def order(one: tuple[str, str]) -> tuple[int, int, bool]:
        blocks = seen[one].blocks
        return (
            int(blocks[inside].sum()),
            int(blocks[asked.ends].sum()),
            one != (cell.scale_rule, cell.rounding),
        )

    nearest = sorted(seen, key=order)
    own = (cell.scale_rule, cell.rounding)
    found = []
    for rule, rounding in dict.fromkeys([*nearest[:_MOST_HELD], own]):
        differences = seen[rule, rounding]
        policies = {
            policy: sum(
                int(
                    _differences(
                        got, _blocks_of(blocks, element, rule, rounding, policy), element, dtype
                    ).blocks.sum()
                )
                for blocks, got in not_finite
            )
            for policy in (policies_of(element) if not_finite else ())
        }
        policy = min(policies, key=policies.__getitem__, default=None)
        scales = differences.scales
        found.append(
            Match(
                rule=rule,
                rounding=rounding,
                policy=policy,
                scales=None if scales is None else int(scales[inside].sum()),
                codes=int(differences.codes[inside].sum()),
                blocks=order((rule, rounding))[0],
                at_the_ends=order((rule, rounding))[1],
                zero_signs=int(differences.zero_signs.sum()),
                not_finite=0 if policy is None else policies[policy],
            )
        )
    return Identity(
        cell=cell,
        dtype=str(dtype).removeprefix("torch."),
        block_size=asked.block_size,
        blocks=int((~asked.ends).sum()),
        at_the_ends=int(asked.ends.sum()),
        not_finite=sum(len(blocks) for blocks, _ in not_finite),
        matches=tuple(found),
    )


@lru_cache(maxsize=192)
def _expected(
    name: str, block_size: int, dtype: torch.dtype, rule: str, rounding: str
) -> tuple[Codes, Codes]:
    """Return the expected codes and scales of the finite blocks."""
    return _blocks_of(_asked(name, block_size, dtype).finite, ELEMENT_FORMATS[name], rule, rounding)


def _blocks_of(
    blocks: Tensor, element: ElementFormat, rule: str, rounding: str, policy: str = "block"
) -> tuple[Codes, Codes]:
    return quantize_blocks(blocks.float().numpy(), element, FIELD_RULES[rule], rounding, policy)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Differences:
    """Differences by block: whether the scale differs, and the numbers of different codes or values and of
    zeros' signs."""

    scales: NDArray[np.bool_] | None
    codes: NDArray[np.int64]
    zero_signs: NDArray[np.int64]

    @property
    def blocks(self) -> NDArray[np.bool_]:
        return (self.codes > 0) if self.scales is None else (self.codes > 0) | self.scales


def _differences(
    got: tuple[NDArray[Any], ...], expected: tuple[Codes, Codes], element: ElementFormat, dtype: torch.dtype
) -> _Differences:
    codes, scales = expected
    spec = CastSpec(format=element.name, block_size=codes.shape[1])
    parts = got if len(got) == 1 else (got[0], got[1][:, None])
    seen = differences(parts, (codes, scales[:, None]), spec, dtype)
    nowhere = np.zeros(codes.shape, np.bool_)
    found = {kind: seen.found.get(kind, nowhere) for kind in KINDS}
    wrong = found["code"] | found["value"] | found["nan"]
    return _Differences(
        scales=None if len(got) == 1 else found["scale"][:, 0],
        codes=wrong.sum(-1),
        zero_signs=found["zero sign"].sum(-1),
    )
