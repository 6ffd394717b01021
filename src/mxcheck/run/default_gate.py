"""What the default gate runs of the reference models besides the whole ladder, and of which of them less.

Some code is reached by no trained model under plain steps: other modules, other types, options. A few cases
reach it, and cost seconds. Loads no torch.
"""

from __future__ import annotations

from collections.abc import Mapping

from mxcheck.models.ladder import ROUNDED_UP
from mxcheck.models.zoo import REFERENCE_MODELS
from mxcheck.run.cases import Changes

#: Models that are there for what loading, text and modules do, which few steps show.
FEW_STAGES: Mapping[str, tuple[tuple[str, str | None], ...]] = {
    "short-moe": (("fp32", None), ("fp4_e2m1", "B")),
    "bf16-llama": (("fp32", None), ("fp8_e4m3", "B")),
    "wide-gpt2": (("fp32", None), ("fp8_e4m3", "B")),
}
#: The reference models that have every stage.
WHOLE_LADDER = tuple(name for name in REFERENCE_MODELS if name not in FEW_STAGES)
#: Options that quantize more, on one stage of one model each.
_BESIDE = {
    ("ref-neo", "fp8_e4m3", "B"): (Changes(outputs=True),),
    ("wide-gpt2", "fp8_e4m3", "B"): (Changes(attention=True),),
}


def has_stage(model: str, precision: str, tier: str | None) -> bool:
    """Whether a step of the ladder under a tier is one of a model's."""
    return model not in FEW_STAGES or (precision, tier) in FEW_STAGES[model]


def beside(model: str, precision: str, tier: str | None) -> tuple[Changes, ...]:
    """What stands beside a stage of the whole ladder: the float formats under the rule that rounds scales up,
    which the field has left OCP's for, and a model's own options."""
    rounded_up = model not in FEW_STAGES and tier == "B" and precision in ROUNDED_UP
    own = _BESIDE.get((model, precision, tier or ""), ())
    return ((Changes(scale_rule="rceil"),) if rounded_up else ()) + own
