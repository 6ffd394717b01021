"""The ladder's precisions under the options that change a recipe. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass

from mxcheck.formats.aliases import global_option
from mxcheck.formats.blocks import BLOCK_FORMATS
from mxcheck.models.recipes.ladder import BF16, LADDER, MX, WHOLE_MODEL, Precision
from mxcheck.models.recipes.recipe import Recipe, recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """The options that change a recipe. None and False are the defaults."""

    scale_rule: str | None = None
    rounding: str | None = None
    block_size: int | None = None
    attention: bool = False
    outputs: bool = False
    weights_only: bool = False

    def labels(self, precision: Precision) -> tuple[str, ...]:
        """Return their labels in the name of a case of `precision`: only those that apply to it."""
        scales, ours = has_e8m0_scales(precision), is_cast_by_us(precision)
        labels = {
            self.scale_rule or "": scales,
            self.rounding or "": scales,
            f"block{self.block_size}": scales and self.block_size is not None,
            "attention": ours and self.attention,
            "outputs": ours and self.outputs,
            "weights-only": ours and self.weights_only,
        }
        return tuple(label for label, applies in labels.items() if label and applies)


def is_cast_by_us(precision: Precision) -> bool:
    """Return whether mxcheck casts: the precision is neither a whole-model one nor a library's."""
    return precision.library is None and precision.name not in WHOLE_MODEL


def has_e8m0_scales(precision: Precision) -> bool:
    """Return whether scale rule, rounding and block size can be chosen."""
    return precision.name == "mixed" or precision.name in MX


def changed_recipe(
    name: str, tier: str | None, changes: Changes, *, elementwise: str | None = None, kernel: str = "auto"
) -> tuple[tuple[str, ...], Recipe]:
    """Return the labels and the recipe of a precision with these changes; those that do not apply to it are
    omitted. Raises ValueError for a scale rule that its format does not have."""
    if name in WHOLE_MODEL:
        return (), recipe(name, kernel=kernel)
    precision = LADDER[name]
    _check_scale_rule(changes.scale_rule, precision)
    chosen = has_e8m0_scales(precision)
    made = recipe(
        name,
        tier=tier,
        block_size=changes.block_size if chosen else None,
        scale_rule=changes.scale_rule if chosen else None,
        rounding=(changes.rounding if chosen else None) or "even",
        attention=changes.attention and is_cast_by_us(precision),
        outputs=changes.outputs and is_cast_by_us(precision),
        weights_only=changes.weights_only and is_cast_by_us(precision),
        elementwise=elementwise,
        kernel=kernel,
    )
    everywhere = () if elementwise is None else (global_option(elementwise),)
    return (*changes.labels(precision), *everywhere), made


def _check_scale_rule(rule: str | None, precision: Precision) -> None:
    if rule is None or precision.operand in (None, BF16) or not has_e8m0_scales(precision):
        return
    assert precision.operand is not None
    if rule not in (allowed := BLOCK_FORMATS[precision.operand].scale_rules):
        others = [
            row.operand
            for row in map(LADDER.__getitem__, MX)
            if row.operand is not None and rule in BLOCK_FORMATS[row.operand].scale_rules
        ]
        raise ValueError(
            f"--mx-scale-rule={rule}: {precision.name} has no such rule, only {', '.join(allowed)}; "
            f"narrow the run with --mx-format={','.join(others)}"
        )
