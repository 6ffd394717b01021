"""From a case to its record, without pytest: the gate's own, bit for bit, or one line that says why not."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from mxcheck.formats.spec import CastSpec
from mxcheck.gate.case import Case
from mxcheck.gate.record import record_from_dict
from mxcheck.gate.result import result_from_dict
from mxcheck.kernels.eager import quantize_eager
from mxcheck.measure import emulation, probe_inputs
from mxcheck.measure.measure_case import measure_case
from mxcheck.measure.model_session import ModelSession
from mxcheck.models.conversion.convert import UnavailableError
from mxcheck.models.recipes.recipe import recipe
from mxcheck.run.measurement_settings import Measuring

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).parents[3] / "src"
CASE = Case(model="ref-llama", precision="mxfp8_e4m3", tier="B")
SHORT = Measuring(max_samples=2, sequence_length=32)


def test_a_case_says_what_it_cost_beside_its_record() -> None:
    with ModelSession(SHORT) as session:
        record = measure_case(session, CASE)
        cost = session.cost
        assert cost is not None
        assert (cost.device, cost.tokens) == ("cpu", record.scored_tokens)
        assert [*cost.seconds] == ["convert", "digests", "forward", "metrics", "layers"]
        assert min(cost.seconds.values()) > 0
        assert cost.peak_bytes > record.original_bytes
        assert "cost" not in record.as_dict()
        with pytest.raises(UnavailableError):
            measure_case(session, Case(model="ref-llama", precision="te_mxfp8", tier="B"))
        assert session.cost is None, "of a case that was not measured"


#: A record from Python.
TEN_LINES = """
import json, mxcheck

with mxcheck.ModelSession() as session:
    case = mxcheck.Case(model="ref-llama", precision="mxfp8_e4m3", tier="B")
    record = mxcheck.measure_case(session, case)
