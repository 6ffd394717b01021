"""The kernel suite through pytest: what is selected, what is printed and written, and what bad input gets."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
from gate_project import ROOT, Project, Run

SUITE = ("--pyargs", "mxcheck.suite.kernels")
FLOOR = "mxfp4_e2m1-floor and not floor-"  # -k: a single cell


@pytest.fixture
def kernels(project: Project) -> Project:
    """A project with casts of its own: `my_casts.py`, `bad_casts.py`."""
    for name, file in (("my_casts", "own_casts"), ("bad_casts", "bad_casts")):
        shutil.copy(ROOT / "tests" / "support" / f"{file}.py", project.directory / f"{name}.py")
    return project


def selected(project: Project, *arguments: str, **environment: str) -> list[str]:
    """Ids of the selected conformance cases."""
    run = project.pytest(*SUITE, "--collect-only", "-q", *arguments, **environment)
    assert run.code == 0, run.output
    return re.findall(r"::test_conformance\[(.*)\]$", run.output, re.MULTILINE)


def usage_error(run: Run) -> str:
    """The one line of a refused command line."""
    assert run.code == pytest.ExitCode.USAGE_ERROR, run.output
    assert "Traceback" not in run.output
    (line,) = run.output.strip().splitlines()
    assert line.startswith("ERROR: mxcheck: ")
    return line


def collection_error(run: Run) -> str:
    """The one line of what is found out while tests are collected, the same for each file."""
    assert run.code in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.TESTS_FAILED), run.output
    assert "Traceback" not in run.output
    assert ".py:" not in run.output
    (line,) = {text for text in run.output.splitlines() if text.startswith("mxcheck: ")}
    return line


def message(run: Run, case: str) -> list[str]:
    """The lines of a red case, without its title."""
    title = re.escape(f"test_conformance[{case}]")
    found = re.search(
        rf"^_+ {title} _+\n((?:(?![_=]{{5}}|mxcheck: conformance).*\n)*)", run.output, re.MULTILINE
    )
    assert found, run.output
    return [line for line in found[1].splitlines() if line]


def matrix(run: Run) -> str:
    """The printed matrix with its notes."""
    assert run.output.count("mxcheck: conformance, bit by bit") == 1, run.output
    found = re.search(r"^mxcheck: conformance(?:.*\n)*?mxcheck: written to (.*)\n", run.output, re.MULTILINE)
    assert found, run.output
    return found[0].replace(found[1], "")


# What is selected


def test_cells_of_one_format(kernels: Project) -> None:
    """By `-k` and by marker, of every implementation that was named, repeated or with commas."""
    named = ("--mx-kernel", "eager,eager_values", "--mx-kernel", "my_casts:quantize")
    by_name = selected(kernels, *named, "-k", "fp8_e4m3")
    assert by_name == selected(kernels, *named, "-m", "fp8_e4m3")
    rules = [
        "floor",
        "floor-away",
        "floor-zero",
        "floor-stochastic",
        "ceil",
        "even",
        "rceil",
        "reciprocal",
        "reciprocal-nan_stays",
    ]
    assert by_name == [
        f"{kernel}-mxfp8_e4m3-{rule}"
        for kernel in ("eager", "eager_values", "my_casts.quantize")
        for rule in rules
    ]


def test_the_names_of_the_field_select(kernels: Project) -> None:
    """By marker one format; `-k` takes parts of names, so that `mxfp8` there is both of its formats."""
    words = ("--mx-kernel", "eager")
    e4m3 = selected(kernels, *words, "-m", "fp8_e4m3")
    assert selected(kernels, *words, "-m", "mxfp8") == e4m3
    assert selected(kernels, *words, "-k", "mxfp8_e4m3") == e4m3
    assert selected(kernels, *words, "-k", "mxfp8") == e4m3 + selected(kernels, *words, "-m", "mxfp8_e5m2")
    assert selected(kernels, *words, "--mx-format", "mxfp8") == e4m3
    stays = [name for name in e4m3 if name.endswith("nan_stays")]
    assert selected(kernels, *words, "-m", "mxfp8", "-k", "rceil-te") == stays  # what it was called before
    every = kernels.pytest(*SUITE, "--collect-only", "-q", *words, "-k", "mxfp8_e4m3").output
    assert all(f"::{name}[" in every for name in ("test_product", "test_element_codes", "test_operand"))
    assert selected(kernels, *words, "-k", "[eager-fp8_e4m3-rceil-te]") == stays
    floor = selected(kernels, *words, "-k", "[eager-mxfp8_e4m3-floor]")
    assert selected(kernels, *words, "-k", "[eager-fp8_e4m3-floor]") == floor != []
    without = selected(kernels, *words, "-m", "mxfp8", "-k", "not nan_stays")
    assert without == [name for name in e4m3 if name not in stays] != []


def test_options_of_a_cast_narrow_it(kernels: Project) -> None:
    """Also by a rule that one format has not, and by random rounding: the model suite refuses both."""
    words = ("--mx-kernel", "eager")
    even = selected(kernels, *words, "--mx-scale-rule=even")
    assert even == [
        f"eager-mx{name}-even"
        for name in ("fp8_e4m3", "fp8_e5m2", "fp6_e3m2", "fp6_e2m3", "fp4_e2m1", "fp4_e3m0")
    ]
    assert selected(kernels, *words, "--mx-rounding=stochastic", "--mx-format=mxfp4") == [
        "eager-mxfp4_e2m1-floor-stochastic"
    ]
    assert selected(kernels, *words, "--mx-scale-rule=ceil", "--mx-rounding=zero", "--mx-format=mxfp4") == [
        "eager-mxfp4_e2m1-ceil-zero"
    ]
    run = kernels.pytest(*SUITE, *words, "--mx-format=mxint8", "--mx-scale-rule=even")
    assert "no cell of the kernel suite is left: --mx-format=mxint8 --mx-scale-rule=even" in collection_error(
        run
    )
    assert "unknown --mx-axis '4'; allowed: -4, -3" in usage_error(kernels.pytest(*SUITE, "--mx-axis=4"))


def test_a_cast_of_one_dtype_block_size_and_axis(kernels: Project) -> None:
    """Is asked for nothing else, and is green."""
    (kernels.directory / "narrow.py").write_text(
        "import torch\n"
        "from mxcheck.kernels.eager import quantize_eager\n"
        "def quantize(x, spec):\n"
        "    assert x.dtype == torch.bfloat16 and spec.block_size == 64 and spec.axis in (-1, x.dim() - 1)\n"
        "    assert (spec.scale_rule, spec.rounding) == ('rceil', 'even')\n"
        "    return quantize_eager(x, spec)\n"
    )
    words = (
        "--mx-kernel=narrow:quantize",
        "--mx-format=mxfp4",
        "--mx-scale-rule=rceil",
        "--mx-rounding=even",
    )
    words = (*words, "--mx-dtype=bf16", "--mx-block-size=64", "--mx-axis=-1", "-k", "test_conformance")
    run = kernels.pytest(*SUITE, *words)
    assert run.code == 0, run.output
    assert "1 passed" in run.output


def test_a_red_cell_says_what_it_looks_like(kernels: Project) -> None:
    shutil.copy(ROOT / "tests" / "support" / "unnamed_casts.py", kernels.directory)
    words = ("--mx-kernel=unnamed_casts:ties_toward_zero", "--mx-format=mxfp8", "--mx-scale-rule=rceil")
    run = kernels.pytest(*SUITE, *words, "--mx-rounding=even", "-k", "test_conformance and not nan_stays")
    assert run.code == 1, run.output
    first, second, *_ = message(run, "unnamed_casts.ties_toward_zero-mxfp8_e4m3-rceil")
    assert first == (
        "mxcheck: unnamed_casts.ties_toward_zero-mxfp8_e4m3-rceil looks like scale rule `floor` "
        "with ties toward zero"
    )
    assert second.startswith(
        "mxcheck: unnamed_casts.ties_toward_zero-mxfp8_e4m3-rceil differs from the oracle"
    )


def test_every_installed_implementation_by_default(project: Project) -> None:
    """Those that are not are one skip each, which says how to get them."""
    run = project.pytest(*SUITE, "-k", "microxcaling-missing or eager-mxint8-floor-zero", "-rs")
    assert run.code == 0, run.output
    assert "1 passed, 1 skipped" in run.output
    assert (
        "microxcaling is not installed: clone https://github.com/microsoft/microxcaling and give pytest "
        "--mx-microxcaling=PATH"
    ) in run.output


def test_a_checkout_of_microxcaling(project: Project) -> None:
    """Relative to pytest's root directory, found without being imported; one that is broken is one line."""
    checkout = project.directory / "checkouts" / "microxcaling"
    (checkout / "mx").mkdir(parents=True)
    (checkout / "mx" / "__init__.py").write_text("raise OSError('libcudart.so: no such file')\n")
    (checkout / "mx" / "mx_ops.py").write_text("")
    words = ("--mx-microxcaling", "checkouts/microxcaling")
    run = project.pytest(*SUITE, *words, "--mx-kernel", "microxcaling,eager", "-k", FLOOR)
    assert run.code == 1
    assert message(run, "microxcaling-mxfp4_e2m1-floor")[3] == "  OSError: libcudart.so: no such file"
    assert "1 failed, 1 passed" in run.output


