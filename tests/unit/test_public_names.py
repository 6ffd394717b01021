"""What `import mxcheck` promises: every name is there, lazily, and editors are told of the same ones."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import mxcheck


@pytest.mark.parametrize("name", mxcheck.__all__)
def test_every_name_is_what_its_home_has(name: str) -> None:
    home = importlib.import_module(mxcheck._HOME[name])
    assert getattr(mxcheck, name) is getattr(home, name)
    assert name in dir(mxcheck)


def test_editors_are_told_of_the_same_names() -> None:
    tree = ast.parse(Path(mxcheck.__file__).read_text())
    told = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    }
    assert told == mxcheck._HOME


def test_another_name_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(AttributeError, match=r"has no attribute 'measured'; it has Case, CastSpec, "):
        mxcheck.measured  # noqa: B018


@pytest.mark.parametrize("name", ["Case", "Measuring", "ModelSession", "measure_case"])
def test_what_a_record_from_python_needs_is_there(name: str) -> None:
    assert name in mxcheck.__all__
