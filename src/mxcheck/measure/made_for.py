"""What the kernel of a model run is made for: what it declares, or what the kernel suite learns of it."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mxcheck.formats.spec import CastSpec
    from mxcheck.kernels.api import Kernel
    from mxcheck.kernels.domain import Domain


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


def says_no(kernel: Kernel, shape: tuple[int, ...], dtype: str, spec: CastSpec, device: str) -> str:
    """What a kernel says of an input of this shape; empty where it gives a result, or another error."""
    from mxcheck.conformance.devices import on_device
    from mxcheck.conformance.learned_domain import answer
    from mxcheck.kernels.domain import DTYPES

    return answer(on_device(kernel, device), shape, DTYPES[dtype], spec)
