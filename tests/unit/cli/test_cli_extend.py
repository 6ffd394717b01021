"""`mxcheck baselines extend`: files of the format before this one, with real cases of ref-llama."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mxcheck.cli import main
from mxcheck.files.write import write_text
from mxcheck.gate.baseline import read, seal_of
from mxcheck.gate.bounds_tables import Bounds
from mxcheck.gate.case import Case
from mxcheck.gate.record import Noise, Record
from mxcheck.gate.verdict import judge
from mxcheck.measure.measure_case import measure_case
from mxcheck.measure.noise import noise_of
from mxcheck.measure.session import Session
from mxcheck.models.recipe import recipe
from mxcheck.run.measuring import Measuring

#: The last commit whose baselines are of the format before this one, accepted where torch has AVX-512.
COMMITTED = "22c7282:baselines/ref-llama/fp8_e4m3-A.json"

OPTIONS = ("samples2", "length48")
CASE = Case(model="ref-llama", precision="mxint8", tier="A", options=OPTIONS)
BF16 = Case(model="ref-llama", precision="bf16", options=OPTIONS)
MEASURING = Measuring(
    recipes={CASE: recipe("mxint8", tier="A"), BF16: recipe("bf16")},
    max_samples=2,
    sequence_length=48,
    device="cpu",
)
#: What the format before this one has not.
NEW = ("kind", "subject", "predictions", "sublayers", "counters", "absent")

Change = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[Case, Record]:
    """Both cases as they would have been accepted here, each with its noise: from this machine's own states,
    not from the repository's."""
    baselines = tmp_path_factory.mktemp("baselines")
    (baselines / "ref-llama").mkdir()  # with a folder of its own a project does not take the repository's
    with Session(replace(MEASURING, baselines=baselines)) as session:
        cases = {case.id: case for case in MEASURING.recipes}
        found = {case: measure_case(session, case) for case in cases.values()}
        return {
            case: replace(record, noise=noise_of(session, record, cases, gpus=()))
            for case, record in found.items()
        }


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project without baselines; and what is printed has a line a row, however long."""
    wide = Console(highlight=False, width=1000, force_terminal=False, color_system=None)
    monkeypatch.setattr("mxcheck.cli.extend.console", lambda: wide)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def earlier(record: Record, change: Change = lambda _: None) -> str:
    """The text of a record in the earlier format, with a figure changed before it is sealed."""
    data = json.loads(json.dumps(record.as_dict()))  # of its own: `as_dict` shares the record's tables
    for name in NEW:
        del data[name]
    del data["fingerprints"]["states"]
    if data["noise"] is not None:
        del data["noise"]["sublayers"]
    data["digests"] = {name: {"weight": "0" * 64, "operands": "1" * 64} for name in data["digests"]}
    data["sqnr"] = dict.fromkeys(data["replaced"], 30.5)
    data["format_version"] = 3
    change(data)
    return json.dumps({**data, "seal": seal_of(data)}, sort_keys=True)


def put(name: str, text: str) -> Path:
    path = Path("baselines", name)
    write_text(path, text)
    return path


def extend(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, str], str]:
    """The exit code, by file what the table says of it, and what stands below the table."""
    code = main(["baselines", "extend", *arguments])
    _, *lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in lines if ".json" in line.split()[0]}
    return code, rows, " ".join(line for line in lines if ".json" not in line.split()[0])


def states() -> list[Path]:
    return sorted(Path("baselines").rglob("states-*"))


def test_this_format_has_every_field_of_the_earlier_one() -> None:
    """And the earlier one is what the test makes of it: its committed files have these names."""
    never = {"unsteady", "kernel_cells"}  # are of a run: no baseline has them
    own = {field.name for field in fields(Record)} - set(NEW) - never | {"sqnr", "seal", "format_version"}
    assert set(committed()) == own


def committed() -> dict[str, Any]:
    done = subprocess.run(
        ["git", "-C", str(Path(__file__).parents[3]), "show", COMMITTED],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"this checkout has no history that goes back to {COMMITTED}")
    return dict(json.loads(done.stdout))


def test_what_comes_out_equal_is_extended(
    capsys: pytest.CaptureFixture[str], records: dict[Case, Record]
) -> None:
    """Every figure that was accepted as it was, the new ones beside it, and the gate holds it."""
    paths = {case: put(case.baseline.as_posix(), earlier(record)) for case, record in records.items()}
    code, rows, below = extend(capsys)
    assert (code, below) == (0, "")
    assert rows == {case.baseline.as_posix(): "extended 0" for case in paths}
    bounds = Bounds(kl=1.0, rise=1.0)
    for case, path in paths.items():
        accepted, record = read(path), records[case]
        assert replace(accepted, environment=record.environment) == record
        assert judge(replace(record, noise=None), accepted, bounds).passed
    assert [path.parent for path in states()] == [Path("baselines/ref-llama")]

    before = {path: path.read_bytes() for path in [*paths.values(), *states()]}
    code, rows, _ = extend(capsys)
    assert (code, set(rows.values())) == (0, {"of this format"})
    assert {path: path.read_bytes() for path in [*paths.values(), *states()]} == before


def test_noise_that_was_never_measured_is_added(
    capsys: pytest.CaptureFixture[str], records: dict[Case, Record]
) -> None:
    path = put("ref-llama/bf16.json", earlier(replace(records[BF16], noise=None)))
    assert extend(capsys)[0] == 0
    accepted = read(path).noise
    assert accepted == records[BF16].noise
    assert accepted is not None
    assert accepted.sublayers is not None


def _up(value: float) -> float:
    """The next number: one bit more."""
    return math.nextafter(value, math.inf)


def _a_figure(name: str) -> Change:
    def change(data: dict[str, Any]) -> None:
        data[name] = _up(data[name])

    return change


def _of_the_first_sequence(name: str) -> Change:
    def change(data: dict[str, Any]) -> None:
        data[name][0] = _up(data[name][0])

    return change


def _a_byte(data: dict[str, Any]) -> None:
    data["weight_bytes"] += 1


def _a_module(data: dict[str, Any]) -> None:
    data["replaced"]["model.layers.9.mlp.up_proj"] = "mlp"


def _tokens(data: dict[str, Any]) -> None:
    data["fingerprints"]["tokens"] = "0" * 64


MOVED: dict[str, Change] = {
    "kl": _a_figure("kl"),
    "entropy": _a_figure("entropy"),
    "top1_agreement": _a_figure("top1_agreement"),
    "reference_entropy": _a_figure("reference_entropy"),
    "sequence_losses": _of_the_first_sequence("sequence_losses"),
    "sequence_kl": _of_the_first_sequence("sequence_kl"),
    "reference_entropies": _of_the_first_sequence("reference_entropies"),
    "weight_bytes": _a_byte,
    "replaced": _a_module,
    "fingerprints": _tokens,
}


def test_one_bit_of_one_figure_and_the_file_is_left_alone(
    capsys: pytest.CaptureFixture[str], records: dict[Case, Record]
) -> None:
    paths = {
        name: put(f"ref-llama/{name}.json", earlier(records[CASE], change)) for name, change in MOVED.items()
    }
    before = {name: path.read_bytes() for name, path in paths.items()}
    code, rows, below = extend(capsys)
    assert (code, below) == (1, "")
    assert {name: row.split()[0::2] for name, row in rows.items()} == {
        f"ref-llama/{name}.json": ["moved", name] for name in MOVED
    }
    assert {name: path.read_bytes() for name, path in paths.items()} == before
    assert states() == []


def _noise(data: dict[str, Any]) -> None:
    data["noise"]["loss_rms"] = _up(data["noise"]["loss_rms"])


def test_noise_that_comes_out_otherwise_is_refused(
    capsys: pytest.CaptureFixture[str], records: dict[Case, Record]
) -> None:
    path = put("ref-llama/bf16.json", earlier(records[BF16], _noise))
    before = path.read_bytes()
    code, rows, _ = extend(capsys)
    assert code == 1
    assert "its figures are the accepted ones, its noise is not (loss_rms)" in rows["ref-llama/bf16.json"]
    assert path.read_bytes() == before
    assert states() == []


def _elsewhere(by: float) -> Change:
    """Accepted on a machine that multiplies otherwise, where all losses came out larger: the case's alone
    would be its own effect on them, of which the bound is a share."""

    def change(data: dict[str, Any]) -> None:
        data["arithmetic"] = "0" * 64
        for name in ("reference_losses", "sequence_losses"):
            data[name] = [loss + by for loss in data[name]]

    return change


def test_other_arithmetic_says_how_far_it_is_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], records: dict[Case, Record]
) -> None:
    near = put("ref-llama/near.json", earlier(records[CASE], _elsewhere(1e-6)))
    far = put("ref-llama/far.json", earlier(records[CASE], _elsewhere(1.0)))
    before = [near.read_bytes(), far.read_bytes()]
    code, rows, below = extend(capsys)
    assert code == 1
    assert {name: row.split()[:2] for name, row in rows.items()} == {
        f"ref-llama/{name}.json": ["other", "arithmetic"] for name in ("near", "far")
    }
    shares = {name: float(row.split()[2]) for name, row in rows.items()}
    assert 0 < shares["ref-llama/near.json"] <= 1 < shares["ref-llama/far.json"]
    assert "moved: arithmetic, reference_losses, sequence_losses" in rows["ref-llama/near.json"]
    assert "1 of 2 cases are within their drift bounds; none was written" in below
    assert "pytest --snapshot-update" in below
    assert [near.read_bytes(), far.read_bytes()] == before
    assert states() == []


def test_a_committed_file(capsys: pytest.CaptureFixture[str]) -> None:
    """One that was accepted for this repository, where torch multiplied by AVX-512. This machine multiplies
    otherwise, and then it is within its bounds; or as that one, and then it is extended."""
    path = put("ref-llama/mxfp8_e4m3-A.json", json.dumps(committed()))
    before = path.read_bytes()
    code, rows, below = extend(capsys)
    row = rows["ref-llama/mxfp8_e4m3-A.json"]
    if row.startswith("extended"):
        assert (code, below, len(states())) == (0, "", 1)
        return
    assert code == 1
    assert row.startswith("other arithmetic ")
    assert "1 of 1 cases are within their drift bounds; none was written" in below
    assert path.read_bytes() == before
    assert states() == []


# What needs no measurement


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is to be loaded."""
    monkeypatch.setattr("mxcheck.models.load.load", lambda *_, **__: pytest.fail("a model was loaded"))


