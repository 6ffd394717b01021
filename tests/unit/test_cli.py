"""`mxcheck …`: what the commands print and what they return."""

from __future__ import annotations

import math
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sample_record import build_record

import mxcheck
from mxcheck.cli import main
from mxcheck.files.write import write_text
from mxcheck.formats.notation import parse_values, reproduction
from mxcheck.formats.spec import cast_spec
from mxcheck.gate.baseline import encode
from mxcheck.gate.record import Record

FP8, BF16 = "ref-llama/fp8_e4m3-B.json", "ref-llama/bf16.json"
CHANGED = build_record(
    kl=0.25, sequence_kl=[0.25] * 4, sequence_losses=[2.25] * 4, cross_entropy=2.25, perplexity=math.exp(2.25)
)

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with two baselines; no terminal and no git of the machine's own."""
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS", "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    put("baselines", FP8, build_record())
    put("baselines", BF16, build_record(precision="bf16", tier=None))
    return tmp_path


def put(root: str, name: str, record: Record) -> Path:
    path = Path(root) / name
    write_text(path, encode(record))
    return path


def commit() -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "baselines"]):
        subprocess.run(["git", *identity, *words], check=True, capture_output=True)


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def refused(capsys: Capture, *arguments: str) -> str:
    """The one line on stderr of a command that ends with 2 and prints nothing else."""
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("mxcheck: ")
    assert captured.err.count("\n") == 1
    return captured.err


# list


