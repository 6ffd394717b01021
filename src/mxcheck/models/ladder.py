"""The ladder: every precision in which a model is measured, its casts and its requirements. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from types import MappingProxyType

from mxcheck.formats.elements import ELEMENT_FORMATS

#: Roles of linear-like modules, as `mxcheck.models.classify` returns them.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One precision of the ladder.

    Attributes:
        group: group name for `--mx-skip`.
        operand: the format that both operands of the chosen products are cast to (a block format, or
            `bf16`); None where the whole model changes, a tier fixes the formats, or a library casts.
        library: package that casts and multiplies; None where mxcheck casts.
        settings: the library's settings other than its defaults.
        needs: requirements, for the table of docs/ladder.md.
        spans_tokens: whether a library's cast of an activation depends on all of its tokens: one scale for
            the tensor, or columns that any row makes outliers. (For our casts, the formats determine it.)
    """

    name: str
    group: str
    operand: str | None = None
    library: str | None = None
    settings: Mapping[str, float] = field(default_factory=dict)
    needs: str = "nothing else"
    spans_tokens: bool = False


def _steps() -> tuple[Step, ...]:
    ada, blackwell = "CUDA, compute capability 8.9 or more", "CUDA, compute capability 10.x or 11.x"
    return (
        Step(name="fp32", group="fp32"),
        Step(name="bf16", group="bf16"),
        Step(name="bfp16", group="bfp16", operand="bf16"),
        Step(name="nvfp8_emu_e4m3", group="nvfp8_emu", operand="e4m3_tensor"),
        Step(name="nvfp8_emu_e5m2", group="nvfp8_emu", operand="e5m2_tensor"),
        *(Step(name=name, group="mx", operand=name) for name in ELEMENT_FORMATS),
        Step(name="nvfp4", group="nvfp4", operand="nvfp4"),
        Step(name="mixed", group="mx"),
        Step(
            name="bnb_int8",
            group="bnb_int8",
            library="bitsandbytes",
            settings={"threshold": 6.0},
            needs="bitsandbytes",
            spans_tokens=True,
        ),
        *(
            Step(
                name=name,
                group="te",
                library="transformer_engine",
                needs=f"Transformer Engine; {device}; {multiples}",
                spans_tokens=name != "te_mxfp8",
            )
            for name, device, multiples in (
                ("te_fp8_current", ada, "inputs a multiple of 16, outputs of 8"),
                ("te_fp8_delayed", ada, "inputs a multiple of 16, outputs of 8"),
                ("te_mxfp8", blackwell, "inputs and outputs a multiple of 32"),
            )
        ),
        *(
            Step(
                name=name,
                group="scaled_mm",
                library="torch",
                needs=f"torch 2.10 or later; a CPU, or {ada}",
                spans_tokens=name == "scaled_mm_fp8",
            )
            for name in ("scaled_mm_fp8", "scaled_mm_fp8_row")
        ),
    )


#: name -> precision, in the order of tables.
LADDER: Mapping[str, Step] = MappingProxyType({step.name: step for step in _steps()})
#: Precisions that change the whole model and therefore have no tier.
WHOLE_MODEL = ("fp32", "bf16")
#: Precisions that cast the operands of the chosen products to one MX element format.
MX = tuple(ELEMENT_FORMATS)
#: Of these, the float formats of OCP MX v1.0, which the ladder also has with the scale rule `rceil`.
ROUNDED_UP = ("fp8_e4m3", "fp8_e5m2", "fp6_e3m2", "fp6_e2m3", "fp4_e2m1")
#: Allowed values of `--mx-skip`.
GROUPS = tuple(dict.fromkeys(step.group for step in LADDER.values() if step.group != "fp32"))


def stages() -> tuple[tuple[str, str | None], ...]:
    """Return every precision with each of its tiers, in the order of tables."""
    return tuple(
        (name, tier)
        for name in LADDER
        for tier in (
            (None,) if name in WHOLE_MODEL else tuple(MIXED_TIERS) if name == "mixed" else tuple(TIERS)
        )
    )


def installed(step: Step) -> bool:
    """Return whether the precision's library is installed, as far as known without an import."""
    return step.library is None or find_spec(step.library) is not None
