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
    from mxcheck.evaluation.metrics import metric as metric
    from mxcheck.formats.spec import CastSpec as CastSpec
    from mxcheck.formats.spec import cast_spec as cast_spec
    from mxcheck.formats.spec import dialect as dialect
    from mxcheck.gate.case import Case as Case
    from mxcheck.kernels.api import fake_quantize as fake_quantize
    from mxcheck.kernels.api import quantize as quantize
    from mxcheck.kernels.block_matmul import matmul as matmul
    from mxcheck.kernels.domain import Domain as Domain
    from mxcheck.kernels.domain import NotSupported as NotSupported
    from mxcheck.kernels.domain import domain as domain
    from mxcheck.kernels.layouts import pad_scales as pad_scales
    from mxcheck.kernels.layouts import quantize_operand as quantize_operand
    from mxcheck.kernels.layouts import swizzle_scales as swizzle_scales
    from mxcheck.kernels.layouts import unpad_scales as unpad_scales
    from mxcheck.kernels.layouts import unswizzle_scales as unswizzle_scales
    from mxcheck.kernels.quantized import QuantizedTensor as QuantizedTensor
    from mxcheck.kernels.rows import as_rows as as_rows
    from mxcheck.kernels.rows import from_rows as from_rows
    from mxcheck.kernels.rows import unpack_fp4 as unpack_fp4
    from mxcheck.measure.measure_case import measure_case as measure_case
    from mxcheck.measure.memory_choice import convert as convert
    from mxcheck.measure.model_session import ModelSession as ModelSession
    from mxcheck.models.conversion.convert import Conversion as Conversion
    from mxcheck.models.recipes.recipe import Recipe as Recipe
    from mxcheck.models.recipes.recipe import recipe as recipe
    from mxcheck.models.zoo.load import load as load
    from mxcheck.run.measurement_settings import Measuring as Measuring

_HOME = {
    "CastSpec": "mxcheck.formats.spec",
    "cast_spec": "mxcheck.formats.spec",
    "dialect": "mxcheck.formats.spec",
    "quantize": "mxcheck.kernels.api",
    "fake_quantize": "mxcheck.kernels.api",
    "QuantizedTensor": "mxcheck.kernels.quantized",
    "Domain": "mxcheck.kernels.domain",
    "NotSupported": "mxcheck.kernels.domain",
    "domain": "mxcheck.kernels.domain",
    "as_rows": "mxcheck.kernels.rows",
    "from_rows": "mxcheck.kernels.rows",
    "unpack_fp4": "mxcheck.kernels.rows",
    "matmul": "mxcheck.kernels.block_matmul",
    "quantize_operand": "mxcheck.kernels.layouts",
    "pad_scales": "mxcheck.kernels.layouts",
    "unpad_scales": "mxcheck.kernels.layouts",
    "swizzle_scales": "mxcheck.kernels.layouts",
    "unswizzle_scales": "mxcheck.kernels.layouts",
    "Recipe": "mxcheck.models.recipes.recipe",
    "recipe": "mxcheck.models.recipes.recipe",
    "Conversion": "mxcheck.models.conversion.convert",
    "convert": "mxcheck.measure.memory_choice",
    "load": "mxcheck.models.zoo.load",
    "Measurement": "mxcheck.evaluation.measure",
    "evaluate": "mxcheck.evaluation.measure",
    "metric": "mxcheck.evaluation.metrics",
    "Case": "mxcheck.gate.case",
    "Measuring": "mxcheck.run.measurement_settings",
    "ModelSession": "mxcheck.measure.model_session",
    "measure_case": "mxcheck.measure.measure_case",
}

#: Former names, which still work.
_FORMER = {"Session": "ModelSession"}

__all__ = sorted(_HOME)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    name = _FORMER.get(name, name)
    if name not in _HOME:
        raise AttributeError(f"module 'mxcheck' has no attribute {name!r}; it has {', '.join(__all__)}")
    try:
        home = importlib.import_module(_HOME[name])
    except ModuleNotFoundError as error:
        from mxcheck.extras import named

        raise named(error, f"mxcheck.{name}") from None
    return getattr(home, name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
