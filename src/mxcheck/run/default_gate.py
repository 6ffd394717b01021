"""The cases of the default gate beyond the whole ladder, and the models with fewer cases.

No trained model under plain precisions reaches some code: other modules, dtypes, options. A few cheap cases
reach it. Does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping

from mxcheck.models.recipes.ladder import ROUNDED_UP
from mxcheck.models.zoo.known_models import REFERENCE_MODELS
from mxcheck.run.ladder_cases import Changes

#: Models that test loading, text and modules, for which a few precisions suffice.
FEW_PRECISIONS: Mapping[str, tuple[tuple[str, str | None], ...]] = {
    "short-moe": (("fp32", None), ("mxfp4_e2m1", "B")),
    "bf16-llama": (("fp32", None), ("mxfp8_e4m3", "B")),
    "wide-gpt2": (("fp32", None), ("mxfp8_e4m3", "B")),
}
#: Reference models with every precision.
WHOLE_LADDER = tuple(name for name in REFERENCE_MODELS if name not in FEW_PRECISIONS)
#: Options that quantize more, each on one precision of one model.
_BESIDE = {
    ("ref-neo", "mxfp8_e4m3", "B"): (Changes(outputs=True),),
    ("wide-gpt2", "mxfp8_e4m3", "B"): (Changes(attention=True),),
}


def is_run_with(model: str, precision: str, tier: str | None) -> bool:
    """Return whether a model is run with a precision of the ladder under a tier."""
    return model not in FEW_PRECISIONS or (precision, tier) in FEW_PRECISIONS[model]


def beside(model: str, precision: str, tier: str | None) -> tuple[Changes, ...]:
    """Return the additional cases of a precision of the whole ladder: the float formats under the rule that
    rounds scales up, which is common in practice instead of OCP's, and a model's own options."""
    rounded_up = model not in FEW_PRECISIONS and tier == "B" and precision in ROUNDED_UP
    own = _BESIDE.get((model, precision, tier or ""), ())
    return ((Changes(scale_rule="rceil"),) if rounded_up else ()) + own
