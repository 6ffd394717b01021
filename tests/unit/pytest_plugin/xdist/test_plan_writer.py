"""What a run would do, told to an engine: the same models and parts that the shards of that run have."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from mxcheck.distributed.collect_plan import plan_run
from mxcheck.pytest_plugin.xdist.plan_writer import make_plan
from mxcheck.run.settings import Settings

Lay = Callable[..., Settings]
MODELS = "ref-llama,ref-neo,ref-moe,llama-3.1-8b"


def test_each_part_is_the_shard_of_that_number(lay: Lay) -> None:
    plan = make_plan(lay("--mx-models", MODELS), [], updates=False)
    assert sorted(model.label for model in plan.models) == sorted(MODELS.split(","))
    assert plan.models[0].label == "llama-3.1-8b"  # the costliest
    for model in plan.models:
        shard = lay("--mx-models", MODELS, "--mx-shard", f"{model.shard}/4", "--mx-report", "out")
        assert list(shard.models) == [model.label]


def test_a_model_of_which_nothing_is_known_is_planned_too(lay: Lay) -> None:
    (model,) = make_plan(lay("--mx-models", "somebody/something"), [], updates=False).models
    assert model.footprint.case_seconds == 600.0


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmx_models = ref-neo\nmx_report = out\naddopts = -n 3\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_pytest_itself_reads_the_run(there: Path) -> None:
    words, plan = plan_run(["--mx-precision", "fp32,bf16", "-k", "bf16", "--mx-device", "cpu"])
    assert words[:2] == ["--pyargs", "mxcheck.suite.models"]
    assert (plan.device, plan.report, plan.shard, plan.updates) == ("cpu", str(there / "out"), "", False)
    (model,) = plan.models
    assert (model.label, model.shard, model.cases) == ("ref-neo", 1, ("ref-neo-bf16",))


def test_what_is_named_is_what_is_collected(there: Path) -> None:
    (there / "test_mine.py").write_text("from mxcheck.suite.models.test_accuracy import test_accuracy\n")
    words, plan = plan_run(["test_mine.py", "--mx-precision", "fp32"])
    assert words[0] == "test_mine.py"
    assert plan.models[0].cases == ("ref-neo-fp32",)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--mx-precision", "fp9"], "unknown --mx-precision 'fp9'; allowed: "),
        (["-k", "nothing"], "pytest selects no case of the model suite; see: pytest --pyargs mxcheck.suite"),
        (["--no-such-option"], "pytest cannot collect the run:\n"),
        (["absent.py"], "pytest cannot collect the run:\n"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_pytests_own_words_where_it_cannot(there: Path, words: list[str], says: str) -> None:
    del there
    with pytest.raises(ValueError, match=f"^{re.escape(says)}"):
        plan_run(words)


def test_updates_and_shards_are_seen_where_an_ini_file_asks_for_them(there: Path) -> None:
    words = "--snapshot-update --mx-shard=1/1"
    with mock.patch.dict(os.environ, {"CI": ""}):
        (there / "pytest.ini").write_text(
            f"[pytest]\naddopts = {words}\nmx_report = out\nmx_models = ref-neo\n"
        )
        plan = plan_run(["--mx-precision", "fp32"])[1]
    assert (plan.updates, plan.shard) == (True, "1/1")