@pytest.fixture
def offered(project: Project) -> Path:
    """A folder with an installed package that offers a cast."""
    folder = project.directory.parent / "packages"
    information = folder / "their_casts-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: their-casts\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[mxcheck.kernels]\ntheirs = own_casts:quantize\n")
    shutil.copy(ROOT / "tests" / "support" / "own_casts.py", folder)
    return folder


def test_entry_point(project: Project, offered: Path) -> None:
    path = {"PYTHONPATH": os.pathsep.join([str(project.source), str(offered)])}
    run = project.pytest(*SUITE, "--mx-kernel", "theirs", "-m", "fp8_e4m3", "-n", "1", **path)
    assert run.code == 0, run.output
    assert re.search(r" theirs +fp8_e4m3 +exact +-", run.output), run.output
    entry_points = offered / "their_casts-1.0.dist-info" / "entry_points.txt"
    entry_points.write_text("[mxcheck.kernels]\neager = own_casts:quantize\n")
    line = "entry point 'eager' of mxcheck.kernels (own_casts:quantize): the name is taken"
    assert line in usage_error(project.pytest(*SUITE, "--mx-kernel", "gfloat", **path))
    assert line in collection_error(project.pytest(*SUITE, **path))


# What is printed and written


def test_matrix_and_reports(kernels: Project) -> None:
    """Printed once, by the controller, and written: the same whatever the number of workers."""
    words = ("--mx-kernel", "eager,eager_values,my_casts:quantize,broken:f", "-m", "mxint8", "-k", "ceil")
    (kernels.directory / "broken.py").write_text("raise OSError('libcudart.so: no such file')\n")
    written = {}
    for workers in ("0", "2"):
        folder = kernels.directory / "reports" / workers
        run = kernels.pytest(*SUITE, *words, "-n", workers, "--mx-report", f"reports/{workers}")
        assert run.code == 1, run.output
        written[workers] = (
            matrix(run),
            *((folder / f"conformance.{end}").read_text() for end in ("md", "json")),
        )
    assert written["0"] == written["2"]
    table, page, data = written["0"]
    assert re.search(r" eager +mxint8 +exact", table)
    assert "| eager_values | mxint8 | exact |" in page
    for text in (table, page):
        assert "not supported, my_casts.quantize: my_casts has only mxfp8_e4m3-floor, not mxint8" in text
    rows = json.loads(data)
    assert len({(row["implementation"], row["rule"]) for row in rows}) == len(rows) == 4 * 2
    assert Counter((row["implementation"], row["verdict"]) for row in rows) == {
        ("eager", "exact"): 2,
        ("eager_values", "exact"): 2,
        ("my_casts.quantize", "unsupported"): 2,
        ("broken.f", "error"): 2,
    }
    assert {row["elements"] > 100_000 for row in rows if row["verdict"] == "exact"} == {True}