print(json.dumps(record.as_dict()))
"""
#: What of pytest is loaded, as the last line.
LOADED = """
import sys
print([name for name in ("pytest", "_pytest", "mxcheck.pytest_plugin") if name in sys.modules])
"""


def ran(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The interpreter in a folder, with this source."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "OMP_"))}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={
            **kept,
            "PYTHONPATH": str(SOURCE),
            "CUDA_VISIBLE_DEVICES": "",
            "MXCHECK_LEASES": str(folder / "leases"),
        },
        capture_output=True,
        text=True,
        check=False,
    )


def narrow(x: Any, spec: CastSpec) -> Any:
    """Ours for at most 4096 rows."""
    if x.numel() // x.shape[-1] > 4096:
        raise NotImplementedError("at most 4096 rows")
    return quantize_eager(x, spec)


def test_what_a_kernel_refuses_beyond_the_case_is_in_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_inputs, "LARGE", 1 << 20)
    short = Measuring(max_samples=2, sequence_length=32, kernel=f"{__name__}:narrow")
    with ModelSession(short) as session:
        record = measure_case(session, CASE)
    assert record.unsteady == {}
    assert re.match(
        r"a tensor of [\d,]+ elements: at most 4096 rows \(activations of ",
        record.environment["refused by the kernel"],
    )
    with ModelSession(SHORT) as session:
        assert "refused by the kernel" not in measure_case(session, CASE).environment


def test_ten_lines_of_python_give_the_record_of_the_gate(tmp_path: Path) -> None:
    alone = ran(tmp_path, "-c", TEN_LINES + LOADED)
    assert alone.returncode == 0, alone.stderr
    *_, record, loaded = alone.stdout.splitlines()
    assert loaded == "[]"

    words = (
        "--mx-models",
        "ref-llama",
        "--mx-precision",
        "mxfp8_e4m3",
        "--mx-tier",
        "B",
        "--mx-report",
        "out",
    )
    options = ("-p", "no:cacheprovider", "-p", "no:xdist", "-q", "--pyargs", "mxcheck.suite.models")
    gate = ran(tmp_path, "-m", "pytest", *options, "-k", f"[{CASE.id}]", *words)
    (row,) = json.loads((tmp_path / "out" / "accuracy.json").read_text())
    result = result_from_dict(row)
    assert (result.case, result.word) == (CASE, "pass"), (
        gate.stdout
    )  # by the baselines that come with mxcheck
    assert result.record == record_from_dict(json.loads(record))


def test_pytest_would_be_seen(tmp_path: Path) -> None:
    seen = ran(tmp_path, "-c", f"import mxcheck.pytest_plugin.plugin\n{LOADED}")
    assert seen.stdout == "['pytest', '_pytest', 'mxcheck.pytest_plugin']\n", seen.stderr


def test_the_model_is_as_it_was_afterwards() -> None:
    with ModelSession(SHORT) as session:
        first = measure_case(session, CASE)
        measure_case(session, replace(CASE, precision="mxfp4_e2m1"))
        assert measure_case(session, CASE) == first
        exact = measure_case(session, Case(model="ref-llama", precision="fp32"))
    assert exact.bit_equal
    assert not first.bit_equal


def test_a_case_with_options_is_measured_by_the_recipe_that_is_given_for_it() -> None:
    case = replace(CASE, options=("block16",))
    with (
        ModelSession(SHORT) as session,
        pytest.raises(ValueError, match="has options and no recipe") as caught,
    ):
        measure_case(session, case)
    assert "\n" not in str(caught.value)
    assert case.id in str(caught.value)
    given = replace(SHORT, recipes={case: recipe("mxfp8_e4m3", tier="B", block_size=16)})
    with ModelSession(given) as session:
        record = measure_case(session, case)
        plain = measure_case(session, CASE)
    assert record.case == case
    assert record.digests != plain.digests


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (
            Case(model="ref-llama", kind="engine", subject="vllm"),
            "is a case of kind engine, which has",
        ),
        (Case(model="ref-llama", kind="training", precision="mxfp8_e4m3", tier="B"), "of kind training"),
        (Case(model="ref-llama", precision="fp9"), "unknown precision 'fp9'"),
        (Case(model="ref-llama", precision="mxfp8_e4m3"), "tier"),
        (Case(model="no-such-model", precision="bf16"), "unknown model 'no-such-model'"),
    ],
    ids=["engine", "training", "precision", "tier", "model"],
)
def test_what_cannot_be_measured_is_said_in_one_line(case: Case, words: str) -> None:
    with ModelSession(SHORT) as session, pytest.raises(ValueError) as caught:  # noqa: PT011  (the message is held)
        measure_case(session, case)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_library_that_cannot_run_here_is_asked_before_a_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "mxcheck.models.zoo.load.load", lambda *_, **__: pytest.fail("nothing was to be loaded")
    )
    case = replace(CASE, precision="te_mxfp8")
    with ModelSession(replace(SHORT, device="cpu")) as session, pytest.raises(UnavailableError):
        measure_case(session, case)


def test_a_library_s_version_is_in_the_environment_of_its_cases_alone() -> None:
    measuring = Measuring(max_samples=1, sequence_length=32)
    cases = (Case(model="ref-llama", precision="fp32"), replace(CASE, precision="bnb_int8", tier="A"))
    with ModelSession(measuring) as session:
        plain, library = (measure_case(session, case).environment for case in cases)
    assert library["bitsandbytes"] == version("bitsandbytes")
    assert "bitsandbytes" not in plain
    assert (plain["batch_size"], library["batch_size"]) == ("8", "1")


def test_a_record_that_contradicts_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    emulate = emulation.emulate

    def wrong(*arguments: Any, **options: Any) -> Any:
        found = emulate(*arguments, **options)
        return replace(found, result=replace(found.result, kl=1.0))

    monkeypatch.setattr(emulation, "emulate", wrong)
    with (
        ModelSession(SHORT) as session,
        pytest.raises(ValueError, match=r"the record contradicts itself: KL 1\.0"),
    ):
        measure_case(session, CASE)


# Memory runs out


class Host:
    """A host that has more to give, once."""

    def __init__(self) -> None:
        self.whole: list[bool] = []

    def pin(self) -> None: ...

    def take(self, label: str, *, device: str, whole: bool) -> dict[int, int]:  # noqa: ARG002
        self.whole.append(whole)
        return {0: 100}

    def can_give_more(self, label: str) -> bool:  # noqa: ARG002
        return True

    def give_back(self) -> None: ...


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """The first measurements raise; each one that was begun is noted."""
    emulate = emulation.emulate

    def failing(*errors: BaseException) -> list[int]:
        begun: list[int] = []

        def measured(*arguments: Any, **options: Any) -> Any:
            begun.append(len(begun))
            if len(begun) <= len(errors):
                raise errors[len(begun) - 1]
            return emulate(*arguments, **options)

        monkeypatch.setattr(emulation, "emulate", measured)
        return begun

    return failing


NO_MEMORY = (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"))


@pytest.mark.parametrize("error", NO_MEMORY, ids=["python", "torch"])
def test_where_memory_runs_out_it_is_tried_once_more_with_whole_devices(
    fails: Callable[..., list[int]], error: Exception
) -> None:
    host, begun = Host(), fails(error)
    with ModelSession(SHORT, host=host) as session:
        session.live = True  # or a check would measure once more
        record = measure_case(session, CASE)
    assert (host.whole, begun) == ([False, True], [0, 1])
    with ModelSession(SHORT) as session:
        assert measure_case(session, CASE) == record


def test_where_it_runs_out_twice_that_is_the_end(fails: Callable[..., list[int]]) -> None:
    host, begun = Host(), fails(*NO_MEMORY, *NO_MEMORY)
    with ModelSession(SHORT, host=host) as session:
        with pytest.raises(RuntimeError, match="can't allocate memory"):
            measure_case(session, CASE)
        assert (host.whole, begun) == ([False, True], [0, 1])
        # Its devices are whole already: the next case is tried once.
        with pytest.raises(MemoryError):
            measure_case(session, CASE)
        assert begun == [0, 1, 2]


def test_without_a_host_there_is_nothing_more_to_give(fails: Callable[..., list[int]]) -> None:
    begun = fails(MemoryError())
    with ModelSession(SHORT) as session, pytest.raises(MemoryError):
        measure_case(session, CASE)
    assert begun == [0]


def test_another_error_is_not_tried_again(fails: Callable[..., list[int]]) -> None:
    host, begun = Host(), fails(RuntimeError("shapes do not match"))
    with ModelSession(SHORT, host=host) as session, pytest.raises(RuntimeError, match="shapes do not match"):
        measure_case(session, CASE)
    assert (host.whole, begun) == ([False], [0])
