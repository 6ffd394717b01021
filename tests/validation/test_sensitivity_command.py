"""`python -m validation sensitivity`: what it lists, and what it refuses before it runs anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from validation.commands.main import main
from validation.faults.catalogued import catalogue


def test_lists_the_catalogue(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sensitivity", "--list", "--group", "scale", "--fault", "kl_reversed"]) == 0
    told = capsys.readouterr().out
    listed = [name for name in catalogue() if f" {name} " in told]
    assert listed == [
        name for name, fault in catalogue().items() if fault.group == "scale" or name == "kl_reversed"
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--fault", "scale_two_up"], "unknown fault 'scale_two_up'; allowed: "),
        (["--group", "scales"], "unknown group 'scales'; allowed: "),
        (["--jobs", "0"], "--jobs must be at least 1, got 0"),
        (["--summary", "docs/faults.txt"], "--summary names the Markdown file, NAME.md, got docs/faults.txt"),
        (["--baselines", "nowhere"], "there is no directory of baselines nowhere"),
    ],
    ids=["fault", "group", "jobs", "summary", "baselines"],
)
def test_refuses_in_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["sensitivity", "--state", str(tmp_path / "state"), *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"mxcheck: {message}")
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "state").exists()
