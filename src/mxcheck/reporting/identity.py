"""The identified rule of a kernel's cast: a line, and a table of the tested rules, nearest first."""

from __future__ import annotations

from rich.table import Table

from mxcheck.conformance.identify import Identity, Match
from mxcheck.formats.field_rules import FIELD_DIALECTS, FIELD_POLICIES, FIELD_ROUNDINGS
from mxcheck.reporting.tables import titled_table

#: Maximum number of rows: more distant rules carry no information.
_MOST_SHOWN = 6


def conclusion(found: Identity) -> str:
    """Return the conclusion: looks like scale rule `floor` with ties toward zero."""
    best = found.best
    if not found.fits:
        differ = f"{best.blocks:,} of {found.blocks:,} blocks differ"
        return f"looks like no known rule; nearest is {found.words}: {differ}"
    if best.exact:
        return f"looks like {found.words}"
    beyond = [
        (best.blocks, found.blocks, "blocks"),
        (best.at_the_ends, found.at_the_ends, "blocks at the ends of the range"),
        (best.not_finite, found.not_finite, "blocks with NaN or Inf"),
    ]
    told = [f"{count:,} of {of:,} {what}" for count, of, what in beyond if count]
    told += [f"the signs of {best.zero_signs:,} zeros"] if best.zero_signs else []
    return f"looks like {found.words}; differs in {', '.join(told)}"


def asked_for(found: Identity) -> str:
    """Return the requested cast and its form."""
    return f"asked for {found.cell.id}, {found.dtype}, blocks of {found.block_size}"


def identity_table(found: Identity) -> Table:
    """Return a table with one row for each rule and rounding: the share of the answers that differs from
    it."""
    table = titled_table(
        asked_for(found),
        f"within: of {found.blocks:,} blocks within the range; codes: (or values) under equal scales\n"
        f"ends: of {found.at_the_ends:,} blocks with scale 00 or FE, or a subnormal or zero amax\n"
        f"NaN, Inf: of {found.not_finite:,} blocks with either, by the nearest policy: "
        + "; ".join(f"{name}: {says}" for name, says in FIELD_POLICIES.items()),
        title_style="bold",
        padding=2,
    )
    for name in ("rule", "rounding", "policy", "dialect"):
        table.add_column(name, no_wrap=True)
    for name in ("scales", "codes", "within", "ends", "NaN, Inf", "zeros' signs"):
        table.add_column(name, justify="right", no_wrap=True)
    for match in found.matches[:_MOST_SHOWN]:
        table.add_row(*_row(match))
    return table


def _row(match: Match) -> list[str]:
    dialect = FIELD_DIALECTS.get((match.rule, match.rounding, match.policy or ""), "-")
    return [
        match.rule,
        FIELD_ROUNDINGS[match.rounding],
        match.policy or "refused",
        dialect,
        "-" if match.scales is None else f"{match.scales:,}",
        f"{match.codes:,}",
        f"{match.blocks:,}",
        f"{match.at_the_ends:,}",
        f"{match.not_finite:,}" if match.policy else "-",
        f"{match.zero_signs:,}",
    ]
