"""`mxcheck identify`: its first line, its table, its exit code, and what bad input gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from mxcheck.cli import main

Capture = pytest.CaptureFixture[str]


def printed(capsys: Capture, *words: str, code: int) -> list[str]:
    assert main(["identify", *words]) == code
    output = capsys.readouterr()
    assert not output.err
    return [line.rstrip() for line in output.out.splitlines() if line.strip()]


def refused(capsys: Capture, *words: str) -> str:
    assert main(["identify", *words]) == 2
    output = capsys.readouterr()
    assert not output.out
    return output.err


def test_one_rule_whatever_it_is_asked_for(capsys: Capture) -> None:
    """One line and one table, by the field's name of a format."""
    lines = printed(capsys, "unnamed_casts:ties_toward_zero", "--format", "mxfp8", code=0)
    assert lines[0] == "looks like scale rule `floor` with ties toward zero"
    assert lines[1] == "asked for mxfp8_e4m3-floor, float32, blocks of 32"
    assert lines[2].split() == [
        *(
            "rule",
            "rounding",
            "policy",
            "dialect",
            "scales",
            "codes",
            "within",
            "ends",
            "NaN,",
            "Inf",
            "zeros'",
        ),
        "signs",
    ]
    assert lines[4].split() == ["floor", "ties", "toward", "zero", "block", "-", *["0"] * 6]
    assert sum(line.startswith("asked for") for line in lines) == 1


def test_a_cast_that_does_as_it_is_asked(capsys: Capture) -> None:
    """A line and a table for each rule and rounding, with the dialect where there is one."""
    lines = printed(capsys, "eager", "--format", "mxint8", "--rounding", "even", code=0)
    assert lines[:3] == [
        f"asked for mxint8-{rule}, float32, blocks of 32: looks like scale rule `{rule}` with ties to even"
        for rule in ("floor", "ceil", "rceil")
    ]
    rows = [line.split() for line in lines]
    assert ["rceil", "ties", "to", "even", "block", "rceil", *["0"] * 6] in rows
    lines = printed(capsys, "eager", "--format", "mxint8", "--scale-rule", "ceil", code=0)
    assert lines[0] == "looks like scale rule `ceil` with ties to even"


def test_dtypes_that_disagree_are_told(capsys: Capture) -> None:
    words = ("unnamed_casts:another_rule_in_bf16", "--scale-rule", "floor", "--rounding", "even")
    lines = printed(capsys, *words, code=0)
    assert lines[:2] == [
        "asked for mxfp8_e4m3-floor, float32, blocks of 32: looks like scale rule `floor` with ties to even",
        "asked for mxfp8_e4m3-floor, bfloat16, blocks of 32: looks like scale rule `ceil` with ties to even",
    ]
    lines = printed(capsys, *words, "--dtype", "bfloat16", code=0)
    assert lines[0] == "looks like scale rule `ceil` with ties to even"
    assert "unknown --dtype 'int8'; allowed: float32" in refused(capsys, *words, "--dtype", "int8")


def test_what_is_only_near_is_1(capsys: Capture) -> None:
    lines = printed(capsys, "unnamed_casts:without_negative_zero", code=1)
    assert lines[0].startswith("looks like scale rule `rceil` with ties to even; differs in the signs of ")
    lines = printed(capsys, "unnamed_casts:of_no_rule", code=1)
    assert lines[0].startswith("looks like no known rule; nearest is scale rule `")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["no_such_cast"], "unknown kernel 'no_such_cast'; allowed: auto, eager"),
        (["no_such_module:f"], "there is no module 'no_such_module' on sys.path"),
        (["eager", "--format", "nvfp4"], "unknown --format 'nvfp4'; allowed: fp8_e4m3"),
        (
            ["eager", "--format", "mxfp6"],
            "--format 'mxfp6' may be mxfp6_e3m2 or mxfp6_e2m3; name one of them",
        ),
        (["eager", "--scale-rule", "amax"], "unknown --scale-rule 'amax'; allowed: floor, ceil, even, rceil"),
        (["eager", "--rounding", "stochastic"], "unknown --rounding 'stochastic'; allowed: even, away, zero"),
        (["eager", "--format", "mxint8", "--scale-rule", "even"], "no cell of mxint8 has scale rule even"),
        (
            ["gfloat", "--scale-rule", "ceil"],
            ": outside of its domain: no scale rule ceil; it knows formats with E8M0 scales",
        ),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_bad_input_is_one_line_and_2(capsys: Capture, words: list[str], line: str) -> None:
    told = refused(capsys, *words)
    assert line in told
    assert len(told.splitlines()) == 1


def test_a_module_that_raises(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own traceback, then a line."""
    (tmp_path / "broken_cast.py").write_text("raise OSError('libcudart.so: no such file')\n")
    monkeypatch.chdir(tmp_path)
    told = refused(capsys, "broken_cast:f")
    assert "OSError: libcudart.so: no such file" in told
    assert told.splitlines()[-1] == (
        "mxcheck: kernel broken_cast:f: cannot be loaded: its module raised OSError"
    )
