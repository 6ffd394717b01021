"""Allowed values of the options that choose casts, as data. Does not import torch."""

from __future__ import annotations

from mxcheck.formats.elements import ELEMENT_FORMATS
from mxcheck.formats.spec import E8M0_RULES, ROUNDINGS
from mxcheck.models.recipes.ladder import BF16

MODEL_SCALE_RULES = E8M0_RULES
# Stochastic rounding needs a random integer for each element of each activation; the kernel suite provides
# them.
MODEL_ROUNDINGS = tuple(rounding for rounding in ROUNDINGS if rounding != "stochastic")
AXES = tuple(map(str, range(-4, 4)))
BLOCK_SIZES = ("16", "32", "64", "128")
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
ELEMENTWISE = (BF16, *ELEMENT_FORMATS)