def test_unsupported_is_a_skip_with_the_kernels_own_reason(kernels: Project) -> None:
    run = kernels.pytest(*SUITE, "--mx-kernel", "my_casts:quantize,bad_casts:refuses", "-k", FLOOR, "-rs")
    assert run.code == 1, run.output  # of neither anything was compared
    assert "2 skipped" in run.output
    for name in ("my_casts.quantize", "bad_casts.refuses"):
        assert f"mxcheck: red: no result of {name} was compared; its first refusal: " in run.output
    assert re.search(
        r"^SKIPPED .*: my_casts has only mxfp8_e4m3-floor, not fp4_e2m1$", run.output, re.MULTILINE
    )
    assert re.search(r"^SKIPPED .*: no fp4_e2m1 here$", run.output, re.MULTILINE)


# Bad input


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--mx-kernel", "eagre"), "unknown kernel 'eagre'; allowed: auto, eager, eager_values, cpp, "),
        (("--mx-kernel", "eagre"), "did you mean 'eager'?"),
        (("--mx-kernel", "eager,:f"), "unknown kernel ':f'; allowed: "),
        (
            ("--mx-kernel", "eager,nosuch:f"),
            "--mx-kernel=nosuch:f: there is no module 'nosuch' on sys.path; start pytest in its directory",
        ),
        (("--mx-kernel", "nosuch.casts:f", "-n", "2"), "there is no module 'nosuch' on sys.path"),
        (("--mx-kernel", ".foo:x"), "--mx-kernel=.foo:x: give the module in full, without a dot before it"),
        (("--mx-level", "fastest"), "unknown --mx-level 'fastest'; allowed: quick, full"),
        (
            ("--mx-level", "exhaustive"),
            "--mx-level=exhaustive is `python -m validation exhaustive` in a checko",
        ),
        (
            ("--mx-microxcaling", "/nonexistent"),
            "/nonexistent: no checkout of microxcaling, there is no file mx/mx_ops.py in it; name the folder",
        ),
        (
            ("--mx-kernel", "microxcaling", "-n", "2"),
            "--mx-kernel=microxcaling: microxcaling is not installed: clone https://github.com/",
        ),
    ],
)
def test_options(project: Project, arguments: tuple[str, ...], line: str) -> None:
    assert line in usage_error(project.pytest(*SUITE, *arguments))


