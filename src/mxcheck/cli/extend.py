"""`mxcheck baselines extend`: convert baselines of the previous format version to this one, if nothing
moved."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from mxcheck.cli.console import console
from mxcheck.files.write import write_text
from mxcheck.gate.baseline import BaselineError, encode
from mxcheck.gate.case import Case, named_model
from mxcheck.gate.drift import same_arithmetic
from mxcheck.gate.earlier import Earlier, extended, extension, read_earlier
from mxcheck.models.recipe import recipe_from_dict
from mxcheck.models.zoo import REFERENCE_MODELS
from mxcheck.reporting.screen import say
from mxcheck.run.measuring import Measuring

if TYPE_CHECKING:
    from mxcheck.measure.session import Session

_DTYPES = {"loaded-fp32": "float32", "loaded-bf16": "bfloat16", "loaded-fp16": "float16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """The result for one file. `share` is the largest ratio of a change of losses or KL to its bound."""

    name: str
    word: str
    share: float | None = None
    why: str = ""


def extend(options: argparse.Namespace) -> int:
    """Extend what can be extended. Returns exit code 0 where every file now has this format, else 1."""
    names = {name: name for name in REFERENCE_MODELS}
    names |= dict(named_model(given) for given in filter(None, map(str.strip, options.models.split(","))))
    lines = list(_lines(options.baselines, names))
    if not lines:
        raise ValueError(f"no baseline in or below {options.baselines}; name another folder with --baselines")
    console().print(_table(lines))
    left = [line for line in lines if line.word not in ("extended", "of this format")]
    apart = [line for line in left if line.word == "other arithmetic"]
    if apart:
        within = sum(line.share is not None and line.share <= 1 for line in apart)
        console().print(
            f"this machine multiplies otherwise than the accepting one: {within} of {len(apart)} cases are "
            f"within their drift bounds; none was written. Accept them anew with: pytest --snapshot-update"
        )
    return 1 if left else 0


def _table(lines: Sequence[Line]) -> Table:
    table = Table("baseline", "what", box=None, pad_edge=False)
    table.add_column("drift / bound", justify="right")
    table.add_column("why")
    for line in lines:
        share = "" if line.share is None else f"{line.share:.2g}"
        style = None if line.word in ("extended", "of this format") else "bold red"
        table.add_row(line.name, line.word, share, line.why, style=style)
    return table


def _lines(root: Path, names: dict[str, str]) -> Iterator[Line]:
    """Yield the result for each file below `root`, first for those that need no measurement."""
    groups: dict[str, list[tuple[Path, Earlier]]] = {}
    for path in sorted(root.rglob("*.json")):
        name = path.relative_to(root).as_posix()
        try:
            earlier = read_earlier(path)
        except BaselineError as error:
            yield Line(name=name, word="refused", why=str(error))
            continue
        if earlier is None:
            yield Line(name=name, word="of this format")
        elif why := _unmeasurable(earlier, name, names):
            yield Line(name=name, word="refused", why=why)
        else:
            try:
                key = repr(replace(_measuring([earlier], names, root), recipes={}))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                yield Line(name=name, word="refused", why=f"its recipe cannot be read: {error}")
                continue
            groups.setdefault(key, []).append((path, earlier))
    for group in groups.values():
        yield from _of_group(group, _measuring([earlier for _, earlier in group], names, root), root)


def _of_group(group: list[tuple[Path, Earlier]], measuring: Measuring, root: Path) -> Iterator[Line]:
    """Yield the results for the files whose cases are measured on one resident model and text."""
    from mxcheck.measure.session import Session

    with Session(measuring) as session:
        for path, earlier in group:
            name = path.relative_to(root).as_posix()
            say(f"mxcheck: {name}", error=True)
            yield _extended(session, earlier, path, name)


def _unmeasurable(earlier: Earlier, name: str, names: dict[str, str]) -> str:
    """Return why a case cannot be measured here, or an empty string."""
    record = earlier.record
    if "@" in name:
        return "it was accepted on a device of another class; accept it anew there"
    if not record.self_sampled:
        return f"it was measured on {record.corpus.get('used')}; accept it anew with the same --mx-datasets"
    if record.model not in names:
        return f"where {record.model} lies is not known; give its directory or hub id by --models"
    try:
        recipe_from_dict(record.recipe)
    except (ValueError, TypeError, KeyError) as error:
        return f"its recipe cannot be made any more: {error}; accept it anew with --snapshot-update"
    return ""


def _measuring(group: Sequence[Earlier], names: dict[str, str], root: Path) -> Measuring:
    """Return how the cases of a group were measured, which differs only in their recipes."""
    record = group[0].record
    dtypes = [_DTYPES[option] for option in record.options if option in _DTYPES]
    return Measuring(
        models={record.model: names[record.model]},
        recipes={one.record.case: recipe_from_dict(one.record.recipe) for one in group},
        dtype=dtypes[0] if dtypes else None,
        max_samples=len(record.reference_losses),
        sequence_length=record.corpus["block_length"],
        baselines=root,
        device="cpu",
    )


def _extended(session: Session, earlier: Earlier, path: Path, name: str) -> Line:
    from mxcheck.measure.measure_case import measure_case
    from mxcheck.measure.noise import noise_of
    from mxcheck.models.convert import UnavailableError

    case: Case = earlier.record.case
    try:
        record = measure_case(session, case)
        if wrong := session.checks():
            raise ValueError(wrong[0].message)
        found = extension(earlier, record)
        share = max(one.share for one in found.drift.values())
        if not same_arithmetic(record, earlier.record):
            moved = ", ".join(found.moved)
            return Line(name=name, word="other arithmetic", share=share, why=f"moved: {moved}")
        if not found.adds_only:
            return Line(name=name, word="moved", share=share, why=", ".join(found.moved))
        recipes = session.measuring.recipes
        cases = {one.id: one for one in recipes if session.unavailable(recipes[one]) is None}
        noise = noise_of(session, record, cases, gpus=())
        text = encode(extended(earlier, record, noise))  # before anything is written: it may refuse
        session.keep_states(case.model)
        write_text(path, text)
    except (ValueError, UnavailableError) as error:
        return Line(name=name, word="refused", why=str(error))
    return Line(name=name, word="extended", share=share)
