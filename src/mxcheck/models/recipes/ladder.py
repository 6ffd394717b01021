"""The ladder: every precision in which a model is measured, one row each with all that it needs. Torch-free.

A new precision is a row of `_precisions`. Where a library computes it, the row names the class in
`mxcheck.models.backends` that calls the library, and its arguments.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

from mxcheck.formats.aliases import MX_PRECISIONS, PRECISION_ALIASES
from mxcheck.formats.blocks import BLOCK_FORMATS
from mxcheck.formats.elements import ELEMENT_FORMATS

#: Roles of linear-like modules, as `mxcheck.models.conversion.classify` returns them.
ROLES = ("attention", "mlp", "router", "lm_head", "other")

#: Tiers that apply one precision to the named roles.
TIERS: Mapping[str, tuple[str, ...]] = MappingProxyType({"A": ("mlp",), "B": ("attention", "mlp")})
#: Tiers with a fixed format for each role: their precision is `mixed`.
MIXED_TIERS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "C": MappingProxyType({"attention": "fp8_e4m3", "mlp": "fp6_e3m2"}),
        "D": MappingProxyType({"attention": "fp6_e3m2", "mlp": "fp4_e2m1"}),
    }
)
#: Tier of `--mx-all-linears`: every linear, including head and routers.
ALL_LINEARS = "linears"

#: An operand "format" that is no block format: each element is rounded to bfloat16.
BF16 = "bf16"

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_BACKEND = re.compile(r"[a-z_]+:[A-Za-z]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """One precision of the ladder. Raises ValueError for a row that contradicts itself.

    Attributes:
        group: group name for `--mx-skip`.
        what: what it computes, in a few words, for `mxcheck ladder`.
        operand: the format that both operands of the chosen products are cast to (a block format, or
            `bf16`); None where the whole model changes, a tier fixes the formats, or a library casts.
        library: package that casts and multiplies; None where mxcheck casts.
        backend: `module:class` in `mxcheck.models.backends` of the library's precisions. The class gets the
            name, the `settings` and the `arguments`.
        settings: the library's settings other than its defaults; records show them.
        arguments: what else the backend's class takes.
        needs: requirements, for the table of docs/ladder.md.
        spans_tokens: whether a library's cast of an activation depends on all of its tokens: one scale for
            the tensor, or columns that any row makes outliers. (For our casts, the formats determine it.)
    """

    name: str
    group: str
    what: str
    operand: str | None = None
    library: str | None = None
    backend: str | None = None
    settings: Mapping[str, float] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    needs: str = "nothing else"
    spans_tokens: bool = False

    def __post_init__(self) -> None:
        wrong = {
            "name must be lower-case letters, digits and '_'": not _NAME.fullmatch(self.name),
            "name is another name of a precision": self.name in PRECISION_ALIASES,
            "what must say in words what it computes": not self.what.strip(),
            "library and backend go together": (self.library is None) != (self.backend is None),
            "backend must be module:class": not _BACKEND.fullmatch(self.backend or "a:a"),
            "either its library casts or an operand's format": None not in (self.library, self.operand),
            "operand must be bf16 or a block format": self.operand not in (None, BF16, *BLOCK_FORMATS),
            "settings, arguments and spans_tokens are a library's": self.library is None
            and bool(self.settings or self.arguments or self.spans_tokens),
        }
        if found := [why for why, applies in wrong.items() if applies]:
            raise ValueError(f"precision {self.name!r}: {'; '.join(found)}; correct its row")


def _precisions() -> tuple[Precision, ...]:
    ada, blackwell = "CUDA, compute capability 8.9 or more", "CUDA, compute capability 10.x or 11.x"
    return (
        Precision(name="fp32", group="fp32", what="nothing: the model against itself"),
        Precision(name="bf16", group="bf16", what="all parameters and all arithmetic in bfloat16"),
        Precision(
            name="bf16_operands",
            group="bf16_operands",
            what="operands rounded to bfloat16",
            operand=BF16,
        ),
        *(
            Precision(
                name=f"fp8_tensor_{element}",
                group="fp8_tensor",
                what=f"operands in FP8 {element.upper()}, an fp32 scale a tensor",
                operand=f"{element}_tensor",
            )
            for element in ("e4m3", "e5m2")
        ),
        *(
            Precision(
                name=MX_PRECISIONS[name],
                group="mx",
                what=f"operands in blocks of {block.block_size}, {block.element.bits} bits an element",
                operand=name,
            )
            for name, block in BLOCK_FORMATS.items()
            if name in ELEMENT_FORMATS
        ),
        Precision(
            name="nvfp4",
            group="nvfp4",
            what="operands in FP4 E2M1, scales by 16 and a tensor",
            operand="nvfp4",
        ),
        Precision(
            name="mixed",
            group="mx",
            what="\n".join(
                f"{tier}: {', '.join(f'{role} {name}' for role, name in formats.items())}"
                for tier, formats in MIXED_TIERS.items()
            ),
        ),
        Precision(
            name="bnb_int8",
            group="bnb_int8",
            what="LLM.int8(): int8 products, outlier columns apart",
            library="bitsandbytes",
            backend="bnb_backend:BitsAndBytes",
            settings={"threshold": 6.0},
            needs="bitsandbytes",
            spans_tokens=True,
        ),
        *(
            Precision(
                name=f"te_fp8_{name}",
                group="te",
                what=f"FP8 products, a scale a tensor, of the {of}",
                library="transformer_engine",
                backend="te_backend:TransformerEngine",
                arguments={
                    "recipe": recipe,
                    "recipe_arguments": recipe_arguments,
                    "available": "is_fp8_available",
                    "at_least": (8, 9),
                    "of_in": 16,
                    "of_out": 8,
                },
                needs=f"Transformer Engine; {ada}; inputs a multiple of 16, outputs of 8",
                spans_tokens=True,
            )
            for name, of, recipe, recipe_arguments in (
                ("current", "tensor itself", "Float8CurrentScaling", {}),
                ("delayed", "first batch", "DelayedScaling", {"reduce_amax": False}),
            )
        ),
        Precision(
            name="te_mxfp8",
            group="te",
            what="MXFP8 products, E8M0 scales by 32",
            library="transformer_engine",
            backend="te_backend:TransformerEngine",
            arguments={
                "recipe": "MXFP8BlockScaling",
                "available": "is_mxfp8_available",
                "at_least": (10, 0),
                "below": (12, 0),
                "of_in": 32,
                "of_out": 32,
            },
            needs=f"Transformer Engine; {blackwell}; inputs and outputs a multiple of 32",
        ),
        *(
            Precision(
                name=name,
                group="scaled_mm",
                what=f"FP8 E4M3 products, an fp32 scale a {scaled}",
                library="torch",
                backend="scaled_mm_backend:ScaledMM",
                arguments={"format": f"e4m3_{scaled}"},
                needs=f"torch 2.10 or later; a CPU, or {ada}",
                spans_tokens=scaled == "tensor",
            )
            for name, scaled in (("scaled_mm_fp8", "tensor"), ("scaled_mm_fp8_row", "row"))
        ),
    )


def by_name(rows: Iterable[Precision]) -> Mapping[str, Precision]:
    """Return the rows by name. Raises ValueError for a name that two rows have, and for an alias without a
    precision."""
    found: dict[str, Precision] = {}
    for row in rows:
        if row.name in found:
            raise ValueError(f"two precisions are called {row.name!r}; rename one")
        found[row.name] = row
    for alias, name in PRECISION_ALIASES.items():
        if name not in found:
            raise ValueError(f"{alias!r} is another name of {name!r}, which is no precision; correct either")
    return MappingProxyType(found)


#: name -> precision, in the order of tables.
LADDER: Mapping[str, Precision] = by_name(_precisions())
#: Precisions that change the whole model and therefore have no tier.
WHOLE_MODEL = ("fp32", "bf16")
#: Precisions that cast the operands of the chosen products to one MX element format.
MX = tuple(MX_PRECISIONS[name] for name in ELEMENT_FORMATS)
#: Of these, the float formats of OCP MX v1.0, which the ladder also has with the scale rule `rceil`.
ROUNDED_UP = ("mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e3m2", "mxfp6_e2m3", "mxfp4_e2m1")
#: Allowed values of `--mx-skip`, and former names that it still takes.
GROUPS = tuple(dict.fromkeys(one.group for one in LADDER.values() if one.group != "fp32"))
FORMER_GROUPS: Mapping[str, str] = MappingProxyType({"bfp16": "bf16_operands", "nvfp8_emu": "fp8_tensor"})


def with_tiers() -> tuple[tuple[str, str | None], ...]:
    """Return every precision with each of its tiers, in the order of tables."""
    return tuple(
        (name, tier)
        for name in LADDER
        for tier in (
            (None,) if name in WHOLE_MODEL else tuple(MIXED_TIERS) if name == "mixed" else tuple(TIERS)
        )
    )


def installed(precision: Precision) -> bool:
    """Return whether the precision's library is installed, as far as known without an import."""
    return precision.library is None or find_spec(precision.library) is not None