BAD = {
    "shape": "ValueError: kernel bad_casts:shape returned codes of shape (1, 31), torch.uint8 on cpu; exp",
    "dtype": "ValueError: kernel bad_casts:dtype returned scales of shape (1, 1), torch.int32 on cpu; exp",
    "device": "ValueError: kernel bad_casts:device returned codes of shape (1, 32), torch.uint8 on meta; exp",
    "raises": "RuntimeError: no kernel image is available",
    "skips": "Skipped: no fp4_e2m1 on this machine",
    "nothing": "TypeError: kernel bad_casts:nothing must return (codes, scales) or a tensor, got NoneType",
}


def assert_one_error(run: Run, name: str, error: str) -> None:
    case = f"bad_casts.{name}-mxfp4_e2m1-floor"
    lines = message(run, case)
    assert len(lines) == 5, lines
    assert lines[0].startswith(f"mxcheck: {case} (quick) has no result to compare for every_code, ")
    assert lines[3].startswith(f"  {error}")
    assert lines[4].startswith("  reproduce: mxcheck explain fp4_e2m1 --hex ")


def test_bad_kernels(kernels: Project) -> None:
    """Each gets one clear error, and the others of the same run are held as ever."""
    bad = [f"bad_casts:{name}" for name in BAD]
    names = ",".join([bad[0], "my_casts.sub:f", *bad[1:], "bad_casts:prints", "eager"])
    run = kernels.pytest(*SUITE, "--mx-kernel", names, "-k", FLOOR, "-rA")
    assert "Traceback" not in run.output
    passed = re.findall(r"^PASSED .*\[(.*)-mxfp4_e2m1-floor\]", run.output, re.MULTILINE)
    assert passed == ["bad_casts.prints", "eager"]
    for name, error in BAD.items():
        assert_one_error(run, name, error)
    (line,) = message(run, "my_casts.sub.f-mxfp4_e2m1-floor")
    assert line.startswith("mxcheck: my_casts.sub.f cannot be loaded: ")
    assert line.endswith("there is no module 'my_casts.sub' on sys.path")


