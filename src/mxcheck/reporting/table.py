"""The table at the end of a run. Reads only records and verdicts."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from rich.table import Table
from rich.text import TextType

from mxcheck.gate.check import some
from mxcheck.gate.counters import OperandCounts
from mxcheck.gate.kernel_cells import VERDICTS as KERNEL_VERDICTS
from mxcheck.gate.kernel_cells import KernelCell
from mxcheck.gate.record import Record
from mxcheck.gate.result import CaseResult, Outcome
from mxcheck.gate.statistics import exponential
from mxcheck.gate.verdict import rise
from mxcheck.models.ladder import LADDER
from mxcheck.models.recipe import Operand
from mxcheck.reporting.numbers import figure
from mxcheck.reporting.screen import Screen
from mxcheck.reporting.titled import titled_table


def percent_change(record: Record) -> tuple[float, float]:
    """Return the change of the perplexity against the reference in percent, and its standard error: the
    paired one (clustered by sequence) propagated through the exponential."""
    mean, error, _ = rise(record)
    return 100 * (exponential(mean) - 1), 100 * exponential(mean) * error


def results_table(rows: Sequence[CaseResult], *, wide: bool = False) -> Table:
    """Return a table with one row for each case. Before each model's rows comes a row of the reference,
    unless the case fp32 is among them. `wide` adds the number of replaced modules, the changes of
    cross-entropy and entropy, and seconds."""
    table = titled_table("mxcheck: accuracy", _CAPTION)
    for name in ("model", "precision", "tier"):
        table.add_column(name, no_wrap=True)
    for name in (
        "perplexity",
        "cross-ent.",
        "entropy",
        "change % ± SE",
        "KL",
        "top-1 %",
        "sat. %",
        "weights",
        "bounds",
        "drift",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    metrics = list(dict.fromkeys(name for row in rows if row.record for name in row.record.metrics))
    for name in metrics:
        table.add_column(name, justify="right", no_wrap=True)
    for name in _WIDE if wide else ():
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for number, model in enumerate(dict.fromkeys(row.case.model for row in rows)):
        if number:
            table.add_section()
        its = [row for row in rows if row.case.model == model]
        measured = [row.record for row in its if row.record is not None]
        if measured and not any(row.case.precision == "fp32" for row in its):
            table.add_row(model, *_reference(measured[0]), style="dim")
        for row in its:
            cells = _cells(row, metrics)
            extra = _wide(row) if wide else []
            table.add_row(*cells[:-1], *extra, cells[-1], style="bold red" if row.outcome.red else None)
    return table


_WIDE = ("modules", "Δ cross-ent.", "Δ entropy", "seconds")


def _reference(record: Record) -> list[str]:
    """Return the row of a model's reference: the model itself, unquantized."""
    loss, entropy = record.reference_cross_entropy, record.reference_entropy
    figures = [f"{exponential(loss):.3f}", f"{loss:.5f}", f"{entropy:.5f}"]
    return ["reference", "", *figures]


def _wide(row: CaseResult) -> list[str]:
    record = row.record
    seconds = "" if row.seconds is None else f"{row.seconds:.1f}"
    if record is None:
        return ["", "", "", seconds]
    loss = record.cross_entropy - record.reference_cross_entropy
    entropy = None if record.entropy is None else record.entropy - record.reference_entropy
    return [str(len(record.replaced)), f"{loss:+.5f}", figure(entropy, "+.5f"), seconds]


_CAPTION = (
    "cross-entropy, entropy, KL in nats/token; change: perplexity against the reference; sat.: elements of "
    "cast operands that saturated; weights: bytes of all weights, packed, beside those as loaded; bounds: "
    "KL in % of its bound; drift: rms change of sequence losses since accepted"
)


def _cells(row: CaseResult, metrics: Sequence[str]) -> list[str]:
    case = row.case
    what = case.precision if case.kind == "recipe" else case.plain
    tier = case.tier if case.kind == "recipe" else None
    name = [case.model, what, "+".join([tier or "", *case.options]).strip("+")]
    record = row.record
    if record is None:
        return [*name, *[""] * (10 + len(metrics)), row.word]
    change, error = percent_change(record)
    if record.bit_equal:
        change_text = "0"
    elif math.isinf(error):
        change_text = f"{change:+.3f}"
    else:
        change_text = f"{change:+.3f} ± {error:.3f}"
    return [
        *name,
        f"{record.perplexity:.3f}",
        f"{record.cross_entropy:.5f}",
        figure(record.entropy, ".5f"),
        change_text,
        figure(record.kl, ".6f"),
        figure(record.top1_agreement, ".2f", times=100),
        _saturated(record),
        f"{100 * record.weight_bytes / record.original_bytes:.0f}%",
        "" if row.bounds is None else _share(record.kl, row.bounds.kl),
        "" if row.drift is None else ("0" if row.drift.rms == 0 else f"{row.drift.rms:.0e}"),
        *(f"{fmean(record.metrics[metric]):.6g}" if metric in record.metrics else "" for metric in metrics),
        row.word,
    ]


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


def _share(kl: float | None, bound: float) -> str:
    return "-" if kl is None or bound == 0 else f"{100 * kl / bound:.0f}%"


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
        f"kernel {name}, held against the oracle: {_by_verdict(cells)}" for name, cells in by_kernel.items()
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