def test_list(capsys: Capture) -> None:
    assert main(["baselines", "list"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert lines(captured.out) == [
        "baseline perplexity KL top-1 % modules noise (loss rms) accepted with",
        f"{BF16} 7.493 0.001000 98.75 2 1.0e-04 torch 2.9.0, AVX2",
        f"{FP8} 7.493 0.001000 98.75 2 1.0e-04 torch 2.9.0, AVX2",
    ]


def test_list_and_diff_look_at_records_alone(capsys: Capture) -> None:
    """What a model's layers start from lies beside them."""
    assert main(["baselines", "list"]) == 0
    before = capsys.readouterr().out
    commit()
    Path("baselines/ref-llama/states-0a1b2c3d.safetensors").write_bytes(b"states")
    assert main(["baselines", "list"]) == 0
    assert capsys.readouterr().out == before
    assert main(["baselines", "diff", "HEAD"]) == 0
    assert capsys.readouterr().out == "no differences\n"


def test_list_of_another_directory(capsys: Capture) -> None:
    put("other", FP8, CHANGED)
    assert main(["baselines", "list", "--baselines", "other"]) == 0
    assert lines(capsys.readouterr().out)[1:] == [f"{FP8} 9.488 0.250000 98.75 2 1.0e-04 torch 2.9.0, AVX2"]


def test_list_shows_what_cannot_be_read(capsys: Capture) -> None:
    Path("baselines", FP8).write_text("{")
    assert main(["baselines", "list"]) == 0
    output = capsys.readouterr().out
    assert "corrupt baseline" in output
    assert re.search(rf"^{BF16} +7\.493 ", output, re.MULTILINE)


@pytest.mark.parametrize("action", ["list", "prune", "diff"])
def test_a_directory_that_does_not_exist_is_refused(capsys: Capture, action: str) -> None:
    message = refused(capsys, "baselines", action, "--baselines", "absent")
    assert "baselines directory absent" in message
    assert "name one with --baselines" in message


# diff


@pytest.mark.parametrize(
    ("before", "after", "row"),
    [
        pytest.param("old", "baselines", "9.488 → 7.493 0.250000 → 0.001000", id="old-new"),
        pytest.param("baselines", "old", "7.493 → 9.488 0.001000 → 0.250000", id="new-old"),
    ],
)
def test_diff_of_two_directories(capsys: Capture, before: str, after: str, row: str) -> None:
    put("old", BF16, build_record(precision="bf16", tier=None))
    put("old", FP8, CHANGED)
    assert main(["baselines", "diff", before, after]) == 1
    captured = capsys.readouterr()
    assert captured.err == ""
    assert lines(captured.out) == [
        "baseline what perplexity KL loss rms digests",
        f"{FP8} figures {row} 2.5e-01",
    ]


def test_diff_of_equal_directories(capsys: Capture) -> None:
    assert main(["baselines", "diff", "baselines", "baselines"]) == 0
    assert capsys.readouterr().out == "no differences\n"


def test_diff_against_the_baselines_directory_that_was_named(capsys: Capture) -> None:
    put("old", FP8, build_record())
    put("new", FP8, build_record())
    assert main(["baselines", "diff", "old", "--baselines", "new"]) == 0
    assert main(["baselines", "diff", "old"]) == 1
    assert f"{BF16} added" in lines(capsys.readouterr().out)[2]


@pytest.mark.parametrize("revision", [[], ["HEAD"], ["HEAD", "baselines"]], ids=["default", "head", "both"])
def test_diff_of_a_git_revision(capsys: Capture, revision: list[str]) -> None:
    commit()
    assert main(["baselines", "diff", *revision]) == 0
    assert capsys.readouterr().out == "no differences\n"
    put("baselines", FP8, CHANGED)
    assert main(["baselines", "diff", *revision]) == 1
    assert lines(capsys.readouterr().out)[1:] == [f"{FP8} figures 7.493 → 9.488 0.001000 → 0.250000 2.5e-01"]


def test_diff_of_two_revisions(capsys: Capture) -> None:
    commit()
    Path("baselines", BF16).unlink()
    put("baselines", FP8, CHANGED)
    commit()
    put("baselines", FP8, build_record())  # the working tree is not asked
    assert main(["baselines", "diff", "HEAD~1", "HEAD"]) == 1
    assert [line.split()[:2] for line in lines(capsys.readouterr().out)[1:]] == [
        [BF16, "removed"],
        [FP8, "figures"],
    ]
    assert main(["baselines", "diff", "HEAD", "HEAD"]) == 0


@pytest.mark.parametrize("sides", [["absent"], ["HEAD", "absent"], ["baselines", "absent"]])
def test_diff_of_an_unknown_revision_is_refused(capsys: Capture, sides: list[str]) -> None:
    commit()
    message = refused(capsys, "baselines", "diff", *sides)
    assert (
        "'absent' is neither a directory nor a git revision with baselines at baselines: fatal: " in message
    )


def test_diff_without_a_repository_is_refused(capsys: Capture) -> None:
    assert "not a git repository" in refused(capsys, "baselines", "diff")


# prune

ORPHANS = (
    "ref-llama/fp8_e4m3-Z.json",
    "ref-llama/fp8_e4m3.json",
    "ref-llama/fp9-A@cuda-sm90.json",
    "ref-old/bf16.json",
    "ref-llama/states-0a1b2c3d.safetensors",
)


@pytest.fixture
def kept() -> set[Path]:
    """Files that belong to a case, with orphans beside them."""
    for name in ORPHANS:
        if name.endswith(".json"):
            put("baselines", name, build_record())
    override = put("baselines", "ref-llama/fp8_e4m3-B@cuda-sm90.json", build_record())
    tokens = Path("baselines/ref-llama/tokens.safetensors")
    tokens.write_bytes(b"tokens")
    # what layers start from: of the weights that the baselines name, and of none that they name
    states = Path("baselines/ref-llama/states-aaaaaaaa.safetensors")
    for one in (states, Path("baselines", ORPHANS[-1])):
        one.write_bytes(b"states")
    return {override, tokens, states, Path("baselines", FP8), Path("baselines", BF16)}


def files() -> set[Path]:
    return {path for path in Path("baselines").rglob("*") if path.is_file()}


def test_prune_finds_nothing(capsys: Capture) -> None:
    assert main(["baselines", "prune"]) == 0
    assert capsys.readouterr() == ("", "nothing to prune in baselines\n")


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
    assert "left as they are: my-model; name models of your own" in capsys.readouterr().err
    assert {path.name for path in Path("baselines").iterdir()} == {"ref-neo", "my-model"}


def test_it_says_which_release_it_is(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"mxcheck {mxcheck.__version__}\n"


def test_prune_names_orphans_and_deletes_nothing(capsys: Capture, kept: set[Path]) -> None:
    assert main(["baselines", "prune"]) == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [f"orphan: baselines/{name}" for name in ORPHANS]
    assert files() == kept | {Path("baselines", name) for name in ORPHANS}


@pytest.mark.usefixtures("kept")
def test_prune_keeps_what_options_and_recipes_of_one_s_own_made(capsys: Capture) -> None:
    """And models of one's own, as their tokens lie beside their baselines."""
    Path("pyproject.toml").write_text('[tool.mxcheck.recipes.w4a8]\nmlp = { weights = "fp4_e2m1" }\n')
    own = [
        "ref-llama/fp8_e4m3-B+attention+block16.json",
        "ref-llama/fp8_e4m3-linears.json",
        "ref-llama/w4a8.json",
        "my-model/fp8_e4m3-B.json",
    ]
    for name in own:
        put("baselines", name, build_record())
    Path("baselines/my-model/tokens.safetensors").write_bytes(b"tokens")
    assert main(["baselines", "prune"]) == 1
    assert capsys.readouterr().out.splitlines() == [f"orphan: baselines/{name}" for name in ORPHANS]


def test_prune_deletes_orphans_only(capsys: Capture, kept: set[Path]) -> None:
    assert main(["baselines", "prune", "--delete"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [f"deleted: baselines/{name}" for name in ORPHANS]
    assert captured.err == ""
    assert files() == kept
    assert main(["baselines", "prune"]) == 0


@pytest.mark.usefixtures("kept")
def test_prune_keeps_states_beside_a_baseline_that_cannot_be_read(capsys: Capture) -> None:
    """It may rest on them."""
    Path("baselines", FP8).write_bytes(b"\xff")
    assert main(["baselines", "prune"]) == 1
    assert "states" not in capsys.readouterr().out


def test_prune_deletes_an_orphan_that_cannot_be_read() -> None:
    orphan = put("baselines", "ref-llama/old.json", build_record())
    orphan.write_text(orphan.read_text()[:-40])  # its end is lost
    assert main(["baselines", "prune", "--delete"]) == 0
    assert not orphan.exists()


def test_prune_touches_nothing_that_was_never_a_baseline_and_nothing_behind_a_link(tmp_path: Path) -> None:
    theirs = [
        Path("baselines/package.json"),
        Path("baselines/ref-llama/notes.json"),
        Path("baselines/a/b/c.json"),
    ]
    other = tmp_path / "other"
    theirs += [other / "old.json", other / "states-00000000.safetensors"]
    for path in theirs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"name": "theirs"}')
    put(str(other), "old.json", build_record())
    Path("baselines/linked").symlink_to(other)
    Path("baselines/ref-llama/link.json").symlink_to(other / "old.json")
    assert main(["baselines", "prune", "--delete"]) == 0
    assert all(path.exists() for path in theirs)
    assert Path("baselines/ref-llama/link.json").is_symlink()


@pytest.mark.parametrize(
    ("models", "orphans"),
    [
        pytest.param("ref-llama,org/m", [], id="both"),
        pytest.param("ref-llama", ["org--m/bf16.json"], id="ours"),
        pytest.param("org/m", [BF16, FP8], id="theirs"),
    ],
)
def test_prune_of_other_models(capsys: Capture, models: str, orphans: list[str]) -> None:
    put("baselines", "org--m/bf16.json", build_record())
    assert main(["baselines", "prune", "--models", models]) == bool(orphans)
    assert capsys.readouterr().out.splitlines() == [f"orphan: baselines/{name}" for name in orphans]


@pytest.mark.parametrize("word", ["--output=precious", "--remote=elsewhere", "-o"])
def test_a_revision_is_no_option_of_git(word: str, capsys: Capture) -> None:
    """Such a name may come from a variable of CI. `git archive --output=FILE` would empty the file."""
    Path("precious").write_text("precious")
    assert main(["baselines", "diff", "--", word]) == 2
    assert Path("precious").read_text() == "precious"
    assert f"{word!r} is neither a directory nor a git revision" in capsys.readouterr().err


def test_what_prune_says_to_type_deletes_what_it_named(capsys: Capture) -> None:
    """Not the files of another directory, nor those of the models that this run counted as owned."""
    mine = put("my baselines", "org--m/bf16.json", build_record())
    orphan = put("my baselines", "org--m/old.json", build_record())
    assert main(["baselines", "prune", "--baselines", "my baselines", "--models", "org/m"]) == 1
    command = "mxcheck baselines prune --baselines 'my baselines' --models org/m --delete"
    assert capsys.readouterr().err == f"delete them with: {command}\n"
    typed = ["baselines", "prune", "--baselines", "my baselines", "--models", "org/m", "--delete"]
    assert main(typed) == 0
    assert mine.exists()
    assert not orphan.exists()


def test_prune_of_a_bad_model_name_is_refused_and_deletes_nothing(capsys: Capture, kept: set[Path]) -> None:
    before = files()
    message = refused(capsys, "baselines", "prune", "--delete", "--models", "ref-llama,two words")
    assert "'two words'" in message
    assert kept < before == files()


# formats


def test_formats(capsys: Capture) -> None:
    assert main(["formats"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    text = lines(captured.out)
    assert "fp8_e4m3 8: 1/4/3 7 8 448 2^-6 2^-9 … 7·2^-9 7F, FF - 254 107.2" in text
    assert "nvfp4 fp4_e2m1 e4m3 · fp32 16 elements 4.5 7.11 amax" in text
    assert "te reciprocal even element" in text


# explain

KERNELS = """
import torch
from mxcheck.kernels.api import resolve_kernel

def right(x, spec):
    return resolve_kernel("auto")[0](x, spec)

def values(x, spec):
    return resolve_kernel("auto")[1](x, spec)

def wrong(x, spec):
    codes, scales = right(x, spec)
    codes.view(-1)[1] ^= 1
    return codes, scales

def one_too_few(x, spec):
    return right(x, spec)[:1]

def fails(x, spec):
    raise ValueError("out of shared memory")

def unable(x, spec):
    raise NotImplementedError("no fp4 on this device")

def leaves(x, spec):
    raise SystemExit(0)

def skips(x, spec):
    import pytest
    pytest.skip("not here")

def requires_gradients(x, spec):
    codes, scales, *rest = right(x, spec)
    return codes, scales.requires_grad_() if scales.is_floating_point() else scales, *rest

def sparse(x, spec):
    return values(x, spec).to_sparse()

def in_place(x, spec):
    result = right(x, spec)
    x.zero_()
    return result
"""


@pytest.fixture
def kernels(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module with kernels, in the directory that the command runs in."""
    name = f"kernels_of_{project.name}"
    (project / f"{name}.py").write_text(KERNELS)
    monkeypatch.setattr("sys.path", [*sys.path])
    yield name
    sys.modules.pop(name, None)


def test_explain(capsys: Capture) -> None:
    assert main(["explain", "fp8_e4m3", "--values", "0.1", "3e5", "-inf"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "policy 'block'" in captured.out
    assert "2 -Inf ff800000 - any - NaN - - an Inf" in lines(captured.out)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--values", "-3e5", "-.5", "1"], "1 -0.5 bf000000 "),
        (["--hex", "3f8ccccd", "0*30", "0x40000000"], "31 2 40000000 "),
        (["--hex", "3f800000*6", "--shape", "3x2", "--axis", "-2"], "0,1 … 2,1 1 3f800000 "),
        (["--values", "0.1", "--dtype", "bfloat16"], "0 0.100097656 3dcd0000 "),
        (["--values", "1", "--block-size", "16"], "block 0 of 1: element [0], filled up with 15 zeros"),
        (["--values", "500", "--scale-rule", "rceil"], "rceil s = least with amax ≤ max · 2^s = 1 "),
        (
            ["--values", "500", "--dialect", "te"],
            "fp8_e4m3; blocks of 32 with E8M0 scales; scale rule reciprocal; ",
        ),
        (["--values", "1", "--nonfinite", "element"], "NaN/Inf policy element"),
        (["--values", "272", "--rounding", "away"], "tie, away from zero"),
        (["--values", "272", "--rounding", "stochastic", "--random", "5"], "down: 0.5 + 1.164e-09 < 1"),
    ],
)
def test_options_of_explain(capsys: Capture, arguments: list[str], expected: str) -> None:
    assert main(["explain", "fp8_e4m3", *arguments]) == 0
    assert expected in "\n".join(lines(capsys.readouterr().out))


@pytest.mark.parametrize("function", ["right", "values", "requires_gradients"])
@pytest.mark.parametrize("format", ["fp8_e4m3", "nvfp4", "e5m2_row", "e4m3_tensor", "mxint8"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_right_kernel(capsys: Capture, kernels: str, function: str, format: str, dtype: str) -> None:
    words = ["--hex", "3f800000", "c0400000*40", "0*3", "80000000", "--shape", "5x9", "--axis", "0"]
    assert main(["explain", format, *words, "--dtype", dtype, "--kernel", f"{kernels}:{function}"]) == 0
    assert f"kernel {kernels}:{function}: every bit is right" in capsys.readouterr().out


def test_a_kernel_gets_the_random_integers(capsys: Capture) -> None:
    words = ["--values", "272", "272", "--rounding", "stochastic", "--random", "4294967295", "0"]
    assert main(["explain", "fp8_e4m3", *words, "--kernel", "eager"]) == 0
    assert "every bit is right (2 codes and 1 scales)" in capsys.readouterr().out


def test_a_wrong_kernel(capsys: Capture, kernels: str) -> None:
    assert main(["explain", "fp8_e4m3", "--values", "448", "1", "--kernel", f"{kernels}:wrong"]) == 1
    text = lines(capsys.readouterr().out)
    assert "1 1 3f800000 1 38 0|0111|000 1 1 0 0 ≠ 39 0|0111|001 1.125" in text
    assert text[-1] == f"kernel {kernels}:wrong: 1 of 2 codes and 0 of 1 scales differ"


def test_what_a_failure_prints_shows_the_failure(capsys: Capture, kernels: str) -> None:
    x = parse_values(["1", "2"])
    words = shlex.split(reproduction(x, cast_spec("fp4_e2m1"), kernel=f"{kernels}:wrong"))
    assert main(words[1:]) == 1
    assert "1 of 2 codes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("one_too_few", "got 1 tensors"),
        ("fails", "raised ValueError"),
        ("leaves", "raised SystemExit"),
        ("skips", "raised Skipped"),
        ("sparse", "return a torch.Tensor: its own numbers, or what it stands for"),
        ("in_place", "it changed its input"),
    ],
)
def test_a_kernel_without_a_result(capsys: Capture, kernels: str, function: str, message: str) -> None:
    assert main(["explain", "fp8_e4m3", "--values", "1", "--kernel", f"{kernels}:{function}"]) == 1
    captured = capsys.readouterr()
    assert "0 1 3f800000 256 78 0|1111|000 256 1 0 0" in lines(captured.out)  # what it had to be
    assert captured.err.splitlines()[-1].startswith(f"kernel {kernels}:{function}: ")
    assert captured.err.rstrip().endswith(message)
    assert ("out of shared memory" in captured.err) == (function == "fails")


@pytest.mark.parametrize("raised", ["SystemExit(0)", "OSError('libcuda.so')"])
def test_a_module_that_raises(capsys: Capture, project: Path, kernels: str, raised: str) -> None:
    (project / f"{kernels}.py").write_text(f"raise {raised}\n")
    assert main(["explain", "fp8_e4m3", "--values", "1", "--kernel", f"{kernels}:f"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    name = raised.partition("(")[0]
    assert last == f"kernel {kernels}:f: cannot be loaded: its module raised {name}"


def test_a_kernel_that_says_what_it_does_not_do(capsys: Capture, kernels: str) -> None:
    message = refused(capsys, "explain", "fp4_e2m1", "--values", "1", "--kernel", f"{kernels}:unable")
    assert "does not do this: no fp4 on this device" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fp8_e4m4", "--values", "1"], "did you mean 'fp8_e4m3'?"),
        (["fp8_e4m3", "--values", "x"], "'x' is not a number; allowed: "),
        (["fp8_e4m3", "--hex", "3f8000000"], "'3f8000000' is no bit pattern; allowed: "),
        (["fp8_e4m3", "--values", "1", "--dtype", "f16"], "did you mean 'float16'?"),
        (["fp8_e4m3", "--values", "1", "2", "--shape", "3x1"], "has 3 elements, got 2 values"),
        (["fp8_e4m3", "--values", "1", "--axis", "1"], "axis 1 is out of range"),
        (["fp8_e4m3", "--values", "1", "--block-size", "0"], "block size must be at least 1, got 0"),
        (["fp8_e4m3", "--values", "1", "--tail", "error"], "tail='pad' would fill"),
        (["fp8_e4m3", "--values", "1", "--rounding", "stochastic"], "takes --random with an integer"),
        (["fp8_e4m3", "--values", "1", "--random", "1"], "--random is for --rounding stochastic"),
        (
            ["fp8_e4m3", "--values", "1", "--rounding", "stochastic", "--random", "-1"],
            "mxcheck: '-1' is no random integer",
        ),
        (["fp8_e4m3", "--hex", "-1"], "mxcheck: '-1' is no bit pattern"),
        (["fp8_e4m3", "--values", "1", "--shape", "-1"], "mxcheck: '-1' is no shape"),
        (
            ["fp8_e4m3", "--values", "1", "--dialect", "te", "--scale-rule", "ceil"],
            "--dialect te says --scale-rule already",
        ),
        (["fp8_e4m3", "--values", "1", "--dialect", "tee"], "did you mean 'te'?"),
        (["nvfp4", "--values", "1", "--scale-rule", "ceil"], "allowed: amax"),
        (["fp8_e4m3", "--values", "1", "--kernel", "absent_module:f"], "no module 'absent_module'"),
    ],
)
def test_what_explain_refuses(capsys: Capture, arguments: list[str], message: str) -> None:
    assert message in refused(capsys, "explain", *arguments)


# the command itself


@pytest.mark.parametrize(
    "arguments",
    [
        *([], ["baselines"], ["unknown"], ["baselines", "list", "--absent"]),
        *(["explain", "fp8_e4m3"], ["explain", "fp8_e4m3", "--values", "1", "--hex", "1"]),
    ],
    ids=["nothing", "no-action", "unknown", "unknown-option", "no-values", "two-kinds-of-values"],
)
def test_bad_usage_ends_with_2(capsys: Capture, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: mxcheck" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["formats"], ["explain", "fp4_e2m1", "--values", "1"]], ids=lambda w: w[0]
)
def test_no_command_of_formats_loads_torch(arguments: list[str]) -> None:
    program = (
        f"import sys; from mxcheck.cli import main; main({arguments}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_the_commands_are_a_module_that_runs() -> None:
    done = subprocess.run([sys.executable, "-m", "mxcheck.cli", "formats"], check=True, capture_output=True)
    assert "e8m0" in done.stdout.decode()