def test_an_unknown_function_is_a_usage_error(kernels: Project) -> None:
    """Before anything runs, as an unknown module is."""
    run = kernels.pytest(*SUITE, "--mx-kernel", "eager,bad_casts:shap", "-k", FLOOR)
    line = "unknown function of module 'bad_casts': 'shap'; allowed: shape, dtype, device, raises, "
    assert line in (told := usage_error(run))
    assert told.endswith("; did you mean 'shape'?")


def test_a_kernel_of_other_parameters_is_one_failure(kernels: Project) -> None:
    (kernels.directory / "one.py").write_text("def f(x):\n    return x\n")
    run = kernels.pytest(*SUITE, "--mx-kernel", "one:f", "-m", "fp8_e4m3")
    assert "1 failed, 8 skipped" in run.output
    (line,) = message(run, "one.f-mxfp8_e4m3-floor")
    assert "kernel 'one:f' takes (x), and is called with (x, spec): too many positional arguments" in line


@pytest.mark.parametrize(
    ("raised", "line"),
    [
        ("OSError('libcudart.so: no such file')", "OSError: libcudart.so: no such file"),
        ("SystemExit(0)", "SystemExit: 0"),
    ],
)
def test_a_module_that_raises_is_one_failure(kernels: Project, raised: str, line: str) -> None:
    """The first cell fails, the others are skipped with its reason."""
    (kernels.directory / "broken.py").write_text(f"raise {raised}\n")
    run = kernels.pytest(*SUITE, "--mx-kernel", "broken:f", "-m", "fp8_e4m3", "-rs")
    assert run.code == 1, run.output
    assert "1 failed, 8 skipped" in run.output
    line = f"mxcheck: broken.f cannot be loaded: {line}"
    assert message(run, "broken.f-mxfp8_e4m3-floor") == [line]
    assert re.search(rf"^SKIPPED \[8\] .*: {re.escape(line)}$", run.output, re.MULTILINE)


def test_many_calls_of_a_kernel_that_raises(project: Project) -> None:
    """One printable line, and how often each was called in the report."""
    (project.directory / "raising.py").write_text(
        "import mxcheck\nfrom mxcheck.kernels.eager import quantize_eager\n"
        "def at_once(x, spec):\n    raise RuntimeError('\\x1b[31mbroken')\n"
        "@mxcheck.domain()\ndef later(x, spec):\n    CALLS.append(1)\n    assert len(CALLS) < 50, 'used up'\n"
        "    return quantize_eager(x, spec)\n"
        "CALLS = []\n"
    )
    xml = project.directory / "junit.xml"
    words = ("--mx-kernel=raising:at_once,raising:later", "-k", "many_calls", f"--junitxml={xml}")
    run = project.pytest(*SUITE, *words)
    assert run.code == 1, run.output
    assert "Traceback" not in run.output
    assert "\x1b" not in run.output
    name = "mxcheck: raising."
    assert f"{name}at_once, mxfp8_e4m3-floor: RuntimeError: \\x1b[31mbroken\n" in run.output
    told = "call 49 of 6,000 with the same numbers ends in an error: AssertionError: used up"
    assert f"{name}later, mxfp8_e4m3-floor: fake_quantize: {told}\n" in run.output
    assert re.findall(r'name="mx_calls" value="(\d+)"', xml.read_text(encoding="utf-8")) == ["1", "1"]


def test_a_kernel_beside_a_test_file(kernels: Project) -> None:
    """pytest makes it importable while it collects, not before."""
    folder = kernels.directory / "checks" / "casts"
    folder.mkdir(parents=True)
    (kernels.directory / "my_casts.py").rename(folder / "casts_of_mine.py")
    (folder / "test_it.py").write_text("from mxcheck.suite.kernels.test_casts import *\n")
    run = kernels.pytest("checks", "--mx-kernel", "casts_of_mine:quantize", "-k", "mxfp8_e4m3-floor")
    assert run.code == 0, run.output
    assert re.search(r" casts_of_mine.quantize +fp8_e4m3 +exact", run.output), run.output


