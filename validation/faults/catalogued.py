"""The catalogue: every fault by name, from two files for each group: its own, and that of faults written
unseen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec

from mxcheck.formats.blocks import BLOCK_FORMATS
from mxcheck.formats.choices import choose
from mxcheck.models.recipes.ladder import LADDER
from validation.faults.fault import GROUPS, Fault


def catalogue() -> Mapping[str, Fault]:
    """Return every fault of the catalogue, in the order of `GROUPS` and of their files, those of `unseen_*`
    last.

    Raises ValueError for what `assembled` refuses.
    """
    return assembled(
        {group: [fault for prefix in ("", "unseen_") for fault in _faults(prefix, group)] for group in GROUPS}
    )


def _faults(prefix: str, group: str) -> tuple[Fault, ...]:
    name = f"{__package__}.catalogue.{prefix}{group.replace(' ', '_')}"
    if prefix and find_spec(name) is None:  # a group that was added after they were written
        return ()
    file = import_module(name)
    faults: tuple[Fault, ...] = file.FAULTS
    return faults


def assembled(by_group: Mapping[str, Iterable[Fault]]) -> dict[str, Fault]:
    """Return faults by name. `by_group` has those of each group's file.

    Raises ValueError, in one line, for a duplicate name, a group other than its file's, and an unknown format
    or precision.
    """
    found: dict[str, Fault] = {}
    for group, faults in by_group.items():
        for fault in faults:
            if fault.group != group:
                raise ValueError(
                    f"fault {fault.name}: its group is {fault.group!r}, its file that of {group!r}; move it"
                )
            if fault.name in found:
                raise ValueError(f"fault {fault.name} is there twice; rename one")
            for name in fault.formats:
                choose(f"format of fault {fault.name}", name, BLOCK_FORMATS)
            for name in fault.precisions:
                choose(f"precision of fault {fault.name}", name, LADDER)
            found[fault.name] = fault
    return found


def chosen_faults(
    every: Mapping[str, Fault], *, names: Iterable[str] = (), groups: Iterable[str] = ()
) -> tuple[Fault, ...]:
    """Return the named faults and those of the named groups, in the catalogue's order; all where nothing is
    named.

    Raises ValueError for an unknown name or group.
    """
    wanted = {choose("fault", name, every) for name in names}
    of_groups = {choose("group", group, GROUPS) for group in groups}
    if not wanted and not of_groups:
        return tuple(every.values())
    return tuple(fault for fault in every.values() if fault.name in wanted or fault.group in of_groups)
