"""Check that the casts of a case give the same bits first and last, and for every kind of input.

The digests of a record come from a small probe, which is cast before the text. That does not prove that the
text meets the same casts: one may be wrong from the hundredth call on, beyond 2^20 elements, at two threads,
on a slice, in 16 bits. So the probe is cast again at the end: by every module as at first, and by one module
of each cast in other shapes. Each row must give the same bits as at first, so nothing more is stored.

Every input holds all rows of the probe, made uneven: 21 of them are quiet, and lack its largest magnitude.
The other rows are only among the last 32. So a scale that spans the tensor is that of these 32, if the last
rows are read. The rows before come in a cycle of 21, so that blocks along another axis get other scales.

The first casts are checked as well: an activation must enter its product as a cast newly made from the
recipe, in fp32, casts the probe; and the kernel that was called must be the recipe's.

A user's kernel may refuse an input (NotImplementedError): a case needs only the probe. Refusals are noted,
and are no fault.

A library is tested through `operand` alone, first and last. That does not check what a library fixes by the
first batch that `forward` sees: the activations' scale of Transformer Engine's delayed scaling
(`te_fp8_delayed`).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mxcheck.files.printed import told
from mxcheck.gate.row_groups import Digests, RowGroups, changed_rows
from mxcheck.kernels.api import Kernel, called_kernels, is_own, kernel_name, resolve_kernel
from mxcheck.measure.probe_inputs import questions
from mxcheck.measure.probed_cast import CastParts, ProbedCast, first_wrong, rows_of, uneven_probe
from mxcheck.models.conversion.call_casts import CallCast, call_casts
from mxcheck.models.conversion.casts import CastFailedError, CastRefusedError, activation_cast
from mxcheck.models.conversion.classify import owned_weight, reduction_axis, weight_parameters
from mxcheck.models.conversion.convert import convert
from mxcheck.models.conversion.linear import ConvertedLinear, LibraryLinear
from mxcheck.models.conversion.probe import (
    ATTENTION_LENGTH,
    LIBRARY_FACTOR,
    Operands,
    digests,
    probe_like,
    unnoted,
    whole_digest,
)
from mxcheck.models.recipes.ladder import BF16
from mxcheck.models.recipes.recipe import Operand, Recipe
from mxcheck.models.zoo.refusal import is_out_of_memory

FIRST, LAST = "the fixed probe", "the fixed probe once more, last in the case"


class SteadyCasts:
    """The casts of a conversion, tested first and last.

    Attributes:
        conversion: the model, converted.
        wrong: by module, its first fault, in words.
        refused: kinds of input that a user's kernel refused, in words, and why.
    """

    def __init__(
        self, model: nn.Module, recipe: Recipe, held: set[Hashable] | None = None, *, memory: str = "kept"
    ) -> None:
        """Convert `model`, with `memory` as `convert` takes it. Raises as `convert` does.

        `held` holds the keys of code tested before, and is extended: the longest tests run once.
        """
        called: list[Kernel] = []
        with called_kernels(called.append):
            self.conversion = convert(model, recipe, memory=memory)
        self.wrong: dict[str, str] = {}
        self.refused: dict[str, str] = {}
        self._held = set[Hashable]() if held is None else held
        self._casts = list(call_casts(self.conversion))
        self._by_place = {(one.name, one.axis): one for one in self._casts if one.attribute != "result"}
        of_weights, self._kernel = resolve_kernel(recipe.kernel)
        self._own = is_own(self._kernel)
        self._expected: dict[Hashable, tuple[Tensor, str]] = {}
        self._uneven: dict[Hashable, tuple[Tensor, Tensor]] = {}
        self._digests: Digests = {}
        if recipe.library is None and (others := {*called} - {of_weights}):
            self._note(next(iter(self.conversion.modules)), _other_kernel(others, of_weights, "weights"))

    def first(self) -> Digests:
        """Return the digests of the record, before the text."""
        self._digests = self._probed(FIRST)
        for one, width in self._distinct_casts():
            self._of_uneven_probe(one, width)  # now, before the text: later calls may give other bits
        for one in self._casts:
            if one.operand is not None and one.cast is None:
                self._note(one.name, f"its {one.what} are not cast")
        return self._digests

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Check that no module runs in training mode while the text is measured, within the context, or is
        left in it."""
        ran = set[nn.Module]()

        def note(module: nn.Module, _: object) -> None:
            if module.training:
                ran.add(module)

        hook = nn.modules.module.register_module_forward_pre_hook(note)
        try:
            yield
        finally:
            hook.remove()
        modules = dict(self.conversion.model.named_modules())
        for what, others, names in (
            (
                "ran in training mode while it was measured",
                "so did",
                [n for n, one in modules.items() if one in ran],
            ),
            ("is left in training mode", "so are", [n for n, one in modules.items() if one.training]),
        ):
            for name in names[:1]:
                more = f", and {others} {len(names) - 1} others" if len(names) > 1 else ""
                self._note(name or "the model", f"{what}{more}")

    def last(self, length: int) -> None:
        """Test everything again. `length` is that of the text's sequences."""
        again = self._probed(LAST)
        for name, kinds in self._digests.items():
            for kind, then in kinds.items():
                if changed := changed_rows(again[name][kind], then, kind):
                    self._note(name, f"{LAST}: other bits in {changed}")
        with torch.no_grad(), unnoted(self.conversion):
            for asked in self._distinct():
                self._ask(asked, length)

    def _note(self, name: str, words: str) -> None:
        self.wrong.setdefault(name, words)

    def _probed(self, kind: str) -> Digests:
        called: list[Kernel] = []

        def see(name: str, values: Tensor, axis: int) -> str | None:
            # of the cast that gave the values: an attention's linear modules were called before
            kernels = set(called[-1:])
            one = self._by_place[name, axis]
            expected, known = self._of_recipe(one.operand, axis, values)
            wrong = first_wrong(rows_of(values, axis), rows_of(expected, axis))
            if wrong:
                self._note(name, f"{kind}: {wrong} of its {one.what}")
            if one.operand is not None and one.operand.format != BF16 and kernels != {self._kernel}:
                self._note(name, f"{kind}: {_other_kernel(kernels, self._kernel, one.what)}")
            called.clear()
            return None if wrong else known

        with called_kernels(called.append):
            found = digests(self.conversion, see)
        return {
            name: {key: RowGroups(rows=one.rows, groups=one.groups) for key, one in kinds.items()}
            for name, kinds in found.items()
        }

    def _of_recipe(self, operand: Operand | None, axis: int, like: Tensor) -> tuple[Tensor, str]:
        """Cast a probe of the shape and dtype of `like` by the recipe, and return it with its digest: by our
        own kernel in fp32, then rounded; by another in the dtype that it is called in."""
        key = operand, axis, like.shape, like.dtype
        if key not in self._expected:
            x = probe_like(like.to(torch.float32 if self._own else like.dtype))
            values = self._cast_anew(operand, axis, x).to(like.dtype)
            self._expected[key] = values, whole_digest(values)
        return self._expected[key]

    def _of_uneven_probe(self, one: CallCast, width: int) -> tuple[Tensor, Tensor]:
        """Return the uneven probe as a cast gets it, and the recipe's cast of it along its last axis."""
        assert one.operand is not None
        parameter = next(self.conversion.model.parameters())
        in_fp32 = self._own or not one.operand.is_exact_in_16_bits
        key = one.operand, width, in_fp32
        if key not in self._uneven:
            dtype = torch.float32 if in_fp32 else parameter.dtype
            before = uneven_probe(width).to(parameter.device, dtype)
            self._uneven[key] = before, self._cast_anew(one.operand, -1, before.clone())
        return self._uneven[key]

    def _cast_anew(self, operand: Operand | None, axis: int, x: Tensor) -> Tensor:
        """Cast x by a cast newly made from the recipe, into new memory, whatever the cast returns."""
        return activation_cast(operand, self.conversion.recipe.kernel, axis=axis)(x).clone()

    def _distinct_casts(self) -> Iterator[tuple[CallCast, int]]:
        """Yield one of each cast: one operand by one cast, in rows of one width."""
        seen = set[Hashable]()
        for one in self._casts:
            for width in _widths(one):
                key = one.place, one.operand, width
                if one.operand is not None and one.cast is not None and key not in seen:
                    seen.add(key)
                    yield one, width

    def _distinct(self) -> Iterator[ProbedCast]:
        """Yield the same, and one of each width for a library's."""
        for one, width in self._distinct_casts():
            yield self._probed_cast(one, width)
        seen = set[int]()
        for name, module in self.conversion.modules.items():
            if isinstance(module, LibraryLinear):
                weight = owned_weight(module.module)
                width = weight.shape[reduction_axis(module.module)]
                if width not in seen:
                    seen.add(width)
                    before = LIBRARY_FACTOR * uneven_probe(width).to(weight.device, weight.dtype)
                    yield ProbedCast(
                        name=name,
                        what="activations",
                        cast=module.operand,
                        before=before,
                        after=module.operand(before),
                        code=self.conversion.recipe.precision,
                    )

    def _probed_cast(self, one: CallCast, width: int) -> ProbedCast:
        assert one.operand is not None
        assert one.cast is not None
        cast = one.cast
        before, after = self._of_uneven_probe(one, width)
        linear = one.part if isinstance(one.part, ConvertedLinear) and one.attribute == "cast" else None
        return ProbedCast(
            name=one.name,
            what=one.what,
            cast=lambda x: (cast(x),),
            before=before,
            after=(after,),
            axis=one.axis,
            code=(one.place, one.operand, self._kernel),
            kernel=None if one.operand.format == BF16 else self._kernel,
            product=_product(linear) if linear is not None and linear.is_linear else None,
            casts_16_bits=self._own,
            casts_values=True,
            may_refuse=not self._own,
        )

    def _ask(self, asked: ProbedCast, length: int) -> None:
        for question in questions(asked, length, self._held):
            try:
                wrong = question.ask()
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                if asked.may_refuse and isinstance(error, NotImplementedError):
                    reason = error.reason if isinstance(error, CastRefusedError) else told(error)
                    self.refused.setdefault(question.kind, f"{reason} ({asked.what} of {asked.name})")
                    continue
                reason = (
                    error.reason
                    if isinstance(error, CastFailedError)
                    else f"{type(error).__name__}: {told(error)}"
                )
                wrong = f"the cast of its {asked.what} raised {reason}"
            if wrong:
                self._note(asked.name, f"{question.kind}: {wrong}")
                return
            if question.key is not None:
                self._held.add(question.key)


def _other_kernel(found: set[Kernel], expected: Kernel, what: str) -> str:
    names = " and ".join(sorted(map(kernel_name, found))) or "no kernel"
    return f"{names} cast its {what}, and the recipe says {kernel_name(expected)}"


def _widths(one: CallCast) -> list[int]:
    """Return the widths of the rows that it casts: those of a linear module's products; any for other
    modules."""
    if not isinstance(one.part, ConvertedLinear):
        return [ATTENTION_LENGTH]
    module = one.part.module
    shapes = [owned_weight(module, key).shape for key in weight_parameters(module)]
    return list(dict.fromkeys(shape[one.part.axis] for shape in shapes))


def _product(linear: ConvertedLinear) -> CastParts:
    """Return the cast of a linear module's activation as it enters the product."""
    dtype = next(linear.module.parameters()).dtype

    def cast(x: Tensor) -> tuple[Tensor, ...]:
        found: list[Tensor] = []
        with Operands(found.append, lambda _: None):
            linear.module(x.to(dtype))
        return (found[0],)

    return cast