def test_report_goes_into_a_directory(project: Project) -> None:
    (project.directory / "taken").write_text("")
    for name in ("taken", "taken/reports"):
        line = usage_error(project.pytest(*SUITE, "--mx-kernel", "eager", "--mx-report", name))
        assert (
            f"--mx-report={name}: {project.directory / 'taken'} is not a directory; name a directory" in line
        )


def test_no_cuda(project: Project) -> None:
    words = ("--mx-kernel", "eager", "--mx-device", "cuda")
    line = usage_error(project.pytest(*SUITE, *words, CUDA_VISIBLE_DEVICES=""))
    assert line.endswith("--mx-device=cuda: no CUDA device here; use --mx-device=cpu or auto")


def test_a_kernel_that_changes_its_input(kernels: Project) -> None:
    run = kernels.pytest(*SUITE, "--mx-kernel", "bad_casts:changes,eager", "-k", FLOOR)
    assert "1 failed, 1 passed" in run.output
    assert_one_error(run, "changes", "it changed its input")


# The same options in a model run

MODEL = ("--mx-models", "ref-llama", "--mx-tier", "A", "--mx-max-samples", "2")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (
            "refuses",
            "does not cast weights of model.layers.0.mlp.gate_proj, float32 [344, 128] along axis -1: no f",
        ),
        ("raises", "raised RuntimeError: no kernel image is available"),
    ],
)
def test_a_kernel_that_no_model_can_run_with(kernels: Project, name: str, line: str) -> None:
    run = kernels.gate(*MODEL, "--mx-precision", "mxfp8_e4m3", "--mx-kernel", f"bad_casts:{name}")
    case = "ref-llama-mxfp8_e4m3-A+samples2"
    assert (run.code, run.verdicts()) == (1, {case: "ERROR"}), run.output
    assert f"\n{case}: kernel bad_casts:{name} {line}" in run.output
    assert "Traceback" not in run.output


def test_a_model_runs_with_one_kernel(project: Project) -> None:
    line = collection_error(project.gate(*MODEL, "--mx-kernel", "eager,gfloat"))
    assert line == "mxcheck: a model runs with one --mx-kernel, got eager, gfloat; name one"


def test_rule_and_rounding_are_part_of_the_name(project: Project) -> None:
    words = (*MODEL, "--mx-precision", "mxfp8_e4m3", "--mx-scale-rule", "rceil", "--mx-rounding", "away")
    run = project.gate(*words, "--snapshot-update")
    name = "mxfp8_e4m3-A+rceil+away+samples2"
    assert (run.code, run.verdicts()) == (0, {f"ref-llama-{name}": "accepted"}), run.output
    assert list(project.files()) == [f"ref-llama/{name}.json"]
    recipe = json.loads(project.files()[f"ref-llama/{name}.json"])["recipe"]
    weights = recipe["roles"]["mlp"]["weights"]
    assert (weights["scale_rule"], weights["rounding"]) == ("rceil", "away")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ("--mx-scale-rule", "even"),
            "mxint8 has no such rule, only floor, ceil, rceil; narrow the run with --mx-format=fp8_e4m3,",
        ),
        (
            ("--mx-rounding", "stochastic"),
            "only the kernel suite has random integers for it; allowed: even, away, zero",
        ),
        (("--mx-kernel", "eagre"), "unknown kernel 'eagre'; allowed: auto, eager, "),
    ],
)
def test_options_of_a_model_run(project: Project, arguments: tuple[str, ...], line: str) -> None:
    assert line in usage_error(project.gate(*arguments))


def test_values_in_the_last_bit_are_green_and_counted(kernels: Project) -> None:
    """NVFP4 by values, whose codes are right."""
    run = kernels.pytest(*SUITE, "--mx-kernel", "my_casts:nvfp4_values", "-k", "test_conformance and nvfp4")
    assert run.code == 0, run.output
    assert re.search(r" my_casts.nvfp4_values +nvfp4 +last bit\n", run.output), run.output
    told = " ".join(run.output.split())
    assert re.search(r"in the last bit, my_casts.nvfp4_values: nvfp4 [\d,]+ of [\d,]+ values", told), told
