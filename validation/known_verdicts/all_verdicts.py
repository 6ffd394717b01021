"""Test all known verdicts at once."""

from __future__ import annotations

from collections.abc import Iterator

from validation.known_verdicts.known_orderings import missed_orderings
from validation.known_verdicts.merges import missed_merges
from validation.known_verdicts.misjudged import missed
from validation.known_verdicts.reports import missed_reports


def all_missed() -> Iterator[str]:
    """Yield each wrong verdict, report, ordering or merge of mxcheck, in one line."""
    yield from (f"record {name}: {what}" for name, what in missed())
    yield from (f"report: a case that {what}" for what in missed_reports())
    yield from (f"ordering: {what}" for what in missed_orderings())
    yield from (f"merge {name}: {what}" for name, what in missed_merges())
