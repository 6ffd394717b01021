"""What the controller makes of node ids, options and earlier durations."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mxcheck.pytest_plugin.options.read_settings import read_settings
from mxcheck.pytest_plugin.xdist.placement_plan import (
    case_of,
    check_host,
    expected_of,
    parameter_of,
    placement_of,
    seconds_of,
)
from mxcheck.run.settings import Settings

Configure = Callable[..., pytest.Config]
WORDS = (
    "--mx-models",
    "ref-llama,ref-moe",
    "--mx-precision",
    "fp32,mxfp8_e4m3,bnb_int8",
    "--mx-device",
    "cpu",
)


class Cache:
    """pytest's cache, as far as it is used, with what an earlier run left."""

    def __init__(self, **stored: dict[str, float]) -> None:
        self._stored = stored

    def get(self, key: str, default: Any) -> Any:
        return self._stored.get(key.removeprefix("mxcheck/"), default)


def node_ids(settings: Settings) -> list[str]:
    return [f"tests/models/test_accuracy.py::test_accuracy[{case.id}]" for case in settings.cases]


def test_which_tests_are_cases(configure: Configure) -> None:
    settings = read_settings(configure(*WORDS))
    cases = {case.id: case for case in settings.cases}
    assert [case_of(node_id, cases) for node_id in node_ids(settings)] == list(settings.cases)
    for other in (
        "tests/models/test_orderings.py::test_ordering[ref-llama-a-below-b]",
        "test_theirs.py::test_accuracy",
        "test_theirs.py::test_accuracy[resnet]",
        "test_theirs.py::TestAccuracy::test_it[ref-llama-fp32]",
    ):
        assert case_of(other, cases) is None
    assert parameter_of("a.py::test_accuracy[a[0]]") == "a[0]"


def test_estimates_until_a_run_was_before(configure: Configure) -> None:
    config = configure(*WORDS)
    settings = read_settings(config)
    seconds = {case.id: one for case, one in seconds_of(config, settings, settings.cases).items()}
    assert seconds["ref-llama-bnb_int8-B"] > seconds["ref-llama-mxfp8_e4m3-B"], "one sequence a pass"
    assert seconds["ref-moe-mxfp8_e4m3-B"] > seconds["ref-llama-mxfp8_e4m3-B"], "the larger model"


def test_earlier_durations_go_before_estimates(configure: Configure) -> None:
    config = configure(*WORDS)
    settings = read_settings(config)
    nominal = seconds_of(config, settings, settings.cases)
    first = settings.cases[0]
    config.cache = Cache(durations={f"{first.id} on cpu": 3 * nominal[first], "gone-fp32 on cpu": 9.0})  # type: ignore[assignment]
    found = seconds_of(config, settings, settings.cases)
    # The others are on its scale.
    assert found == {case: pytest.approx(3 * one) for case, one in nominal.items()}
    config.cache = Cache(durations={f"{first.id} on cuda": 99.0})  # type: ignore[assignment]
    assert seconds_of(config, settings, settings.cases) == nominal


def report(path: Path, seconds: Mapping[str, tuple[float, float]]) -> Path:
    """An accuracy.json with the duration of these cases, and what of it loaded the model."""
    rows = [
        {"id": name, "case": {"model": name.rpartition("-fp32")[0]}, "record": {}, "seconds": whole,
         "load_seconds": loading}
        for name, (whole, loading) in seconds.items()
    ]  # fmt: skip
    path.write_text(json.dumps(rows))
    return path


def test_the_report_of_an_earlier_run_goes_before_estimates_and_this_machine_before_it(
    configure: Configure, tmp_path: Path
) -> None:
    plain = configure(*WORDS)
    nominal = seconds_of(plain, read_settings(plain), read_settings(plain).cases)
    first = read_settings(plain).cases[0]
    file = report(
        tmp_path / "accuracy.json", {first.id: (5 * nominal[first] + 2, 2.0), "gone-fp32": (9.0, 0.0)}
    )
    config = configure(*WORDS, f"--mx-durations={file}")
    settings = read_settings(config)

    found = seconds_of(config, settings, settings.cases)
    assert found == {case: pytest.approx(5 * one) for case, one in nominal.items()}
    assert expected_of(config, settings, settings.cases).shared["ref-llama"] == 2.0
    config.cache = Cache(
        durations={f"{first.id} on cpu": 3 * nominal[first]}, loads={"ref-llama on cpu": 1.5}
    )  # type: ignore[assignment]
    found = seconds_of(config, settings, settings.cases)
    assert found == {case: pytest.approx(3 * one) for case, one in nominal.items()}
    assert expected_of(config, settings, settings.cases).shared["ref-llama"] == 1.5


def test_shards_go_by_the_report_of_an_earlier_run(configure: Configure, tmp_path: Path) -> None:
    words = ("--mx-models", "ref-llama,ref-neo,ref-moe", "--mx-precision", "fp32", "--mx-report", "r")

    def parts(*more: str) -> list[set[str]]:
        return [set(read_settings(configure(*words, *more, "--mx-shard", f"{i}/2")).models) for i in (1, 2)]

    assert parts() != [{"ref-neo"}, {"ref-llama", "ref-moe"}]
    file = report(
        tmp_path / "accuracy.json",
        {"ref-llama-fp32": (20.0, 10.0), "ref-neo-fp32": (900.0, 2.0), "ref-moe-fp32": (30.0, 3.0)},
    )
    assert parts(f"--mx-durations={file}") == [{"ref-neo"}, {"ref-llama", "ref-moe"}]


def test_the_plan(configure: Configure) -> None:
    config = configure(*WORDS)
    settings = read_settings(config)
    others = ["tests/kernels/test_casts.py::test_cast[x]"] * 3
    placement = placement_of(config, [*others, *node_ids(settings)])
    assert placement is not None
    placement.join("w0")
    ((_, sent, _),) = placement.orders()
    cases = {case.id: case for case in settings.cases}
    found = [case_of([*others, *node_ids(settings)][index], cases) for index in sent]
    assert [case.model for case in found if case] == ["ref-moe", "ref-moe"], "the costlier model first"
    assert placement_of(config, others) is None


def test_other_peoples_tests_do_not_look_at_our_options(configure: Configure) -> None:
    config = configure("--mx-tier", "E")  # which reading them would refuse
    assert placement_of(config, ["test_theirs.py::test_theirs[1]"]) is None
    check_host(config, ["test_theirs.py::test_theirs[1]"], 4)
    with pytest.raises(pytest.UsageError, match="unknown --mx-tier 'E'"):
        placement_of(config, ["test_theirs.py::test_accuracy[resnet]"])