def _another_model(data: dict[str, Any]) -> None:
    data["model"] = "my-model"


def _another_recipe(data: dict[str, Any]) -> None:
    data["recipe"]["elementwise"] = {"format": "fp9"}


def _another_text(data: dict[str, Any]) -> None:
    data["corpus"] = {"used": "wikitext", "block_length": 48}


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("my-model/bf16.json", _another_model, "where my-model lies is not known; give its directory"),
        ("ref-llama/bf16.json", _another_text, "it was measured on wikitext; accept it anew with the same"),
        ("ref-llama/bf16.json", _another_recipe, "its recipe cannot be made any more: "),
        (
            "ref-llama/bf16@cuda-sm90.json",
            lambda _: None,
            "accepted on a device of another class; accept it anew there",
        ),
    ],
    ids=["model", "text", "recipe", "device"],
)
def test_what_cannot_be_measured_here_is_refused_with_its_reason(
    capsys: pytest.CaptureFixture[str], records: dict[Case, Record], name: str, change: Change, why: str
) -> None:
    path = put(name, earlier(records[BF16], change))
    before = path.read_bytes()
    code, rows, _ = extend(capsys)
    assert code == 1
    assert rows[name].startswith("refused ")
    assert why in rows[name]
    assert path.read_bytes() == before


