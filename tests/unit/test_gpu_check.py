"""tools/gpu_check.py and tools/gpu_report.py: as far as a CPU goes."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
TOOLS = REPOSITORY / "tools"
PACKAGE = REPOSITORY / "src" / "mxcheck"

Load = Callable[[str], ModuleType]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """A module of tools/, which is no package; sys.path is as before when the test ends."""
    monkeypatch.setattr(sys, "path", [str(TOOLS), *sys.path])
    return importlib.import_module


# The list of CUDA branches.


def logical_lines(path: Path) -> Iterator[list[tokenize.TokenInfo]]:
    """The tokens of each statement, or of the head of a compound one, without comments."""
    aside = (tokenize.COMMENT, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING)
    line: list[tokenize.TokenInfo] = []
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.NEWLINE:
                yield line
                line = []
            elif token.type not in aside:
                line.append(token)


def is_branch(line: list[tokenize.TokenInfo]) -> bool:
    """Told from tokens alone, where the tool reads the syntax tree."""
    words = [token.string for token in line]
    is_docstring = len(words) == 1 and '"""' in words[0]
    if is_docstring or words[0] in ("import", "from", "def", "class", "async", "@", ""):
        return False
    named = any(
        any(word in text.lower() for word in ("cuda", "gpu", "nvidia")) or "capability" in text
        for text in words
    )
    beside = [
        {words[at - 1], *words[at + 1 : at + 2]} for at, text in enumerate(words) if text in ("==", "!=")
    ]
    return named or any(sides & {'"cpu"', "CPU"} for sides in beside)


def test_the_list_of_branches_is_complete(load: Load) -> None:
    listed = {(branch.file, line) for branch in load("gpu.branches").branches() for line in branch.lines}
    found = {
        (path.relative_to(PACKAGE).as_posix(), line[0].start[0])
        for path in sorted(PACKAGE.rglob("*.py"))
        for line in logical_lines(path)
        if line and is_branch(line)
    }
    assert len(found) > 100
    assert found - listed == set()


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        pytest.param('if x.device.type == "cuda":\n        y = 1', 'if x.device.type == "cuda":', id="if"),
        pytest.param("torch.cuda.empty_cache()  # why", "torch.cuda.empty_cache()", id="attribute"),
        pytest.param(
            'return 1 if device != "cpu" else 2', 'return 1 if device != "cpu" else 2', id="not_cpu"
        ),
        pytest.param("y = run(on_gpu=True)", "y = run(on_gpu=True)", id="keyword"),
        pytest.param("with torch.cuda.device(x):\n        y = 1", "with torch.cuda.device(x):", id="with"),
        pytest.param("if capability is None:\n        y = 1", "if capability is None:", id="capability"),
        pytest.param('"""CUDA in a docstring."""', None, id="docstring"),
        pytest.param("y = 1  # CUDA in a comment", None, id="comment"),
        pytest.param("from torch import cuda", None, id="import"),
        pytest.param('y = x.device.type == "meta"', None, id="another"),
    ],
)
def test_what_a_branch_is(code: str, shown: str | None, load: Load, tmp_path: Path) -> None:
    path = tmp_path / "one.py"
    path.write_text(f"def f():\n    {code}\n")
    found = load("gpu.branches").branches(tmp_path)
    assert [branch.code for branch in found] == ([] if shown is None else [shown])
    if shown is not None:
        assert (found[0].function, found[0].is_data) == ("f", False)
        assert found[0].arm == (3 if shown.startswith("if") else None)


def test_which_branches_ran(load: Load, tmp_path: Path) -> None:
    """In a process of its own, as the check does it; nothing is seen after the trace has stopped."""
    program = (
        "from pathlib import Path; import sys\n"
        "from gpu import seen_lines\n"
        "seen_lines.start()\n"
        "from mxcheck.scheduling import devices\n"
        "devices.visible([], {'CUDA_VISIBLE_DEVICES': ''})\n"
        "seen_lines.stop()\n"
        "devices.gpu_devices([], workers_per_device=1)\n"
        "seen_lines.store(Path(sys.argv[1]))\n"
    )
    paths = os.pathsep.join([str(TOOLS), str(PACKAGE.parent)])
    words = [sys.executable, "-c", program, str(tmp_path)]
    subprocess.run(words, check=True, env={**os.environ, "PYTHONPATH": paths})
    branches = load("gpu.branches").branches()
    found = load("gpu.seen_lines").run_branches(tmp_path, branches)
    by_function = {branch.function: found.get(branch.key) for branch in branches}
    assert {key.partition(": ")[0] for key in found} == {"extras.py", "scheduling/devices.py"}
    assert by_function["gpu_devices"] is None
    assert found['scheduling/devices.py: visible: named = environ.get("CUDA_VISIBLE_DEVICES")'] == "run"


