"""Allowed values of the options that choose casts, as data. Does not import torch."""

from __future__ import annotations

from mxcheck.formats.elements import ELEMENT_FORMATS
from mxcheck.formats.spec import E8M0_RULES, ROUNDINGS
from mxcheck.models.recipes.ladder import BF16

#: `--mx-scale-rule` of a model run: the rules of E8M0 scales.
MODEL_SCALE_RULES = E8M0_RULES
#: `--mx-rounding` of a model run. Stochastic rounding needs a random integer for each element of each
#: activation; the kernel suite provides them.
MODEL_ROUNDINGS = tuple(rounding for rounding in ROUNDINGS if rounding != "stochastic")
#: `--mx-axis`.
AXES = tuple(map(str, range(-4, 4)))
#: `--mx-block-size`.
BLOCK_SIZES = ("16", "32", "64", "128")
#: `--mx-dtype` -> torch's name.
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
#: `--mx-memory`.
MEMORIES = ("auto", "kept", "lean")
#: `--mx-global`: what results of element-wise operations are cast to.
ELEMENTWISE = (BF16, *ELEMENT_FORMATS)
