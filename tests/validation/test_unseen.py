"""Faults that were written unseen can be counted apart."""

from __future__ import annotations

from importlib import import_module

import pytest

from validation.faults.catalogued import catalogue
from validation.faults.fault import GROUPS

#: Groups that came after the unseen faults were written have none.
LATER = ("state and size", "callers", "measuring", "record keeping")


@pytest.mark.parametrize("group", [group for group in GROUPS if group not in LATER])
def test_the_mark_is_that_of_the_file(group: str) -> None:
    package = "validation.faults.catalogue"
    name = group.replace(" ", "_")
    seen, unseen = (import_module(f"{package}.{prefix}{name}").FAULTS for prefix in ("", "unseen_"))
    assert {fault.unseen for fault in seen} == {False}
    assert {fault.unseen for fault in unseen} == {True}
    of_the_group = [fault for fault in catalogue().values() if fault.group == group]
    assert of_the_group == [*seen, *unseen]
