"""The ladder's precisions under the options that change a recipe. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass

from mxcheck.formats.blocks import BLOCK_FORMATS
from mxcheck.models.ladder import LADDER, MX, WHOLE_MODEL, Step
from mxcheck.models.recipe import BF16, Recipe, recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """The options that change a recipe. None and False are the defaults."""

    scale_rule: str | None = None
    rounding: str | None = None
    block_size: int | None = None
    attention: bool = False
    outputs: bool = False
    weights_only: bool = False

    def labels(self, step: Step) -> tuple[str, ...]:
        """Return their labels in the name of a case of `step`: only those that apply to it."""
        scales, ours = has_e8m0_scales(step), is_cast_by_us(step)
        labels = {
            self.scale_rule or "": scales,
            self.rounding or "": scales,
            f"block{self.block_size}": scales and self.block_size is not None,
            "attention": ours and self.attention,
            "outputs": ours and self.outputs,
            "weights-only": ours and self.weights_only,
        }
        return tuple(label for label, applies in labels.items() if label and applies)


def is_cast_by_us(step: Step) -> bool:
    """Return whether mxcheck casts: the precision is neither a whole-model one nor a library's."""
    return step.library is None and step.name not in WHOLE_MODEL


def has_e8m0_scales(step: Step) -> bool:
    """Return whether scale rule, rounding and block size can be chosen."""
    return step.name == "mixed" or step.name in MX


def stage(
    name: str, tier: str | None, changes: Changes, *, elementwise: str | None = None, kernel: str = "eager"
) -> tuple[tuple[str, ...], Recipe]:
    """Return the labels and the recipe of a precision with these changes; those that do not apply to it are
    omitted. Raises ValueError for a scale rule that its format does not have."""
    if name in WHOLE_MODEL:
        return (), recipe(name, kernel=kernel)
    step = LADDER[name]
    _check_scale_rule(changes.scale_rule, step)
    chosen = has_e8m0_scales(step)
    made = recipe(
        name,
        tier=tier,
        block_size=changes.block_size if chosen else None,
        scale_rule=changes.scale_rule if chosen else None,
        rounding=(changes.rounding if chosen else None) or "even",
        attention=changes.attention and is_cast_by_us(step),
        outputs=changes.outputs and is_cast_by_us(step),
        weights_only=changes.weights_only and is_cast_by_us(step),
        elementwise=elementwise,
        kernel=kernel,
    )
    everywhere = () if elementwise is None else (f"global-{elementwise}",)
    return (*changes.labels(step), *everywhere), made


def _check_scale_rule(rule: str | None, step: Step) -> None:
    if rule is None or step.operand in (None, BF16) or not has_e8m0_scales(step):
        return
    assert step.operand is not None
    if rule not in (allowed := BLOCK_FORMATS[step.operand].scale_rules):
        others = [name for name in MX if rule in BLOCK_FORMATS[name].scale_rules]
        raise ValueError(
            f"--mx-scale-rule={rule}: {step.name} has no such rule, only {', '.join(allowed)}; "
            f"narrow the run with --mx-format={','.join(others)}"
        )
