"""Everything that may leave out cases is seen, by itself and as one text on every machine."""

from __future__ import annotations

import pytest

from mxcheck.pytest_plugin.options.selection import collected, narrowing


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["tests"], ""),
        (["tests", "-k", "fp8", "-m", "not slow"], "-k fp8 -m not slow"),
        (["--deselect", "a::b", "--deselect", "c"], "--deselect a::b --deselect c"),
        (["--ignore", "tests", "--ignore-glob", "*.py"], "--ignore tests --ignore-glob *.py"),
        (["--lf"], "--lf"),
        (["--sw"], "--sw"),
        (["tests/test_a.py::test_a[x::y]"], "tests/test_a.py::test_a[x::y]"),
        (["-p", "no:cacheprovider"], ""),
    ],
    ids=range(8),
)
def test_narrowing(pytester: pytest.Pytester, words: list[str], text: str) -> None:
    pytester.mkdir("tests").joinpath("test_a.py").write_text("")
    assert narrowing(pytester.parseconfig(*words)) == text


def test_paths_are_those_from_the_root(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makeini("[pytest]\n")
    below = pytester.mkdir("tests")
    (below / "test_a.py").write_text("")
    whole = collected(pytester.parseconfig("tests/test_a.py::test_a", str(below)))
    assert whole == "tests/test_a.py::test_a tests"
    monkeypatch.chdir(below)
    assert collected(pytester.parseconfig("test_a.py::test_a", ".")) == whole
    assert collected(pytester.parseconfig("--pyargs", "mxcheck.suite.models")) == "mxcheck.suite.models"
