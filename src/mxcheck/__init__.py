"""mxcheck: accuracy regression suite for OCP microscaling (MX) formats.

The top level is lazy (PEP 562): `import mxcheck` loads neither torch nor numpy, because the pytest
plugin is imported into other people's test runs and must cost them nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mxcheck.evaluation.measure import Measurement as Measurement
    from mxcheck.evaluation.measure import evaluate as evaluate
    from mxcheck.kernels.api import fake_quantize as fake_quantize
    from mxcheck.kernels.api import quantize as quantize
    from mxcheck.models.convert import Conversion as Conversion
    from mxcheck.models.convert import convert as convert
    from mxcheck.models.load import load as load
    from mxcheck.models.recipe import Recipe as Recipe
    from mxcheck.models.recipe import recipe as recipe

_HOME = {
    "quantize": "mxcheck.kernels.api",
    "fake_quantize": "mxcheck.kernels.api",
    "Recipe": "mxcheck.models.recipe",
    "recipe": "mxcheck.models.recipe",
    "Conversion": "mxcheck.models.convert",
    "convert": "mxcheck.models.convert",
    "load": "mxcheck.models.load",
    "Measurement": "mxcheck.evaluation.measure",
    "evaluate": "mxcheck.evaluation.measure",
}

__all__ = sorted(_HOME)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mxcheck' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
