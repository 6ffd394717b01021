"""The rows of the conformance matrix: which casts an implementation is asked for. Torch- and numpy-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mxcheck.formats.blocks import BLOCK_FORMATS, E8M0
from mxcheck.formats.spec import ROUNDINGS, CastSpec, cast_spec

#: The part of a cell's id for the NaN/Inf policy `element`. No part of an id occurs in the name of a test,
#: module or folder: `-k "not te"` would deselect everything, for `test` has a `te`.
NAN_STAYS = "nan_stays"
LEVELS = ("quick", "full", "exhaustive")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cast, whatever the shape, axis and block size: a format and what its bits depend on."""

    format: str
    scale_rule: str
    rounding: str = "even"
    nonfinite: str = "block"

    @property
    def rule(self) -> str:
        """Scale rule, rounding unless to even, and whether a NaN stays in its element: `rceil-nan_stays`,
        `floor-away`."""
        parts = [self.scale_rule]
        parts += [self.rounding] if self.rounding != "even" else []
        parts += [NAN_STAYS] if self.nonfinite == "element" else []
        return "-".join(parts)

    @property
    def id(self) -> str:
        """`fp8_e4m3-floor`; what `-k` selects."""
        return f"{self.format}-{self.rule}"

    @property
    def former_id(self) -> str:
        """What it was called before, which `-k` still takes; empty where its id is the only one."""
        # The dialect `te` had the rule `rceil`; what has that rule now is another cell.
        if self.nonfinite != "element" or self.scale_rule == "rceil":
            return ""
        return f"{self.id.removesuffix(NAN_STAYS)}te".replace("-reciprocal-", "-rceil-")

    def spec(self, **others: Any) -> CastSpec:
        """The cast with an axis, a block size, random integers."""
        return cast_spec(
            self.format,
            scale_rule=self.scale_rule,
            rounding=self.rounding,
            nonfinite=self.nonfinite,
            **others,
        )


def cells(level: str) -> tuple[Cell, ...]:
    """The cells of a level, in the order of tables.

    `quick` has every scale rule with rounding to even, every rounding with the default rule, and the dialect
    `te`; the other levels have every combination.
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
