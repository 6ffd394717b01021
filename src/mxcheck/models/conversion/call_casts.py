"""Enumerate the casts that a converted model makes at each call, for checks of the casts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mxcheck.models.conversion.attention import ConvertedAttention
from mxcheck.models.conversion.convert import Conversion
from mxcheck.models.conversion.elementwise import GlobalQuantization
from mxcheck.models.conversion.linear import Converted
from mxcheck.models.conversion.product_hooks import Cast
from mxcheck.models.recipes.recipe import Operand

#: Name for the results of element-wise operations among the names of modules.
ELEMENTWISE = "element-wise results"

Part = Converted | ConvertedAttention | GlobalQuantization


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CallCast:
    """One cast at a call.

    Attributes:
        name: of the module that owns the cast.
        what: plural noun for its inputs.
        part, attribute: where the cast is stored.
        operand: its entry in the recipe; None: not cast.
        axis: the axis of the recipe's blocks.
    """

    name: str
    what: str
    part: Part
    attribute: str
    operand: Operand | None
    axis: int

    @property
    def words(self) -> str:
        return (
            f"{self.what} of {self.name}"
            if self.name != ELEMENTWISE
            else "results of element-wise operations"
        )

    @property
    def place(self) -> tuple[str, str]:
        """Location of such a cast, the same for all modules of a kind."""
        return type(self.part).__name__, self.attribute

    @property
    def cast(self) -> Cast | None:
        """The cast now stored there, or None."""
        found: Cast | None = getattr(self.part, self.attribute)
        return found


def call_casts(conversion: Conversion) -> Iterator[CallCast]:
    """Yield every cast at a call that mxcheck makes; modules of a library have none."""
    recipe = conversion.recipe
    if recipe.library is None:
        for name, module in conversion.modules.items():
            operand = recipe.roles[conversion.replaced[name]].activations
            for what, attribute in (("activations", "cast"), ("results", "result")):
                if attribute == "cast" or recipe.outputs:
                    yield CallCast(
                        name=name, what=what, part=module, attribute=attribute, operand=operand, axis=-1
                    )
    for name, attention in conversion.attention.items():
        for what, attribute, axis in (
            ("queries and probabilities", "first", -1),
            ("keys and values", "second", -2),
        ):
            yield CallCast(
                name=name,
                what=what,
                part=attention,
                attribute=attribute,
                operand=recipe.attention,
                axis=axis,
            )
    if conversion.elementwise is not None:
        yield CallCast(
            name=ELEMENTWISE,
            what="results",
            part=conversion.elementwise,
            attribute="cast",
            operand=recipe.elementwise,
            axis=-1,
        )
