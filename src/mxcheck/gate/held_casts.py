"""Step 4: whether the casts gave the accepted bits, and the same ones all through the case."""

from __future__ import annotations

from collections.abc import Iterator

from mxcheck.gate.check import Check, check, some
from mxcheck.gate.record import Record
from mxcheck.gate.row_groups import changed_rows

#: What the digests of a module are of, what that means, and what their rows are called.
_KINDS = (
    ("codes", "codes of the quantized weights", "rows"),
    ("scales", "scales of the quantized weights", "rows"),
    ("operands", "operands of the products (fixed activation probe)", "operands"),
)
#: The check of a named kernel on operands whose casts changed (`measure.changed_casts`).
KERNEL_OPERANDS = "kernel operands"
#: The checks that hold digests against accepted ones.
DIGESTED = frozenset(f"cast {kind}" for kind, _, _ in _KINDS)


def casts_steady(record: Record) -> Iterator[Check]:
    """That every cast of ours stayed the same, first and last and for every kind of input. It needs no
    baseline."""
    if record.kind != "recipe":
        return
    wrong = [f"{name} ({what})" for name, what in record.unsteady.items()]
    yield check(
        4,
        "steady casts",
        not wrong,
        f"casts do not stay the same all through the case in {len(wrong)} modules: {some(wrong)}"
        if wrong
        else "every cast stayed the same all through the case, for every kind of input",
    )


def kernel_held(record: Record) -> Iterator[Check]:
    """That the kernel gave the oracle's bits for what the case casts with, where it was asked. It needs no
    baseline."""
    if (asked := record.asked_kernel) is None:
        return
    held = f"the kernel {asked.name} was held against the oracle: {', '.join(asked.cells)}"
    yield check(4, "kernel", not asked.wrong, asked.wrong or held)


def casts_held(record: Record, baseline: Record) -> Iterator[Check]:
    """A check for each of what is digested."""
    names = sorted(
        name
        for name in record.digests.keys() | baseline.digests.keys()
        # a module that was lost or added is the matter of step 3
        if (name in record.replaced) == (name in baseline.replaced)
    )
    if record.kind == "recipe" and not record.digests and not baseline.digests:
        yield check(4, "cast codes", False, "no cast was digested, now or when accepted")
        return
    for kind, meaning, rows in _KINDS:
        changed = {name: where for name in names if (where := _changed(record, baseline, name, kind, rows))}
        yield check(
            4,
            f"cast {kind}",
            not changed,
            f"{meaning} changed bits in {len(changed)} of {len(names)} modules: "
            f"{some([f'{name} ({where})' for name, where in changed.items()])}"
            if changed
            else f"{meaning}: {len(names)} modules as accepted",
        )


def _changed(record: Record, baseline: Record, name: str, kind: str, rows: str) -> str:
    """Which rows of a module's digests changed; empty where none did."""
    now, then = (one.digests.get(name, {}).get(kind) for one in (record, baseline))
    if now is None or then is None:
        return "" if now is then else "now only" if then is None else "then only"
    return changed_rows(now, then, rows)
