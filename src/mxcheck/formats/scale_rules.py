"""The scale rules as data: the ways in which amax gives an E8M0 scale, and the dialects that use them.

Each rule is computed four times, without shared code: twice in `oracle.py`, by search in `search.py`, and in
torch in `kernels/rules.py`. `check_rules` refuses, at import, a table that lacks one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType

from mxcheck.formats.elements import ElementFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleRule:
    """A scale rule.

    Attributes:
        name: the name that users write.
        what: the exponent s of the scale, before it is clamped to [-127, 127], in one line.
        elements: whether the rule is defined for an element format.
        dialects: name -> rounding and NaN/Inf policy of a dialect with this rule.
    """

    name: str
    what: str
    elements: Callable[[ElementFormat], bool] = lambda _: True
    dialects: Mapping[str, tuple[str, str]] = field(default_factory=dict)


#: The default first.
RULES: Mapping[str, ScaleRule] = MappingProxyType(
    {
        rule.name: rule
        for rule in (
            ScaleRule(
                name="floor",
                what="floor(log2 amax) - emax (OCP MX v1.0, section 6.3)",
                dialects={"ocp": ("even", "block"), "ocp_away": ("away", "block")},
            ),
            ScaleRule(name="ceil", what="ceil(log2 amax) - emax", dialects={"ceil": ("even", "block")}),
            ScaleRule(
                name="even",
                what="`floor` of amax rounded to the element's precision, ties up",
                # mxint8's uniform step does not allow to round amax as the element would be rounded.
                elements=lambda element: not element.twos_complement,
                dialects={"even": ("even", "block")},
            ),
            ScaleRule(
                name="rceil",
                what="the least s with amax <= max * 2^s",
                dialects={"rceil": ("even", "block")},
            ),
            ScaleRule(
                name="reciprocal",
                what="the least s with fp32(amax * fp32(1 / max)) <= 2^s",
                # Transformer Engine's rule, which casts to FP8. Its rounding would not keep mxint8's largest
                # value.
                elements=lambda element: element.name.startswith("fp8_"),
                dialects={"te": ("even", "element")},
            ),
        )
    }
)


@cache
def rules_of(element: ElementFormat) -> tuple[str, ...]:
    """Return the names of the rules that are defined for an element format, the default first."""
    return tuple(rule.name for rule in RULES.values() if rule.elements(element))


def check_rules(where: str, names: Iterable[str]) -> None:
    """Raise ValueError unless `names`, of the table at `where`, are the rules."""
    found = set(names)
    if lacking := [name for name in RULES if name not in found]:
        raise ValueError(f"{where} lacks the scale rule {lacking[0]!r} of formats/scale_rules.py; add it")
    if unknown := sorted(found - set(RULES)):
        raise ValueError(f"{where} has {unknown[0]!r}, which formats/scale_rules.py lacks; add it")
