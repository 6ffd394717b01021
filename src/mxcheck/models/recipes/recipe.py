"""Recipes as data. Torch-free: the pytest plugin builds them during collection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mxcheck.formats.aliases import choose_format, choose_precision, own_precision
from mxcheck.formats.blocks import BLOCK_FORMATS, E8M0
from mxcheck.formats.choices import choose
from mxcheck.formats.spec import CastSpec, cast_spec
from mxcheck.models.recipes.ladder import ALL_LINEARS, BF16, LADDER, MIXED_TIERS, ROLES, TIERS, WHOLE_MODEL


@dataclass(frozen=True, slots=True, kw_only=True)
class Operand:
    """The cast of one operand of a product: `bf16`, or a block format with the options that determine its
    bits.

    None means the format's default (`mxcheck.formats.spec.cast_spec`).
    """

    format: str
    block_size: int | None = None
    scale_rule: str | None = None
    rounding: str = "even"

    def __post_init__(self) -> None:
        own = choose_format("format", self.format, (BF16, *BLOCK_FORMATS))
        object.__setattr__(self, "format", own)
        if self.format != BF16:
            self.spec(axis=-1)
        elif (self.block_size, self.scale_rule, self.rounding) != (None, None, "even"):
            raise ValueError("bf16 rounds each element to even: it takes no block size, rule or rounding")

    def spec(self, *, axis: int) -> CastSpec:
        """Return the cast along `axis`, the products' reduction axis."""
        return cast_spec(
            self.format,
            axis=axis,
            block_size=self.block_size,
            scale_rule=self.scale_rule,
            rounding=self.rounding,
            tail="pad",
        )

    @property
    def shares_a_scale_per_tensor(self) -> bool:
        """True if one scale spans the tensor, so that sequences of one forward pass affect each other."""
        return self.format == "nvfp4" or (self.format != BF16 and BLOCK_FORMATS[self.format].whole_tensor)

    @property
    def is_exact_in_16_bits(self) -> bool:
        """True if the dtype of a 16-bit model can hold its values: with power-of-two scales it can.

        Elements have at most 7 significant bits (mxint8), bf16 has 8, fp16 has 11; and the cast of a bf16
        number is a multiple of bf16's smallest, 2^-133, as the number is, since rounding to a coarser grid
        keeps that and a finer grid changes nothing. (The cast of an fp32 number may be finer, and is
        multiplied in fp32.) The product of two values has at most 14 bits, exact in fp32's 24.
        """
        return self.format == BF16 or BLOCK_FORMATS[self.format].scale == E8M0

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types, with all defaults explicit."""
        if self.format == BF16:
            return {"format": BF16, "rounding": self.rounding}
        spec = self.spec(axis=-1)
        return {
            "format": spec.format,
            "block_size": spec.block_size,
            "scale_rule": spec.scale_rule,
            "rounding": spec.rounding,
            "tail": spec.tail,
            "nonfinite": spec.nonfinite,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Casts:
    """The operands of one role's linear products; None leaves that operand unquantized."""

    weights: Operand | None = None
    activations: Operand | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Quantization of a model.

    Attributes:
        precision: a precision of the ladder, also by another of its names, or the name of a user's recipe.
        tier: A, B, C, D or `linears`; None for whole-model precisions and for users' recipes.
        roles: role -> casts of its linear products, each along its reduction axis: weights once, activations
            at each call. Where a library casts (`bnb_int8`, …) the casts are empty.
        attention: the cast of the operands of both attention products (queries by keys, weights by values).
        outputs: also cast the linear products' results (so keys and values too), like their activations.
        elementwise: the cast of the results of norms, activations, softmax and residual additions.
        kernel: name of the kernel that casts.
    """

    precision: str
    tier: str | None = None
    roles: Mapping[str, Casts] = field(default_factory=dict)
    attention: Operand | None = None
    outputs: bool = False
    elementwise: Operand | None = None
    kernel: str = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", own_precision(self.precision))
        for role in self.roles:
            choose("role", role, ROLES)
        if self.precision in WHOLE_MODEL:
            if self.tier is not None or self.roles or self.attention or self.outputs or self.elementwise:
                raise ValueError(
                    f"{self.precision} converts the whole model: it takes no tier, no roles and no casts, "
                    f"got tier={self.tier!r}, roles={tuple(self.roles)!r}; leave them out"
                )
        elif not self.roles:
            raise ValueError(
                f"{self.precision} needs the roles to quantize, got none; allowed: {', '.join(ROLES)} "
                f"(or use mxcheck.recipe(..., tier='A'))"
            )
        if self.library is not None and (self.operands or self.outputs):
            raise ValueError(f"{self.precision} is cast by its library and takes no casts of mxcheck")
        if self.outputs and not any(casts.activations for casts in self.roles.values()):
            raise ValueError(
                f"outputs casts results as activations are cast, and no role of {self.precision} casts them; "
                f"give a role activations, or leave outputs out"
            )

    @property
    def library(self) -> str | None:
        """The package that casts and multiplies; None: mxcheck casts, torch multiplies."""
        return LADDER[self.precision].library if self.precision in LADDER else None

    @property
    def operands(self) -> tuple[Operand, ...]:
        """Every distinct cast of the recipe."""
        return tuple(dict.fromkeys(self._operands()))

    def _operands(self) -> Iterator[Operand]:
        for casts in self.roles.values():
            yield from (operand for operand in (casts.weights, casts.activations) if operand)
        yield from (operand for operand in (self.attention, self.elementwise) if operand)

    @property
    def sequences_a_pass(self) -> int | None:
        """1 where the sequences of one forward pass share a scale (or a library's statistics), so that the
        result would depend on the batch size; else None."""
        return 1 if self.library is not None or self._spans_activations else None

    @property
    def looks_ahead(self) -> bool:
        """True if a token's result depends on later ones: where one scale spans an activation's tokens
        (`nvfp4`'s tensor scale covers the whole sequence; an engine that decodes token by token has another),
        and where values are cast in blocks along the keys (`attention`)."""
        library = self.library is not None and LADDER[self.precision].spans_tokens
        return library or self.attention is not None or self._spans_activations

    @property
    def _spans_activations(self) -> bool:
        """True if a cast of ours gives all tokens of an activation one scale."""
        casts = [casts.activations for casts in self.roles.values()]
        spanning = [operand for operand in (*casts, self.attention, self.elementwise) if operand]
        return any(operand.shares_a_scale_per_tensor for operand in spanning)

    def changes_bits(self, dtype: str) -> bool | None:
        """Return whether the conversion must change the results of a model whose weights are `dtype`
        (`float32`, `bfloat16`, `float16`): True for all but fp32 and recipes without a cast. Rounding
        bfloat16 to bfloat16 changes nothing (False); but a bfloat16 model computes some results, such as
        routers', in fp32: where those may be rounded, None."""
        if self.precision == "fp32":
            return False
        if self.library is None and self.precision != "bf16" and not self.operands:
            return False
        only_bf16 = self.precision == "bf16" or (
            self.library is None and all(operand.format == BF16 for operand in self.operands)
        )
        if not (only_bf16 and dtype == "bfloat16"):
            return True
        inside = (
            self.elementwise or self.attention or self.outputs or not {*self.roles} <= {"attention", "mlp"}
        )
        return None if inside else False

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types, for the record. The kernel is omitted: the expected bits do not depend on
        it."""
        return {
            "precision": self.precision,
            "tier": self.tier,
            "roles": {
                role: {
                    "weights": _plain(self.roles[role].weights),
                    "activations": _plain(self.roles[role].activations),
                }
                for role in sorted(self.roles)
            },
            "attention": _plain(self.attention),
            "outputs": self.outputs,
            "elementwise": _plain(self.elementwise),
            "sequences_a_pass": self.sequences_a_pass,
            "library": self.library and {"name": self.library, **LADDER[self.precision].settings},
        }


def _plain(operand: Operand | None) -> dict[str, Any] | None:
    return None if operand is None else operand.as_dict()


def recipe_from_dict(data: Mapping[str, Any], *, kernel: str = "auto") -> Recipe:
    """Decode the output of `Recipe.as_dict`."""

    def operand(fields: Mapping[str, Any] | None) -> Operand | None:
        if fields is None:
            return None
        return Operand(**{key: fields[key] for key in Operand.__slots__ if key in fields})

    return Recipe(
        precision=data["precision"],
        tier=data["tier"],
        roles={
            role: Casts(weights=operand(casts["weights"]), activations=operand(casts["activations"]))
            for role, casts in data["roles"].items()
        },
        attention=operand(data["attention"]),
        outputs=data["outputs"],
        elementwise=operand(data["elementwise"]),
        kernel=kernel,
    )


def recipe(
    precision: str,
    *,
    tier: str | None = None,
    block_size: int | None = None,
    scale_rule: str | None = None,
    rounding: str = "even",
    attention: bool = False,
    outputs: bool = False,
    weights_only: bool = False,
    elementwise: str | None = None,
    kernel: str = "auto",
) -> Recipe:
    """Return the recipe of one case of the ladder.

    Args:
        precision: a precision of the ladder; `mixed` for the tiers C and D.
        tier: `A`: MLP; `B`: MLP and attention projections; `C`: MLP fp6_e3m2, attention fp8_e4m3; `D`: MLP
            fp4_e2m1, attention fp6_e3m2; `linears`: every linear, head and routers too. Not for fp32, bf16.
        block_size, scale_rule, rounding: of formats with E8M0 scales; None is the format's default.
        attention: also cast the operands of both attention products, like the attention's (else the MLP's)
            activations.
        outputs: also cast the linear products' results.
        weights_only: leave activations unquantized.
        elementwise: `bf16` or a block format: also cast the results of element-wise operations.
        kernel: name of the kernel that casts.

    Raises ValueError for an unknown name, and where a tier is missing or does not apply.
    """
    precision = choose_precision("precision", precision, LADDER)
    row = LADDER[precision]
    ours = precision not in WHOLE_MODEL and row.library is None
    if not ours and (attention or outputs or weights_only or elementwise):
        how = "converts the whole model" if precision in WHOLE_MODEL else "is cast by its library"
        raise ValueError(
            f"{precision} {how}: attention, outputs, weights_only and elementwise are for precisions that "
            f"mxcheck casts; leave them out"
        )
    if precision in WHOLE_MODEL:
        return Recipe(precision=precision, tier=tier, kernel=kernel)
    allowed = tuple(MIXED_TIERS) if precision == "mixed" else (*TIERS, ALL_LINEARS)
    if tier is None:
        raise ValueError(f"{precision} needs a tier, got none; allowed: {', '.join(allowed)}")
    choose(f"tier of {precision}", tier, allowed)

    def operand(format: str) -> Operand:
        own = Operand(format=format)
        if own.format == BF16 or BLOCK_FORMATS[own.format].scale != E8M0:
            return own
        return Operand(format=format, block_size=block_size, scale_rule=scale_rule, rounding=rounding)

    if precision == "mixed":
        formats: Mapping[str, str | None] = MIXED_TIERS[tier]
    else:
        formats = dict.fromkeys(ROLES if tier == ALL_LINEARS else TIERS[tier], row.operand)
    if weights_only and (attention or outputs or elementwise):
        raise ValueError(
            "weights_only leaves activations as they are; attention, outputs and global casts change some; "
            "drop one"
        )
    roles = {
        role: Casts()
        if name is None
        else Casts(weights=operand(name), activations=None if weights_only else operand(name))
        for role, name in formats.items()
    }
    products = roles.get("attention", roles["mlp"]).activations if attention else None
    return Recipe(
        precision=precision,
        tier=tier,
        roles=roles,
        attention=products,
        outputs=outputs,
        elementwise=None if elementwise is None else operand(elementwise),
        kernel=kernel,
    )
