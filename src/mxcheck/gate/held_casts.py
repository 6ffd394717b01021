"""Step 4: check that the casts give the accepted bits, and the same ones throughout the case."""

from __future__ import annotations

from collections.abc import Iterator

from mxcheck.gate.case import KINDS
from mxcheck.gate.check import Check, check, some
from mxcheck.gate.record import Record
from mxcheck.gate.row_groups import changed_rows

#: Kind of each digest of a module, what a difference means, and the name of its rows.
_KINDS = (
    ("codes", "codes of the quantized weights", "rows"),
    ("scales", "scales of the quantized weights", "rows"),
    ("operands", "operands of the products (fixed activation probe)", "operands"),
)
#: Key of the check of a named kernel on operands whose casts changed (`measure.changed_casts`).
KERNEL_OPERANDS = "kernel operands"
#: Keys of the checks that compare digests with accepted ones.
DIGESTED = frozenset(f"cast {kind}" for kind, _, _ in _KINDS)


def casts_steady(record: Record) -> Iterator[Check]:
    """Check that every mxcheck cast stayed the same, from first to last and for every kind of input. Needs no
    baseline."""
    if not KINDS[record.kind].casts:
        return
    wrong = [f"{name} ({what})" for name, what in record.unsteady.items()]
    yield check(
        "steady casts",
        not wrong,
        f"casts changed within the case in {len(wrong)} modules: {some(wrong)}"
        if wrong
        else "no cast changed within the case, for any kind of input",
    )


def kernel_held(record: Record) -> Iterator[Check]:
    """Check that a named kernel gave the oracle's bits for the case's casts. Needs no baseline."""
    if (asked := record.asked_kernel) is None:
        return
    held = f"the kernel {asked.name} was compared with the oracle: {', '.join(asked.cells)}"
    yield check("kernel", not asked.wrong, asked.wrong or held)


def casts_held(record: Record, baseline: Record) -> Iterator[Check]:
    """Yield one check for each kind of digest."""
    names = sorted(
        name
        for name in record.digests.keys() | baseline.digests.keys()
        # step 3 covers a module that was lost or added
        if (name in record.replaced) == (name in baseline.replaced)
    )
    if KINDS[record.kind].casts and not record.digests and not baseline.digests:
        yield check("cast codes", False, "no cast was digested, now or when accepted")
        return
    for kind, meaning, rows in _KINDS:
        changed = {name: where for name in names if (where := _changed(record, baseline, name, kind, rows))}
        yield check(
            f"cast {kind}",
            not changed,
            f"{meaning} changed bits in {len(changed)} of {len(names)} modules: "
            f"{some([f'{name} ({where})' for name, where in changed.items()])}"
            if changed
            else f"{meaning}: {len(names)} modules as accepted",
        )


def _changed(record: Record, baseline: Record, name: str, kind: str, rows: str) -> str:
    """Describe the changed rows of a module's digests; empty where none changed."""
    now, then = (one.digests.get(name, {}).get(kind) for one in (record, baseline))
    if now is None or then is None:
        return "" if now is then else "now only" if then is None else "then only"
    return changed_rows(now, then, rows)
