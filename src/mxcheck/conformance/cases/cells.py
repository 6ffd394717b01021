"""The rows of the conformance matrix: the casts that an implementation is tested on. Torch- and
numpy-free."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from mxcheck.formats.aliases import precision_of
from mxcheck.formats.blocks import BLOCK_FORMATS, E8M0
from mxcheck.formats.spec import ROUNDINGS, CastSpec, cast_spec

#: Part of a cell's id for the NaN/Inf policy `element`. No part of an id may occur in the name of a test,
#: module or folder: `-k "not te"` would deselect everything, as `test` contains `te`.
NAN_STAYS = "nan_stays"
LEVELS = ("quick", "full")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cast, apart from shape, axis and block size: a format and the options its bits depend on."""

    format: str
    scale_rule: str
    rounding: str = "even"
    nonfinite: str = "block"

    @property
    def rule(self) -> str:
        """Scale rule, rounding unless even, and `nan_stays` if a NaN stays in its element: `rceil-nan_stays`,
        `floor-away`."""
        parts = [self.scale_rule]
        parts += [self.rounding] if self.rounding != "even" else []
        parts += [NAN_STAYS] if self.nonfinite == "element" else []
        return "-".join(parts)

    @property
    def id(self) -> str:
        """`mxfp8_e4m3-floor`: the precision's name of an MX format; `-k` selects by it."""
        return f"{precision_of(self.format)}-{self.rule}"

    @property
    def seed(self) -> str:
        """`fp8_e4m3-floor`: seeds of generated inputs contain the format's name, not the id, so that inputs,
        digests and counts stay the same when ids change."""
        return f"{self.format}-{self.rule}"

    @property
    def former_ids(self) -> tuple[str, ...]:
        """Former ids, which `-k` still accepts."""
        found = [] if self.seed == self.id else [self.seed]
        # The dialect `te` had the rule `rceil`; the cell with that rule is a different one today.
        if self.nonfinite == "element" and self.scale_rule != "rceil":
            found.append(f"{self.seed.removesuffix(NAN_STAYS)}te".replace("-reciprocal-", "-rceil-"))
        return tuple(found)

    def spec(self, **others: Any) -> CastSpec:
        """Return the cast, with an axis, a block size or random integers if given."""
        random = others.pop("random", None)
        spec = _spec(self, **others)
        return spec if random is None else replace(spec, random=random)


@cache
def _spec(cell: Cell, **others: Any) -> CastSpec:
    return cast_spec(
        cell.format, scale_rule=cell.scale_rule, rounding=cell.rounding, nonfinite=cell.nonfinite, **others
    )


def cells(level: str) -> tuple[Cell, ...]:
    """Return the cells of a level, in the order of tables.

    `quick` has every scale rule with rounding to even, every rounding with the default rule, and the dialect
    `te`; `full` has every combination.
    """
    found: list[Cell] = []
    for name, block in BLOCK_FORMATS.items():
        te = block.scale == E8M0 and block.element.bits == 8 and not block.element.twos_complement
        for rule in block.scale_rules:
            for rounding in ROUNDINGS if block.scale == E8M0 else ("even",):
                common = rounding == "even" or rule == block.scale_rules[0]
                if common or level != "quick":
                    found.append(Cell(format=name, scale_rule=rule, rounding=rounding))
                if te and ((rule, rounding) == ("reciprocal", "even") or level != "quick"):
                    found.append(Cell(format=name, scale_rule=rule, rounding=rounding, nonfinite="element"))
    return tuple(found)
