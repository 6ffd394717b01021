"""The table at the end of a run. Reads only records and verdicts."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from rich.table import Table
from rich.text import TextType

from mxcheck.gate.case import Case
from mxcheck.gate.check import some
from mxcheck.gate.counters import OperandCounts
from mxcheck.gate.kernel_cells import VERDICTS as KERNEL_VERDICTS
from mxcheck.gate.kernel_cells import KernelCell
from mxcheck.gate.record import Record
from mxcheck.gate.result import CaseResult, Outcome
from mxcheck.gate.statistics import exponential
from mxcheck.gate.verdict import rise
from mxcheck.models.recipes.ladder import LADDER
from mxcheck.models.recipes.recipe import Operand
from mxcheck.reporting.numbers import figure
from mxcheck.reporting.screen import Screen
from mxcheck.reporting.tables import titled_table


def percent_change(record: Record) -> tuple[float, float]:
    """Return the change of the perplexity against the reference in percent, and its standard error: the
    paired one (clustered by sequence) propagated through the exponential."""
    mean, error, _ = rise(record)
    return 100 * (exponential(mean) - 1), 100 * exponential(mean) * error


_CAPTION = (
    "cross-entropy, entropy, KL in nats/token; change: perplexity against the reference; sat.: elements of "
    "cast operands that saturated; weights: bytes of all weights, packed, beside those as loaded; bounds: "
    "KL in % of its bound; drift: rms change of sequence losses since accepted"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of figures.

    Attributes:
        name: its header.
        of: the cell of a case; empty where it has no such figure.
        reference: the cell of a model's reference, from the record of one of its cases.
        wide: whether the column is in the wide table only, before the verdict.
    """

    name: str
    of: Callable[[CaseResult], str]
    reference: Callable[[Record], str] = lambda _: ""
    wide: bool = False


def _measured(of: Callable[[Record], str]) -> Callable[[CaseResult], str]:
    return lambda row: "" if row.record is None else of(row.record)


def _change(record: Record) -> str:
    change, error = percent_change(record)
    if record.bit_equal:
        return "0"
    return f"{change:+.3f}" if math.isinf(error) else f"{change:+.3f} ± {error:.3f}"


def _of_bound(row: CaseResult) -> str:
    if row.record is None or row.bounds is None:
        return ""
    kl, bound = row.record.kl, row.bounds.kl
    return "-" if kl is None or bound == 0 else f"{100 * kl / bound:.0f}%"


def _drift(row: CaseResult) -> str:
    if row.record is None or row.drift is None:
        return ""
    return "0" if row.drift.rms == 0 else f"{row.drift.rms:.0e}"


def _entropy_change(record: Record) -> str:
    return figure(None if record.entropy is None else record.entropy - record.reference_entropy, "+.5f")


#: In the order of the table; the user's metrics precede the wide ones.
COLUMNS = (
    Column(
        name="perplexity",
        of=_measured(lambda record: f"{record.perplexity:.3f}"),
        reference=lambda record: f"{exponential(record.reference_cross_entropy):.3f}",
    ),
    Column(
        name="cross-ent",
        of=_measured(lambda record: f"{record.cross_entropy:.5f}"),
        reference=lambda record: f"{record.reference_cross_entropy:.5f}",
    ),
    Column(
        name="entropy",
        of=_measured(lambda record: figure(record.entropy, ".5f")),
        reference=lambda record: f"{record.reference_entropy:.5f}",
    ),
    Column(name="change % ± SE", of=_measured(_change)),
    Column(name="KL", of=_measured(lambda record: figure(record.kl, ".6f"))),
    Column(name="top-1 %", of=_measured(lambda record: figure(record.top1_agreement, ".2f", times=100))),
    Column(name="sat. %", of=_measured(lambda record: _saturated(record))),
    Column(
        name="weights",
        of=_measured(lambda record: f"{100 * record.weight_bytes / record.original_bytes:.0f}%"),
    ),
    Column(name="bounds", of=_of_bound),
    Column(name="drift", of=_drift),
    Column(name="modules", of=_measured(lambda record: str(len(record.replaced))), wide=True),
    Column(
        name="Δ cross-ent",
        of=_measured(lambda record: f"{record.cross_entropy - record.reference_cross_entropy:+.5f}"),
        wide=True,
    ),
    Column(name="Δ entropy", of=_measured(_entropy_change), wide=True),
    Column(name="seconds", of=lambda row: "" if row.seconds is None else f"{row.seconds:.1f}", wide=True),
)


