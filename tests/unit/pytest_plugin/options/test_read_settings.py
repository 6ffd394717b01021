"""The settings of a run: every option lands where it belongs, and what cannot be is refused before a run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mxcheck.evaluation.metrics import metric
from mxcheck.run.measurement_settings import Measuring
from mxcheck.run.settings import Settings

Lay = Callable[..., Settings]


def test_defaults(lay: Lay, pytester: pytest.Pytester) -> None:
    settings = lay()
    assert settings.corpus.is_self
    assert (settings.scale_rule, settings.rounding, settings.block_size) == ("floor", "even", 32)
    assert (settings.max_samples, settings.sequence_length, settings.batch_size) == (1000, None, None)
    assert (settings.kernels, settings.kernel, settings.level) == ((), "auto", "quick")
    assert (settings.dtype, settings.device, settings.bounds) == (None, "auto", None)
    assert settings.baselines == pytester.path / "baselines"
    assert settings.report is None
    assert (settings.trusted, settings.metrics) == ((), ())
    assert not settings.recentre
    assert not settings.debug


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        (("--mx-scale-rule", "rceil"), "scale_rule", "rceil"),
        (("--mx-rounding", "zero"), "rounding", "zero"),
        (("--mx-block-size", "128"), "block_size", 128),
        (("--mx-max-samples", "7"), "max_samples", 7),
        (("--mx-sequence-length", "9"), "sequence_length", 9),
        (("--mx-batch-size", "3"), "batch_size", 3),
        (("--mx-reference-cache", "0"), "reference_cache", 0),
        (("--mx-reference-cache", "2048"), "reference_cache", 2048),
        (("--mx-dtype", "bf16"), "dtype", "bfloat16"),
        (("--mx-dtype", "fp16"), "dtype", "float16"),
        (("--mx-dtype", "fp32"), "dtype", "float32"),
        (("--mx-kernel", "auto"), "kernel", "auto"),
        (("--mx-level", "full"), "level", "full"),
        (("--mx-device", "cpu"), "device", "cpu"),
        (("--mx-metrics", "a:b,c:d"), "metrics", ("a:b", "c:d")),
        (("--mx-recentre",), "recentre", True),
        (("--mx-debug",), "debug", True),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_each_option_and_its_ini_key(lay: Lay, words: tuple[str, ...], field: str, value: object) -> None:
    assert getattr(lay(*words), field) == value
    if len(words) == 2:
        key = words[0].removeprefix("--").replace("-", "_")
        assert getattr(lay(ini=f"{key} = {words[1]}\n"), field) == value


def test_folders_start_at_the_root(lay: Lay, pytester: pytest.Pytester) -> None:
    settings = lay("--mx-baselines", "accepted", "--mx-report", "out/deep")
    assert settings.baselines == pytester.path / "accepted"
    assert settings.report == pytester.path / "out" / "deep"
    assert not settings.report.exists()


def test_reading_options_loads_no_library(pytester: pytest.Pytester) -> None:
    """In a process of its own, with every option whose names a library has."""
    pytester.makeini("[pytest]\n")
    done = pytester.run(
        sys.executable, "-c",
        "import sys, pytest\n"
        "from mxcheck.pytest_plugin.options.read_settings import read_settings\n"
        "class Spy:\n"
        "    def pytest_collection(self, session):\n"
        "        settings = read_settings(session.config)\n"
        "        heavy = ('torch', 'numpy', 'datasets', 'transformers', 'bitsandbytes')\n"
        "        print('READ', len(settings.cases), [name for name in heavy if name in sys.modules])\n"
        "pytest.main([*sys.argv[1:], '-p', 'no:cacheprovider', '-s'], plugins=[Spy()])\n",
        "--mx-preset", "full", "--mx-models", "ref-llama,tinystories-33M", "--mx-datasets", "pile,wikitext",
        "--mx-metrics", "my:metric", "--mx-dtype", "bf16", "--mx-global", "bf16",
    )  # fmt: skip
    (line,) = [line for line in done.outlines if line.startswith("READ")]
    assert line.endswith(" []")
    assert int(line.split()[1]) > 76


# Models


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("ref-moe", "ref-moe"),
        ("tinystories-33M", "tinystories-33M"),
        ("some/model", "some--model"),
        ("roneneldan/TinyStories-33M", "roneneldan--TinyStories-33M"),
    ],
)
def test_labels(lay: Lay, name: str, label: str) -> None:
    assert lay("--mx-models", name).models == {label: name}


@pytest.mark.parametrize(
    "names",
    ["./one/same,./two/same", "./ref-llama,ref-llama", "./ref-llama", "./some--model,some/model"],
)
def test_two_models_of_one_label(
    lay: Lay, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, names: str
) -> None:
    for folder in ("one/same", "two/same", "ref-llama", "some--model"):
        (pytester.path / folder).mkdir(parents=True)
    monkeypatch.chdir(pytester.path)
    with pytest.raises(pytest.UsageError, match=r"mxcheck: --mx-models: .*; rename one"):
        lay("--mx-models", names)


def test_trusted_are_labels_of_models_of_the_run(lay: Lay) -> None:
    settings = lay("--mx-models", "some/model,ref-neo", "--mx-trust-remote-code", "some/model")
    assert settings.trusted == ("some--model",)
    with pytest.raises(
        pytest.UsageError, match="unknown --mx-trust-remote-code 'another/model'; allowed: some"
    ):
        lay("--mx-models", "some/model", "--mx-trust-remote-code", "another/model")


# Text


def test_a_local_text_starts_at_the_root(lay: Lay, pytester: pytest.Pytester) -> None:
    (pytester.path / "mine.txt").write_text("text")
    settings = lay("--mx-datasets", "./mine.txt", "--mx-precision", "fp32")
    assert [case.id for case in settings.cases] == ["ref-llama-fp32+mine.txt"]
    assert not settings.corpus.is_self
    with pytest.raises(pytest.UsageError, match=r"mxcheck: corpus file './yours.txt' does not exist"):
        lay("--mx-datasets", "./yours.txt")


# Metrics


def test_a_metric_of_a_conftest_is_known_by_its_name(lay: Lay) -> None:
    @metric("settings_test_metric")
    def ours(log_p: object, targets: object, reference_log_p: object) -> object:
        raise AssertionError((log_p, targets, reference_log_p))

    assert lay("--mx-metrics", "settings_test_metric").metrics == ("settings_test_metric",)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("nothing", "unknown metric 'nothing'; allowed: "),
        ("a:kl", "a metric's name must be none of bit_equal, "),
        ("a:surprise,b:surprise", "another is called 'surprise' already"),
    ],
)
def test_metrics_that_are_refused(lay: Lay, names: str, words: str) -> None:
    with pytest.raises(pytest.UsageError, match=f"mxcheck: .*{words}"):
        lay("--mx-metrics", names)


# Files


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "does not exist"),
        ("[default]\nfp8_e4m3-Z = { kl = 1 }\n", "unknown precision in [default] 'fp8_e4m3-Z'"),
        ("[default]\nfp8_e4m3-A = 1\n", "'fp8_e4m3-A' is 1; allowed"),
    ],
    ids=["absent", "case_name", "entry"],
)
def test_a_bad_bounds_file(lay: Lay, pytester: pytest.Pytester, text: str | None, words: str) -> None:
    if text is not None:
        (pytester.path / "mine.toml").write_text(text)
    with pytest.raises(pytest.UsageError) as caught:
        lay("--mx-bounds", "mine.toml")
    assert words in str(caught.value)


def test_a_report_folder_that_cannot_be(lay: Lay, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(pytest.UsageError, match=r"file is not a directory; name a directory"):
        lay("--mx-report", f"{tmp_path}/file/below")


def test_what_decides_a_record_is_all_of_it_handed_on(lay: Lay) -> None:
    settings = lay(
        *("--mx-max-samples", "7", "--mx-sequence-length", "9", "--mx-batch-size", "3", "--mx-dtype", "bf16"),
        *("--mx-device", "cpu", "--mx-datasets", "prose", "--mx-trust-remote-code", "ref-llama"),
        *("--mx-kernel", "gfloat", "--mx-precision", "mxfp8_e4m3", "--mx-baselines", "theirs"),
        *("--mx-reference-cache", "1"),
        *("--mx-memory", "lean"),
    )
    default = Measuring()
    for name in Measuring.__slots__:
        if name != "metrics":
            assert getattr(settings, name) != getattr(default, name), f"{name} is not held by this test"


def test_models_are_named_where_two_directories_have_one_name(lay: Lay, pytester: pytest.Pytester) -> None:
    for folder in ("a/final", "b/final", "my model"):
        (pytester.path / folder).mkdir(parents=True)
    with pytest.raises(pytest.UsageError, match=r"both 'final' .*; rename one, or give NAME=\./b/final"):
        lay("--mx-models", "./a/final,./b/final")
    settings = lay(
        "--mx-models", "./a/final,second=./b/final",
        "--mx-models", "third=my model",
        "--mx-trust-remote-code", "second",
        "--mx-trust-remote-code", "third=my model,./b/final",
    )  # fmt: skip
    assert dict(settings.models) == {"final": "./a/final", "second": "./b/final", "third": "my model"}
    assert {case.model for case in settings.cases} == {"final", "second", "third"}
    assert settings.trusted == ("second", "third")
    assert settings.name_of("third") == "my model"
    assert lay(ini="mx_models =\n    third=my model\n").models == {"third": "my model"}


@pytest.mark.parametrize(
    "words", ["x=./a,x=./b", "ref-llama=./a", "ref-llama,ref-llama=./a", "x=./none", "x="]
)
def test_names_that_do_not_tell_models_apart_are_refused(
    lay: Lay, pytester: pytest.Pytester, words: str
) -> None:
    for folder in ("a", "b"):
        (pytester.path / folder).mkdir()
    with pytest.raises(pytest.UsageError, match=r"^mxcheck: ") as caught:
        lay("--mx-models", words)
    assert "\n" not in str(caught.value)
