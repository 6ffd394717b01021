"""The block formats as data: the elements that share a scale, and the kind of scale.

Standard library only, like `elements.py`.

Sources: OCP Microscaling Formats (MX) v1.0, section 5.2; NVFP4 as NVIDIA describes it (blocks of 16, an E4M3
scale per block, an fp32 scale per tensor). FP4 E3M0 is not part of the specification: experimental.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mxcheck.formats.aliases import choose_format
from mxcheck.formats.choices import choose
from mxcheck.formats.elements import ELEMENT_FORMATS, ElementFormat, by_name
from mxcheck.formats.scale_rules import rules_of

E8M0 = "e8m0"
E4M3 = "e4m3"
FP32 = "fp32"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockFormat:
    """A format of a cast.

    Attributes:
        name: the name that users write.
        element: format of the elements.
        scale: kind of the scale: `e8m0` (a power of two per block), `e4m3` (an E4M3 number per block and an
            fp32 number per tensor: NVFP4), `fp32` (a number per row or tensor).
        block_size: elements that share a scale by default; None where that is the whole axis or tensor.
        whole_tensor: whether all of the tensor shares the scale, instead of a row.
    """

    name: str
    element: ElementFormat
    scale: str = E8M0
    block_size: int | None = 32
    whole_tensor: bool = False

    def __post_init__(self) -> None:
        choose(f"scale of the format {self.name}", self.scale, (E8M0, E4M3, FP32))
        if (self.block_size is None) != (self.scale == FP32) or (self.whole_tensor and self.scale != FP32):
            raise ValueError(
                f"format {self.name!r} has the block size {self.block_size} and the scale {self.scale}; "
                f"fp32 scales, and no others, are shared by a row or tensor"
            )

    @property
    def scale_rules(self) -> tuple[str, ...]:
        """The scale rules defined for it, its default first."""
        if self.scale != E8M0:
            return ("amax",)
        return rules_of(self.element)


def _fp32_scaled(element: str) -> tuple[BlockFormat, BlockFormat]:
    short = element.removeprefix("fp8_")
    shared = {"element": ELEMENT_FORMATS[element], "scale": FP32, "block_size": None}
    return (
        BlockFormat(name=f"{short}_tensor", whole_tensor=True, **shared),  # type: ignore[arg-type]
        BlockFormat(name=f"{short}_row", **shared),  # type: ignore[arg-type]
    )


#: name -> format: elements' own names with E8M0 scales, then the others. The others contain no element's
#: name, so that `-k fp8_e4m3` means the MX format alone.
BLOCK_FORMATS: Mapping[str, BlockFormat] = by_name(
    *(BlockFormat(name=name, element=element) for name, element in ELEMENT_FORMATS.items()),
    BlockFormat(name="nvfp4", element=ELEMENT_FORMATS["fp4_e2m1"], scale=E4M3, block_size=16),
    *_fp32_scaled("fp8_e4m3"),
    *_fp32_scaled("fp8_e5m2"),
)


def block_format(name: str) -> BlockFormat:
    """Return the format called `name`, by us or by the field.

    Raises:
        ValueError: no such format; names the allowed ones and the nearest match.
    """
    return BLOCK_FORMATS[choose_format("format", name, BLOCK_FORMATS)]