def _of_metric(name: str) -> Column:
    return Column(
        name=name,
        of=_measured(lambda record: f"{fmean(record.metrics[name]):.6g}" if name in record.metrics else ""),
    )


def results_table(rows: Sequence[CaseResult], *, wide: bool = False) -> Table:
    """Return a table with one row for each case. Before each model's rows comes a row of the reference,
    unless the case fp32 is among them. `wide` adds the wide columns."""
    metrics = list(dict.fromkeys(name for row in rows if row.record for name in row.record.metrics))
    columns = [column for column in COLUMNS if not column.wide]
    columns += map(_of_metric, metrics)
    columns += [column for column in COLUMNS if column.wide and wide]
    table = titled_table("mxcheck: accuracy", _CAPTION)
    for name in ("model", "precision", "tier"):
        table.add_column(name, no_wrap=True)
    for column in columns:
        table.add_column(column.name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for number, model in enumerate(dict.fromkeys(row.case.model for row in rows)):
        if number:
            table.add_section()
        its = [row for row in rows if row.case.model == model]
        measured = [row.record for row in its if row.record is not None]
        if measured and not any(row.case.precision == "fp32" for row in its):
            figures = [column.reference(measured[0]) for column in columns]
            table.add_row(model, "reference", "", *figures, style="dim")
        for row in its:
            cells = [column.of(row) for column in columns]
            table.add_row(*_name(row.case), *cells, row.word, style="bold red" if row.outcome.red else None)
    return table


def _name(case: Case) -> tuple[str, str, str]:
    what = case.precision if case.kind == "recipe" else case.plain
    tier = case.tier if case.kind == "recipe" else None
    return case.model, what, "+".join([tier or "", *case.options]).strip("+")


def _saturated(record: Record) -> str:
    """Return the saturated share of the counted elements, weights and activations together; empty where none
    were counted."""
    if record.counters is None:
        return ""
    counted = [
        one
        for found in record.counters.operands.values()
        for one in found.values()
        if isinstance(one, OperandCounts)
    ]
    elements = sum(one.elements for one in counted)
    return f"{100 * sum(one.saturated for one in counted) / elements:.2f}" if elements else ""


def skipped_lines(rows: Sequence[CaseResult]) -> list[str]:
    """Return one line for each reason of skipped cases, with its precisions and models."""
    by_reason: dict[str, list[CaseResult]] = {}
    for row in rows:
        if row.outcome is Outcome.SKIPPED:
            by_reason.setdefault(row.reason, []).append(row)
    return [
        f"skipped: {', '.join(dict.fromkeys(row.case.precision or row.case.plain for row in found))} of "
        f"{', '.join(dict.fromkeys(row.case.model for row in found))} (cases: {len(found)}): {reason}"
        for reason, found in by_reason.items()
    ]


def unverified_lines(rows: Sequence[CaseResult]) -> list[str]:
    """Return by model the experts that no token of the text reached: the effect of their casts is
    unverified."""
    found: dict[str, list[str]] = {}
    for row in rows:
        counters = None if row.record is None else row.record.counters
        if counters is None or row.case.model in found:
            continue
        if idle := [
            f"{expert} of {module}"
            for module, reached in counters.expert_rows.items()
            for expert, number in enumerate(reached)
            if number == 0
        ]:
            found[row.case.model] = idle
    return [
        f"unverified: {model} sends no token to {len(idle)} of its experts ({some(idle)}); measure more text"
        for model, idle in found.items()
    ]


def what_next(rows: Sequence[CaseResult]) -> list[str]:
    """Return the next action for models without an accepted case, and a note if nothing was judged."""
    lines = []
    if any(row.outcome is Outcome.MEASURED for row in rows):
        lines.append("mxcheck: measured only (--mx-measure): nothing was judged")
    models = dict.fromkeys(row.case.model for row in rows if row.record is not None)
    for model in models:
        outcomes = {row.outcome for row in rows if row.case.model == model and row.record is not None}
        if outcomes == {Outcome.MISSING}:
            lines.append(
                f"mxcheck: {model} has no baselines of these cases yet. If the figures are right, run the "
                f"same command with --snapshot-update, read its bounds.toml, and commit both; to look and "
                f"not to judge: --mx-measure"
            )
    return lines


def looking_ahead_lines(rows: Sequence[CaseResult]) -> list[str]:
    """Return one line on the non-causal cases: their figures apply to complete sequences."""
    cases = [row.case for row in rows if row.record is not None and _looks_ahead(row.record)]
    if not cases:
        return []
    names = ", ".join(dict.fromkeys(case.precision or case.plain for case in cases))
    why = "a later token moves earlier logits, by a scale of the whole sequence or by blocks along the keys"
    return [f"not causal: {names} (cases: {len(cases)}): {why}; decoding token by token gives other figures"]


def _looks_ahead(record: Record) -> bool:
    """Return `Recipe.looks_ahead` for the recipe in a record."""
    precision = LADDER.get(record.precision)
    if (precision is not None and precision.spans_tokens) or record.recipe.get("attention"):
        return True
    casts = [one["activations"] for one in record.recipe.get("roles", {}).values()]
    operands = [one for one in (*casts, record.recipe.get("elementwise")) if one]
    return any(Operand(format=one["format"]).shares_a_scale_per_tensor for one in operands)


def kernel_lines(rows: Sequence[CaseResult]) -> list[str]:
    """Return one line for each named kernel, with its results for the cells that the cases cast with."""
    by_kernel: dict[str, dict[str, KernelCell]] = {}
    for asked in [row.asked_kernel for row in rows]:
        if asked is not None:
            by_kernel.setdefault(asked.name, {}).update(asked.cells)
    return [
        f"kernel {name}, compared with the oracle: {_by_verdict(cells)}" for name, cells in by_kernel.items()
    ]


def _by_verdict(cells: Mapping[str, KernelCell]) -> str:
    found = []
    for verdict in KERNEL_VERDICTS:
        named = [
            f"{name} ({one.words})" if one.words else name
            for name, one in cells.items()
            if one.verdict == verdict
        ]
        found += [f"{verdict}: {', '.join(named)}"] if named else []
    return "; ".join(found)


def lines_below(rows: Sequence[CaseResult]) -> list[str]:
    """Return the lines below the table."""
    return [*kernel_lines(rows), *skipped_lines(rows), *looking_ahead_lines(rows), *unverified_lines(rows)]


# Minimum width of a caption, however few columns a table has.
_CAPTION_WIDTH = 110


def render(table: Table, *, color: bool) -> str:
    """Return the table as text, at its full width: figures are never folded or cut."""
    needed = Screen(width=10_000).measure(table).maximum
    caption, table.caption = table.caption, None
    shown = _printed(table, width=needed, color=color)
    table.caption = caption
    if caption:
        shown += _printed(caption, width=max(needed, _CAPTION_WIDTH), color=color, style="table.caption")
    return shown


def _printed(what: Table | TextType, *, width: int, color: bool, style: str | None = None) -> str:
    console = Screen(
        file=io.StringIO(),
        width=width,
        force_terminal=color,
        no_color=not color,
        legacy_windows=False,
    )
    console.print(what, style=style)
    file = console.file
    assert isinstance(file, io.StringIO)
    return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())