# The check.


@pytest.fixture
def check(load: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The tool, with nothing to install."""
    tool = load("gpu_check")
    monkeypatch.setattr(tool, "WHEELS", tmp_path / "no-wheels")
    return tool


def part(check: ModuleType, program: str, limit: float = 600) -> Any:
    return check.Part(
        limit=limit,
        command=lambda _, folder: [sys.executable, "-c", program, str(folder)],
        read=check._answer,
    )


def run_parts(
    check: ModuleType, parts: dict[str, Any], folder: Path, budget: float = 3600
) -> tuple[int, Any]:
    run = check.Run(device="cpu", short=False, workers=1)
    status = check.check(parts, run, folder=folder, budget=budget)
    return status, json.loads((folder / "gpu.json").read_text())


def test_a_part_that_fails_takes_no_other_along(check: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    answer = "import pathlib, sys; pathlib.Path(sys.argv[1], 'answer.json').write_text({!r})"
    parts = {
        "bad": part(check, "print('boom'); raise SystemExit(3)"),
        "dead": part(check, "import os; os.abort()"),
        "garbled": part(check, answer.format("{")),
        "good": part(check, answer.format('{"result": 1}')),
        # What the report says while the last part runs: it is written after each.
        "late": part(check, f"print(open({str(folder / 'gpu.json')!r}).read()); raise SystemExit(1)"),
    }
    status, report = run_parts(check, parts, folder)
    assert status == 1
    states = {name: found["state"] for name, found in report["parts"].items()}
    assert states == {
        "bad": "failed",
        "dead": "failed",
        "garbled": "failed",
        "good": "done",
        "late": "failed",
    }
    assert report["parts"]["bad"]["last_lines"] == ["boom"]
    assert report["parts"]["garbled"]["unreadable"].startswith("JSONDecodeError: ")
    assert report["parts"]["good"]["result"] == 1
    assert "last_lines" not in report["parts"]["good"]
    assert '"state": "done"' in "\n".join((folder / "late" / "output.txt").read_text().splitlines())


def test_all_parts_done_is_green(check: ModuleType, tmp_path: Path) -> None:
    status, report = run_parts(check, {"good": part(check, "pass")}, tmp_path / "report")
    assert status == 0
    assert report["rehearsal"] is True


def test_out_of_time(check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "_LEAST", 0.0)
    parts = {"slow": part(check, "import time; time.sleep(600)", limit=0.2), "next": part(check, "pass")}
    status, report = run_parts(check, parts, tmp_path / "report")
    assert status == 1
    assert [found["state"] for found in report["parts"].values()] == ["out of time", "done"]


def test_no_time_left(check: ModuleType, tmp_path: Path) -> None:
    status, report = run_parts(check, {"one": part(check, "pass")}, tmp_path / "report", budget=1)
    assert (status, report["parts"]) == (1, {"one": {"state": "no time left"}})


def limited(check: ModuleType, script: str, output: Path, *, grace: float) -> int | None:
    status: int | None = check.run_limited(["sh", "-c", script], output, os.environ, 5, grace=grace)
    return status


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell's background job ignores SIGINT, and so does whatever it starts: not here."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_what_is_interrupted_may_write_what_it_has(check: ModuleType, tmp_path: Path) -> None:
    output = tmp_path / "output.txt"
    script = "trap 'echo last words; exit 1' INT; echo begun; sleep 600 & wait"
    assert limited(check, script, output, grace=600) is None
    assert output.read_text() == "begun\nlast words\n"


def test_what_does_not_end_is_killed_with_its_children(check: ModuleType, tmp_path: Path) -> None:
    output = tmp_path / "output.txt"
    assert limited(check, "trap '' INT; sleep 600 & echo $!; wait", output, grace=0.5) is None
    left = Path("/proc", output.read_text().strip(), "cmdline")
    while left.is_file() and b"sleep" in left.read_bytes():  # the kernel takes its moment; a hang is red
        time.sleep(0.05)


def test_no_cuda_device_is_refused_in_one_line(
    check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert check.main(["--report", str(tmp_path / "report")]) == 2
    line = "gpu-check: needs a CUDA device; torch finds none (--device cpu rehearses every part)\n"
    assert capsys.readouterr() == ("", line)
    assert not (tmp_path / "report" / "gpu.json").exists()


def test_a_folder_of_something_else_is_left_alone(
    check: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert check.main(["--device", "cpu", "--report", str(tmp_path)]) == 2
    assert "holds something else than an earlier report" in capsys.readouterr().err
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_what_is_not_installed_is_named(
    check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "WHEELS", check.REPOSITORY / "build" / "nowhere")
    monkeypatch.setattr(check, "PACKAGES", ("pytest", "no-such-package"))
    assert check.main(["--device", "cpu", "--report", str(tmp_path / "report")]) == 2
    assert "not installed: no-such-package; run `make gpu-wheels`" in capsys.readouterr().err


def test_an_unknown_part_is_refused(check: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        check.main(["--parts", "machine,engine"])
    assert "--parts: got engine; allowed: machine, products, gate, " in capsys.readouterr().err


def test_a_tree_that_is_not_installed_has_metadata(check: ModuleType, tmp_path: Path) -> None:
    check._write_metadata(tmp_path)
    (metadata,) = tmp_path.glob("mxcheck-*.dist-info/METADATA")
    assert f"Version: {metadata.parent.name[8:-10]}\n" in metadata.read_text()


@pytest.mark.slow
def test_a_rehearsal(load: Load, tmp_path: Path) -> None:
    """Every part, end to end, in the short form; and no page is made of it."""
    folder = tmp_path / "report"
    words = ["--device", "cpu", "--short", "--budget", "3600", "--report", str(folder)]
    run = subprocess.run(
        [sys.executable, str(TOOLS / "gpu_check.py"), *words], capture_output=True, text=True, check=False
    )
    report = json.loads((folder / "gpu.json").read_text())
    states = {name: found["state"] for name, found in report["parts"].items()}
    assert states == dict.fromkeys(load("gpu_check").PARTS, "done"), report
    assert (run.returncode, report["rehearsal"]) == (0, True)
    parts = report["parts"]
    products = {row["kind"]: row for row in parts["products"]["result"]["products"]}
    assert products["tensor"]["error"] < 0.01
    for kind in ("block 1x128, 128x128", "block 1x128, 1x128", "block 1x32 (MXFP8)"):
        assert products[kind]["refused"]
    assert all(row["equal"] for row in parts["casts"]["result"]["casts"])
    for name in ("kernels", "triton"):
        assert parts[name]["conformance"] == {"exact": parts[name]["tests"]["passed"]}
    (case,) = parts["gate"]["cases"]
    assert (case["id"], case["outcome"], case["digests_changed"]) == ("ref-llama-fp32", "pass", 0)
    assert max(case["drift_shares"].values()) <= 1
    steps = {"load", "bare forward", "metrics", "digests", "layer pass"}
    assert steps <= parts["case_times"]["result"]["cases"][0]["over_bare"].keys()
    # `cuda.use` returns at once on a CPU: its condition was met, and nothing behind it.
    branches = report["branches"]
    assert branches["measure/cuda.py: use: if device == CPU:"] == "run"
    assert "pytest_plugin/cuda.py: use: torch.cuda.set_device(devices[0].index)" not in branches
    assert load("gpu_report").main([str(folder / "gpu.json"), "--results", str(tmp_path)]) == 2
    assert not (tmp_path / "gpu.md").exists()


# What a part finds wrong.


def test_a_scale_from_the_wrong_place_is_red(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    products = load("gpu.products")
    row = products.KINDS["row"]
    turned_round = {"reversed": (products._plain, lambda scales: scales.flip(0).t())}
    monkeypatch.setattr(products, "KINDS", {"row": replace(row, layouts=turned_round)})
    result, wrong = products.measure("cpu", short=True)
    assert [line.partition(":")[0] for line in wrong] == ["row, float32", "row, bfloat16"]
    assert result["products"][0]["error"] > 10 * products.BOUND


def test_a_cast_that_differs_from_the_cpus_is_red(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    casts = load("gpu.casts")
    parts, calls = casts._parts, []

    def differs(x: Any, format: str, kernel: str) -> Any:
        calls.append(format)
        found = parts(x, format, kernel)
        if calls.count("fp8_e5m2") == 1:
            found[0][0, 0] ^= 1
        return found

    monkeypatch.setattr(casts, "_parts", differs)
    _, wrong = casts.measure("cpu", short=True)
    assert wrong == ["eager: fp8_e5m2 of bfloat16 differs from the CPU's"]


def test_triton_is_tried_on_cuda_alone(
    check: ModuleType, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = check.PARTS["triton"].command
    kernels = {
        device: command(check.Run(device=device, short=False, workers=1), Path("folder"))[5]
        for device in ("cuda", "cpu")
    }
    assert kernels == {"cuda": "triton,triton_values", "cpu": "eager"}
    casts, tried = load("gpu.casts"), []
    monkeypatch.setattr(casts, "_row", lambda kernel, *_, **__: tried.append(kernel) or {"equal": True})
    casts.measure("cuda", short=True)
    assert set(tried) == {"eager", "triton"}


AGREED = {
    "leased": 3 << 30,
    "total": 143771 << 20,
    "torch_total": 143156 << 20,
    "used_before": 600 << 20,
    "used_with": 1624 << 20,
    "used_after": 600 << 20,
    "refused_beyond": True,
}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        pytest.param({}, [], id="agreed"),
        pytest.param({"torch_total": 80 << 30}, ["the driver has "], id="another_gpu"),
        pytest.param({"used_with": 700 << 20}, ["a tensor of ", "the allocator gave back "], id="not_seen"),
        pytest.param({"used_after": 1624 << 20}, ["the allocator gave back "], id="kept"),
        pytest.param({"refused_beyond": False}, ["a tensor of "], id="beyond_the_lease"),
    ],
)
def test_leases_that_the_driver_does_not_bear_out(
    changed: dict[str, Any], said: list[str], load: Load
) -> None:
    found = load("gpu.machine")._disagreements(AGREED | changed)
    assert len(found) == len(said)
    assert all(line.startswith(start) for line, start in zip(found, said, strict=True))


# The page.


def test_the_committed_page_is_current(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    assert load("gpu_report").main(["--check"]) == 0, capsys.readouterr().out


def test_a_new_branch_makes_the_page_old(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = load("gpu_report")
    known = load("gpu.branches").branches()
    assert report.main(["--results", str(tmp_path)]) == 0
    assert report.main(["--check", "--results", str(tmp_path)]) == 0
    new = replace(known[0], function="new", code='if device == "cuda":', is_data=False)
    monkeypatch.setattr(report, "branches", lambda: [*known, new])
    assert report.main(["--check", "--results", str(tmp_path)]) == 1


def sample(load: Load) -> dict[str, Any]:
    case = {"reason": None, "seconds": 1.0}
    shares = {"reference": 0.1, "loss": 0.25, "kl": 0.5}
    figures = {"kl": 0.0068, "kl_accepted": 0.0067, "drift_shares": shares, "digests_changed": 0}
    first = next(branch for branch in load("gpu.branches").branches() if not branch.is_data)
    return {
        "version": 1,
        "rehearsal": False,
        "date": "2026-12-01",
        "seconds": 312.0,
        "branches": {first.key: "run"},
        "parts": {
            "machine": {
                "state": "done",
                "result": {
                    "machine": {
                        "device": "NVIDIA H200",
                        "capability": "9.0",
                        "packages": {"torch": "2.11.0"},
                    },
                    "leases": {"leased": 3072},
                },
                "wrong": [],
            },
            "products": {"state": "out of time", "last_lines": ["Traceback", "a | b"]},
            "gate": {
                "state": "failed",
                "tests": {"passed": 1, "failed": 1, "failures": [{"test": "two", "message": "KL\nmoved"}]},
                "cases": [
                    {**case, "id": "ref-llama-bf16", "outcome": "pass", **figures},
                    {**case, "id": "ref-neo-bf16", "outcome": "ERROR", "reason": "a | b"},
                ],
            },
        },
    }


def test_a_page_of_a_run(load: Load, tmp_path: Path) -> None:
    run = tmp_path / "run.json"
    run.write_text(json.dumps(sample(load)))
    report = load("gpu_report")
    assert report.main([str(run), "--results", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "gpu.json").read_text()) == sample(load)
    page = (tmp_path / "gpu.md").read_text()
    assert "Not yet run" not in page
    assert "NVIDIA H200, compute capability 9.0" in page
    assert "| products | out of time |" in page
    assert "The figures of `products` are not complete." in page
    assert "Worst share of the drift that is allowed: reference 0.10 (ref-llama-bf16); loss 0.25" in page
    assert "- `two`: KL moved" in page
    assert page.index("| ref-neo-bf16 | ERROR |") < page.index("| ref-llama-bf16 | pass |")  # red first
    assert "a \\| b |" in page
    assert "\n1 of " in page
    assert report.main(["--check", "--results", str(tmp_path)]) == 0  # from the JSON that was kept


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("{", "cannot be read as the JSON", id="no_json"),
        pytest.param(
            '{"version": 2, "parts": {}}', "is no JSON of tools/gpu_check.py, version 1", id="version"
        ),
        pytest.param('{"version": 1, "parts": {}, "rehearsal": true}', "is a rehearsal", id="rehearsal"),
    ],
)
def test_no_page_is_made_of(
    text: str, said: str, load: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.json").write_text(text)
    assert load("gpu_report").main([str(tmp_path / "run.json"), "--results", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "gpu.md").exists()


def test_a_row_of_the_gate(load: Load, tmp_path: Path) -> None:
    rows = [{"id": "one", "outcome": "skipped", "reason": "needs CUDA"}]
    (tmp_path / "accuracy.json").write_text(json.dumps(rows))
    (case,) = load("gpu.suites").read(tmp_path)["cases"]
    assert (case["outcome"], case["reason"]) == ("skipped", "needs CUDA")


def test_a_run_that_was_killed_has_the_rows_of_its_tests(load: Load, tmp_path: Path) -> None:
    """pytest as a part runs it, which dies in its second test: it writes no report."""
    suites = load("gpu.suites")
    project = tmp_path / "test_two.py"
    project.write_text(
        "import os\n"
        "def test_row():\n"
        "    pass\n"
        "def test_red():\n"
        "    assert 1 == 2\n"
        "def test_dies():\n"
        "    os._exit(9)\n"
    )
    (tmp_path / "conftest.py").write_text(  # as a case's result comes to its report
        "import pytest\n"
        "@pytest.hookimpl(wrapper=True)\n"
        "def pytest_runtest_makereport(item, call):\n"
        "    report = yield\n"
        "    if (item.name, report.when) == ('test_row', 'call'):\n"
        "        report.mx_result = {'id': 'one', 'outcome': 'pass'}\n"
        "    return report\n"
    )
    words = suites.pytest_command([str(project), f"--rootdir={tmp_path}", "-c", os.devnull], tmp_path, "cpu")
    environment = {
        **os.environ,
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), str(TOOLS)]),
        suites.LOG_VARIABLE: str(tmp_path / suites.LOG),
    }
    done = subprocess.run(words, env=environment, capture_output=True, check=False, cwd=tmp_path)
    assert done.returncode == 9
    found = suites.read(tmp_path)
    assert (found["tests"]["passed"], found["tests"]["failed"]) == (1, 1)
    assert found["tests"]["failures"][0]["test"] == "test_red"
    assert "assert 1 == 2" in found["tests"]["failures"][0]["message"]
    assert [(case["id"], case["outcome"]) for case in found["cases"]] == [("one", "pass")]


# What is brought there.


def test_every_package_is_pinned(load: Load) -> None:
    wheels = load("gpu_wheels")
    found = wheels.pinned((REPOSITORY / "constraints.txt").read_text())
    assert len(found) == len(wheels.PACKAGES)
    with pytest.raises(ValueError, match=r"constraints\.txt does not pin pluggy, iniconfig"):
        wheels.pinned("pytest==9.2.0\n")


def test_too_many_bytes_are_red(load: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wheels = load("gpu_wheels")
    (tmp_path / "large-1-py3-none-any.whl").write_bytes(bytes(100))
    (tmp_path / "small-1-py3-none-any.whl").write_bytes(bytes(10))
    assert wheels.report(tmp_path, limit=110) == 0
    assert wheels.report(tmp_path, limit=109) == 1
    assert "got 110; the largest is large-1-py3-none-any.whl" in capsys.readouterr().out