@pytest.mark.usefixtures("unmeasured")
def test_what_is_no_baseline_is_refused(
    capsys: pytest.CaptureFixture[str], records: dict[Case, Record]
) -> None:
    put("ref-llama/broken.json", earlier(records[BF16])[:-40])
    put("ref-llama/edited.json", earlier(records[BF16]).replace('"samples2"', '"samples3"'))
    put("ref-llama/older.json", json.dumps({"format_version": 2}))
    code, rows, _ = extend(capsys)
    assert code == 1
    assert {name: row.split()[0] for name, row in rows.items()} == dict.fromkeys(rows, "refused")
    assert "corrupt baseline" in rows["ref-llama/broken.json"]
    assert "do not bear its seal" in rows["ref-llama/edited.json"]
    assert "format version 2; allowed: 3, and 4, which is left alone" in rows["ref-llama/older.json"]


@pytest.mark.parametrize("there", [True, False], ids=["empty", "missing"])
def test_a_folder_without_baselines_is_one_line(capsys: pytest.CaptureFixture[str], there: bool) -> None:
    if there:
        Path("none").mkdir()
    assert main(["baselines", "extend", "--baselines", "none"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == ("mxcheck: no baseline in or below none; name another folder with --baselines\n")


def test_a_model_of_one_s_own_is_measured_where_it_is_said_to_lie(
    capsys: pytest.CaptureFixture[str], records: dict[Case, Record]
) -> None:
    """Found by its label; and what it is measured with must be there."""
    put("ref-llama-copy/bf16.json", earlier(records[BF16], lambda data: data.update(model="my--copy")))
    code, rows, _ = extend(capsys, "--models", "my/copy")
    assert code == 1
    assert rows["ref-llama-copy/bf16.json"].startswith("refused ")
    assert "'my/copy'" in rows["ref-llama-copy/bf16.json"]


def test_noise_of_the_earlier_format_has_no_layers(records: dict[Case, Record]) -> None:
    """Or the test above would compare what was never taken away."""
    names = {field.name for field in fields(Noise)}
    assert set(json.loads(earlier(records[CASE]))["noise"]) == names - {"sublayers"}
