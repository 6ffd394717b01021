"""What the kernel of a model run is made for: what it declares, or what the kernel suite learns of it."""

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


#: What a model run asks of a cast, by which option, and what else it may ask.
_OPTIONS: tuple[tuple[str, str, tuple[Any, ...]], ...] = (
    ("scale_rule", "--mx-scale-rule", E8M0_RULES),
    ("rounding", "--mx-rounding", tuple(one for one in ROUNDINGS if one != "stochastic")),
    ("block_size", "--mx-block-size", (16, 32, 64, 128)),
)
#: Whatever tiles there are divide it.
_ALIGNED = (256, 512)


def made_for(kernel: Kernel, spec: CastSpec, device: str) -> Domain:
    """The domain of a kernel, for a cast: learned once a process where it declares none. One that refuses
    whatever it is asked has no limit: its cell and its calls tell it."""
    from mxcheck.kernels.domain import domain_of

    declared = domain_of(kernel)
    return _learned(kernel, replace(spec, axis=-1), device) if declared is None else declared


@lru_cache(maxsize=64)
def _learned(kernel: Kernel, spec: CastSpec, device: str) -> Domain:
    from mxcheck.conformance.cells import Cell
    from mxcheck.conformance.devices import on_device
    from mxcheck.conformance.learned_domain import learned_domain
    from mxcheck.kernels.domain import Domain, NotSupported
    from mxcheck.kernels.grown import grow_as_learned

    cell = Cell(
        format=spec.format, scale_rule=spec.scale_rule, rounding=spec.rounding, nonfinite=spec.nonfinite
    )
    # Named, so that one which does not look at its rule is held to the one of the case.
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
    # Of the cast nothing is learned here, and axes are the case's.
    limits = replace(found, formats=None, scale_rules=None, roundings=None, block_sizes=None, axes=None)
    grow_as_learned(kernel, spec, limits)
    return limits


def other_options(kernel: Kernel, spec: CastSpec, device: str) -> str:
    """What to ask for in a model run, where a kernel refuses a cast and does it by another rule or rounding,
    or in other blocks, in words: `the case asks for scale rule floor: for rceil add --mx-scale-rule=rceil`;
    empty where there is nothing."""
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
    """What a kernel says of an input of this shape; empty where it gives a result, or another error."""
    from mxcheck.conformance.devices import on_device
    from mxcheck.conformance.learned_domain import answer
    from mxcheck.kernels.domain import DTYPES

    return answer(on_device(kernel, device), shape, DTYPES[dtype], spec)
