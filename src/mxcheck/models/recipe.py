"""What to quantize and how, as data. Torch-free: the pytest plugin builds recipes while it collects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mxcheck.formats.choices import choose
from mxcheck.formats.elements import ELEMENT_FORMATS
from mxcheck.formats.spec import CastSpec

#: Stages that change the whole model and therefore have no tier.
WHOLE_MODEL = ("fp32", "bf16")
#: Stages in which chosen products take their operands through an MX block format.
MX = tuple(name for name in ELEMENT_FORMATS if name != "fp4_e3m0")
#: The ladder, in the order of tables.
LADDER = (*WHOLE_MODEL, *MX)

#: Which roles of linear-like modules a tier quantizes.
TIERS: Mapping[str, tuple[str, ...]] = {"A": ("mlp",), "B": ("attention", "mlp")}

#: Roles that a recipe may name.
ROLES = ("attention", "mlp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a model is quantized.

    `precision` is a step of the ladder. For MX precisions both operands of every linear product whose
    role is in `roles` are quantized along the reduction axis: weights once, activations at each call.
    """

    precision: str
    tier: str | None = None
    roles: tuple[str, ...] = ()
    block_size: int = 32
    scale_rule: str = "floor"
    rounding: str = "even"
    kernel: str = "eager"

    def __post_init__(self) -> None:
        choose("precision", self.precision, LADDER)
        if self.precision in WHOLE_MODEL:
            if self.tier is not None or self.roles:
                raise ValueError(
                    f"{self.precision} converts the whole model: it takes no tier and no roles, "
                    f"got tier={self.tier!r}, roles={self.roles!r}; leave them out"
                )
        elif not self.roles:
            raise ValueError(
                f"{self.precision} needs the roles to quantize, got none; "
                f"allowed: attention, mlp (or use mxcheck.recipe(..., tier='A'))"
            )
        else:
            for role in self.roles:
                choose("role", role, ROLES)
            if self.tier is not None:
                choose("tier", self.tier, tuple(TIERS))
            self.spec(axis=-1)

    @property
    def changes_bits(self) -> bool:
        """Whether the converted model may not equal an fp32 reference bit for bit."""
        return self.precision != "fp32"

    def spec(self, *, axis: int) -> CastSpec:
        """The cast of one operand whose reduction axis is `axis`."""
        return CastSpec(
            format=self.precision,
            axis=axis,
            block_size=self.block_size,
            scale_rule=self.scale_rule,
            rounding=self.rounding,
            tail="pad",
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types, for the record. The kernel is left out: whose code made the bits is no part
        of what the bits should be."""
        data = {**asdict(self), "roles": list(self.roles)}
        del data["kernel"]
        return data


def recipe(
    precision: str,
    *,
    tier: str | None = None,
    block_size: int = 32,
    scale_rule: str = "floor",
    rounding: str = "even",
    kernel: str = "eager",
) -> Recipe:
    """The recipe of one case: a precision of the ladder and, for MX formats, a tier (`A`: MLP, `B`: MLP and
    attention projections).

    Raises ValueError for an unknown precision or tier, or where a tier is missing or out of place.
    """
    choose("precision", precision, LADDER)
    if precision in WHOLE_MODEL:
        return Recipe(precision=precision, tier=tier, kernel=kernel)
    if tier is None:
        raise ValueError(f"{precision} needs a tier, got none; allowed: {', '.join(TIERS)}")
    choose("tier", tier, tuple(TIERS))
    return Recipe(
        precision=precision,
        tier=tier,
        roles=TIERS[tier],
        block_size=block_size,
        scale_rule=scale_rule,
        rounding=rounding,
        kernel=kernel,
    )
