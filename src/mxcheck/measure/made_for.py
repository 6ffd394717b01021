"""The domain of a model run's kernel: declared, or learned by the kernel suite."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from mxcheck.formats.blocks import E8M0
from mxcheck.formats.spec import E8M0_RULES, ROUNDINGS

if TYPE_CHECKING:
    from mxcheck.formats.spec import CastSpec
    from mxcheck.kernels.api import Kernel
    from mxcheck.kernels.domain import Domain


#: Fields of a cast that a model run sets, the option for each, and other values that it may take.
_OPTIONS: tuple[tuple[str, str, tuple[Any, ...]], ...] = (
    ("scale_rule", "--mx-scale-rule", E8M0_RULES),
    ("rounding", "--mx-rounding", tuple(one for one in ROUNDINGS if one != "stochastic")),
    ("block_size", "--mx-block-size", (16, 32, 64, 128)),
)
#: Any usual tile divides it.
_ALIGNED = (256, 512)


def made_for(kernel: Kernel, spec: CastSpec, device: str) -> Domain:
    """Return the domain of a kernel, for a cast: learned once per process if it declares none. A kernel that
    refuses everything has no limit: its cell and its calls report it."""
    from mxcheck.kernels.domain import domain_of

    declared = domain_of(kernel)
    return _learned(kernel, replace(spec, axis=-1), device) if declared is None else declared


@lru_cache(maxsize=64)
def _learned(kernel: Kernel, spec: CastSpec, device: str) -> Domain:
    from mxcheck.conformance.cases.cells import Cell
    from mxcheck.conformance.implementation.accelerator import on_device
    from mxcheck.conformance.implementation.learned_domain import learned_domain
    from mxcheck.kernels.domain import Domain, NotSupported
    from mxcheck.kernels.grown import grow_as_learned

    cell = Cell(
        format=spec.format, scale_rule=spec.scale_rule, rounding=spec.rounding, nonfinite=spec.nonfinite
    )
    # Named, so that a kernel that ignores its rule is tested on the case's.
    named = Domain(
        formats=(spec.format,),
        scale_rules=(spec.scale_rule,),
        roundings=(spec.rounding,),
        block_sizes=None if spec.block_size is None else (spec.block_size,),
    )
    try:
        found = learned_domain(on_device(kernel, device), cell, named).domain
    except NotSupported:
        return Domain()
    # The cast itself is not learned here, and axes are the case's.
    limits = replace(found, formats=None, scale_rules=None, roundings=None, block_sizes=None, axes=None)
    grow_as_learned(kernel, spec, limits)
    return limits


def other_options(kernel: Kernel, spec: CastSpec, device: str) -> str:
    """Return which options a model run needs, where a kernel refuses a cast but does it by another rule or
    rounding, or in other blocks: `the case asks for scale rule floor: for rceil add --mx-scale-rule=rceil`;
    empty if there are none."""
    from mxcheck.kernels.domain import domain_of

    declared = domain_of(kernel)

    def refused(asked: CastSpec) -> bool:
        if declared is not None:
            return bool(declared.refuses_cast(asked))
        return all(says_no(kernel, _ALIGNED, dtype, asked, device) for dtype in ("float32", "bfloat16"))

    if spec.block.scale != E8M0 or not refused(spec):
        return ""
    for field, option, values in _OPTIONS:
        asked = getattr(spec, field)
        for value in values:
            if value != asked and not refused(replace(spec, **{field: value})):
                return (
                    f"the case asks for {field.replace('_', ' ')} {asked}: for {value} add {option}={value}"
                )
    return ""


def says_no(kernel: Kernel, shape: tuple[int, ...], dtype: str, spec: CastSpec, device: str) -> str:
    """Return a kernel's refusal of an input of this shape; empty if it gives a result, or another error."""
    from mxcheck.conformance.implementation.accelerator import on_device
    from mxcheck.conformance.implementation.learned_domain import answer
    from mxcheck.kernels.domain import DTYPES

    return answer(on_device(kernel, device), shape, DTYPES[dtype], spec)
