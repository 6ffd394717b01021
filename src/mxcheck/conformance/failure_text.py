"""Describe a counterexample in words and as plain data, for failures, reports and findings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mxcheck.conformance.cases.group_names import group_in_words
from mxcheck.conformance.shrink.counterexample import Counterexample
from mxcheck.conformance.verify.conditions import LAST_BIT, OF_SHAPE, in_words
from mxcheck.conformance.verify.verifier import Comparison, expected_values
from mxcheck.formats.blocks import E8M0
from mxcheck.formats.codes import E8M0_NAN
from mxcheck.formats.notation import hex_words, reproduction
from mxcheck.formats.spec import resolve_axis

_MOST_SHOWN = 8
_LONGEST_COMMAND = 4000
_IN_REPORT = ": --mx-report=DIR writes it into conformance.json"


def as_data(counterexample: Counterexample, kernel: str) -> dict[str, Any]:
    """Return plain JSON types: the input, what was got and expected as hex words, and the command that
    reproduces it; "" for the command where the mismatch needs strides or other surroundings."""
    x, spec, found = counterexample.x, counterexample.spec, counterexample.comparison
    data: dict[str, Any] = {
        "kind": counterexample.kind,
        "condition": _condition(counterexample),
        "open": counterexample.open,
        "mismatches": counterexample.count,
        "single_block": counterexample.single_block,
        "note": counterexample.note,
        "dtype": str(x.dtype).removeprefix("torch."),
        "shape": list(x.shape),
        "axis": spec.axis,
        "block_size": spec.block_size,
        "input": " ".join(hex_words(x.detach().float().numpy())),
        "reproduce": _command(counterexample, kernel),
    }
    return {**data, **results(found)}


def results(found: Comparison) -> dict[str, str]:
    """Return what was got and expected, as hex words by name; or the error."""
    if found.error:
        return {"error": found.error}
    names = ("values",) if len(found.got) == 1 else ("codes", "scales", "tensor_scale")
    data = {}
    for name, got, expected in zip(names, found.got, found.expected, strict=False):
        data[f"{name}_got"], data[f"{name}_expected"] = _words(got), _words(expected)
    return data


def describe(
    group: str, counterexample: Counterexample, kernel: str | None, *, too_long: str = _IN_REPORT
) -> list[str]:
    """Return the lines of a failure: where it comes from, the input, what differs, a command to paste.
    Without a kernel the input was not shrunk, and the command shows the expected bits alone. `too_long`
    replaces a command that is too long."""
    x, spec, found = counterexample.x, counterexample.spec, counterexample.comparison
    values = x.detach().float().numpy()
    dtype = str(x.dtype).removeprefix("torch.")
    size = f"a tensor of shape {tuple(x.shape)} in {dtype}"
    if counterexample.single_block:
        shape = f", shape {'x'.join(map(str, x.shape))}" if x.dim() > 1 else ""
        size = f"a single block of {x.shape[resolve_axis(x.dim(), spec.axis)]} {dtype}{shape}"
    axis = f", axis {spec.axis}" if x.dim() > 1 else ""
    cut = counterexample.surroundings or kernel is None
    which = "cut out of the input" if cut else "smallest input"
    source = group_in_words(group)
    lines = [f"{_title(counterexample)}: {which}, {size}{axis}, from {source}:"]
    places = [tuple(int(i) for i in at) for at in np.argwhere(values.view(np.uint32))]
    lines.append(
        "  input: " + (_listed(places, lambda at: _number(values[at])) or "zeros") + _rest(values, places)
    )
    # Elements under a wrong scale are not listed; of the others those of the kind are listed and the rest
    # counted.
    own = None if counterexample.surroundings else found.found.get(counterexample.kind)
    own = None if counterexample.kind == "scale" else own
    if found.error:
        lines.append(f"  {found.error}")
    elif len(found.got) == 1:
        lines += _differing("value", _answers(counterexample, 0), _number, own)
    else:
        show = _scale if spec.block.scale == E8M0 else _number
        lines += _differing("scale", _answers(counterexample, 1), show)
        if len(found.got) == 3:
            lines += _differing("tensor scale", _answers(counterexample, 2), _number)
        if not (
            spec.block.scale == E8M0 and (found.expected[1] == E8M0_NAN).all()
        ):  # else codes are meaningless
            lines += _differing("code", _answers(counterexample, 0), lambda code: f"{int(code):02x}", own)
    if counterexample.note:
        lines.append(f"  {counterexample.note}")
    if counterexample.strided or counterexample.surroundings:
        of = "how it is called" if counterexample.surroundings else "the strides of its input"
        return [*lines, f"  no one-line reproduction: it depends on {of}"]
    command = _command(counterexample, kernel)
    if len(command) > _LONGEST_COMMAND:
        command = f"the command has {len(command)} characters{too_long}"
    return [*lines, f"  reproduce: {command}"]


def _command(counterexample: Counterexample, kernel: str | None) -> str:
    if counterexample.strided or counterexample.surroundings:
        return ""
    x = counterexample.x
    dtype = str(x.dtype).removeprefix("torch.")
    return reproduction(x.detach().float().numpy(), counterexample.spec, dtype=dtype, kernel=kernel)


def _answers(counterexample: Counterexample, part: int) -> dict[str, NDArray[Any]]:
    """Return what was got and expected for one part of a result. In other surroundings the kernel's earlier
    answer is expected; where that is wrong, the oracle's stands beside it."""
    found = counterexample.comparison
    got, expected = found.got[part], found.expected[part]
    answers = {"got": got, "expected": expected}
    if not counterexample.surroundings or not found.oracle:
        return answers
    right = found.oracle[part]
    if len(found.got) == 1:
        right = expected_values(found.oracle, counterexample.x.dtype, counterexample.spec).float().numpy()
    if np.array_equal(right, expected, equal_nan=right.dtype == np.float32):
        return answers
    here = "in a batch" if counterexample.surroundings.startswith("in a batch") else "here"
    return {"alone": expected, here: got, "oracle": right}


