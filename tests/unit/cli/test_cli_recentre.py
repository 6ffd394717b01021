"""`mxcheck baselines recentre`: whose baselines it takes."""

from __future__ import annotations

from pathlib import Path

import pytest
from baselines_project import Capture

from mxcheck.cli import main


def test_a_project_without_baselines_of_ours_is_not_given_any(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "theirs"
    (project / "baselines" / "my-model").mkdir(parents=True)
    monkeypatch.chdir(project)
    assert main(["baselines", "recentre"]) == 2
    assert "name your models with --mx-models" in capsys.readouterr().err
    assert [path.name for path in Path("baselines").iterdir()] == ["my-model"]


def test_recentre_takes_the_models_that_lie_there_and_says_which_it_leaves(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ref-neo", "my-model"):
        (tmp_path / "theirs" / "baselines" / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "theirs")
    monkeypatch.delenv("CI", raising=False)  # there, nothing is accepted
    ended = main(["baselines", "recentre", "--collect-only", "-q"])
    assert ended == 0
    assert "not re-centred: my-model; name user models" in capsys.readouterr().err
    assert {path.name for path in Path("baselines").iterdir()} == {"ref-neo", "my-model"}