def _differing(
    name: str, answers: dict[str, NDArray[Any]], show: Any, own: NDArray[np.bool_] | None = None
) -> list[str]:
    bits = [part.view(np.uint32) if part.dtype == np.float32 else part for part in answers.values()]
    differ = np.asarray(bits[0] != bits[1])
    told = differ if own is None else differ & own
    places = [tuple(int(i) for i in at) for at in np.argwhere(told)]
    if not places:
        return [f"  {name}s: as expected"] if name != "tensor scale" else []
    line = _listed(
        places, lambda at: ", ".join(f"{who} {show(answer[at])}" for who, answer in answers.items())
    )
    others = int(differ.sum()) - len(places)
    return [f"  {name}: {line}" + (f"; {others} of another kind" if others else "")]


def summary(found: Sequence[Counterexample]) -> str:
    """`2 wrong, 3 differ where OCP is silent`: the number of causes of each sort."""
    last = sum(one.kind == LAST_BIT for one in found)
    silent = sum(one.open for one in found)
    wrong = len(found) - last - silent
    nothing = "OCP is silent" if all(map(_is_of_ocp, found)) else "no definition is common"
    parts = [
        f"{wrong} wrong" if wrong else "",
        f"{silent} differ{'s' if silent == 1 else ''} where {nothing}" if silent else "",
        f"{last} in the last bit, which is not wrong" if last else "",
    ]
    return ", ".join(part for part in parts if part)


def _is_of_ocp(counterexample: Counterexample) -> bool:
    return counterexample.spec.block.scale == E8M0


def _title(counterexample: Counterexample) -> str:
    """`code (tie), 19,185 times`; `scale (zero block; OCP is silent)`."""
    silent = "OCP is silent" if _is_of_ocp(counterexample) else "no definition is common"
    told = [_condition(counterexample), silent if counterexample.open else ""]
    words = "; ".join(one for one in told if one)
    title = f"{counterexample.kind} ({words})" if words else counterexample.kind
    return f"{title}, {counterexample.count:,} times" if counterexample.count > 1 else title


def _condition(counterexample: Counterexample) -> str:
    sighting = counterexample.sighting
    if sighting is None or counterexample.surroundings:
        return ""
    if not counterexample.only_shape:
        return in_words(sighting.conditions)
    others = in_words(sighting.conditions & ~OF_SHAPE)
    return ", ".join(one for one in (others, "only in this shape") if one)


def _listed(places: list[tuple[int, ...]], show: Any) -> str:
    shown = [f"[{', '.join(map(str, at))}] {show(at)}" for at in places[:_MOST_SHOWN]]
    more = len(places) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more else "")


def _rest(values: NDArray[np.float32], places: list[tuple[int, ...]]) -> str:
    others = values.size - len(places)
    return f"; the other {others} are 0" if others and places else ""


def _number(value: Any) -> str:
    if not isinstance(value, np.floating):
        return f"{int(value):02x}"
    return f"{int(np.float32(value).view(np.uint32)):08x} ({value:.9g})"


def _scale(code: Any) -> str:
    return f"{int(code):02x} (" + ("NaN" if code == 0xFF else f"2^{int(code) - 127}") + ")"


def _words(values: NDArray[Any]) -> str:
    if values.dtype == np.float32:
        return " ".join(hex_words(values.ravel()))
    return " ".join(f"{int(code):02x}" for code in values.ravel())
