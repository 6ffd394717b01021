"""The options: presets, who goes before whom, and one line for whatever is wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mxcheck.models.zoo.known_models import REFERENCE_MODELS
from mxcheck.pytest_plugin.options.mx_options import (
    LEAST,
    LISTS,
    MOST,
    PRESETS,
    VALUES,
    Options,
    any_mx_option,
    own_options,
)
from mxcheck.run.default_gate import FEW_PRECISIONS
from mxcheck.run.settings import Settings

Configure = Callable[..., pytest.Config]
Lay = Callable[..., Settings]


LLAMA = ("--mx-models", "ref-llama")


def case_names(settings: Settings) -> list[str]:
    return list(dict.fromkeys(case.name for case in settings.cases))


# Presets


def test_quick(lay: Lay) -> None:
    settings = lay("--mx-preset", "quick")
    assert case_names(settings) == ["fp32", "bf16", "mxfp8_e4m3-B", "mxfp4_e2m1-B"]
    assert tuple(settings.models) == REFERENCE_MODELS


def test_medium_is_the_default_in_two_tiers(lay: Lay) -> None:
    assert case_names(lay(*LLAMA, "--mx-preset", "medium")) == case_names(lay("--mx-tier", "A,B"))
    assert len(case_names(lay("--mx-preset", "medium"))) > len(case_names(lay()))


def test_full_has_every_precision(lay: Lay) -> None:
    everything = ("--mx-precision", "all", "--mx-tier", "all")
    assert case_names(lay(*LLAMA, "--mx-preset", "full")) == case_names(lay(*everything))


def test_large_is_the_zoo_on_a_corpus(lay: Lay) -> None:
    """Eight models, none of which has tokens of its own; nothing of them is loaded or looked up."""
    settings = lay("--mx-preset", "large")
    assert len(settings.models) == 8
    assert "deepseek-67b" in settings.models
    assert settings.corpus.label == "wikitext"
    assert len(settings.cases) == 8 * len(case_names(lay("--mx-precision", "all", "--mx-tier", "all")))
    assert {case.options for case in settings.cases} == {("wikitext",), ("rceil", "wikitext")}


@pytest.mark.parametrize("name", PRESETS)
def test_ours_are_well_formed(lay: Lay, name: str) -> None:
    assert lay("--mx-preset", name).cases


NIGHTLY = """mx_presets =
    nightly: --mx-precision=bf16 --mx-precision=mxint8 --mx-tier=A,B --mx-attention --mx-batch-size=3
    quick: --mx-precision=fp32
"""


def test_a_preset_of_the_ini_file(lay: Lay) -> None:
    settings = lay("--mx-preset", "nightly", ini=NIGHTLY)
    assert case_names(settings) == ["bf16", "mxint8-A+attention", "mxint8-B+attention"]
    assert settings.batch_size == 3


def test_a_preset_of_the_ini_file_goes_before_ours(lay: Lay) -> None:
    assert case_names(lay("--mx-preset", "quick", ini=NIGHTLY)) == ["fp32"]


def test_the_ini_file_may_choose_the_preset(lay: Lay) -> None:
    assert case_names(lay(ini=NIGHTLY + "mx_preset = nightly\n"))[0] == "bf16"
    # and the command line another one
    assert case_names(lay("--mx-preset", "quick", ini=NIGHTLY + "mx_preset = nightly\n")) == ["fp32"]


def test_words_of_a_preset_may_be_quoted(configure: Configure) -> None:
    config = configure("--mx-preset", "x", ini="mx_presets =\n    x: --mx-datasets='my text.txt'\n")
    assert Options(config).names("datasets") == ["my text.txt"]


# Command line before preset before ini file

INI = "mx_presets =\n    p: --mx-precision=bf16 --mx-rounding=away --mx-attention\n"


@pytest.mark.parametrize(
    ("words", "ini", "expected"),
    [
        pytest.param((), "", [], id="nothing"),
        pytest.param((), "mx_precision = fp32\n", ["fp32"], id="ini"),
        pytest.param(("--mx-preset", "p"), "mx_precision = fp32\n", ["bf16"], id="preset"),
        pytest.param(
            ("--mx-preset", "p", "--mx-precision", "mxint8"), "mx_precision = fp32\n", ["mxint8"], id="typed"
        ),
    ],
)
def test_precedence_of_lists(
    configure: Configure, words: tuple[str, ...], ini: str, expected: list[str]
) -> None:
    assert Options(configure(*words, ini=INI + ini)).names("precision") == expected


@pytest.mark.parametrize(
    ("words", "ini", "expected"),
    [
        pytest.param((), "", "", id="nothing"),
        pytest.param((), "mx_rounding = zero\n", "zero", id="ini"),
        pytest.param(("--mx-preset", "p"), "mx_rounding = zero\n", "away", id="preset"),
        pytest.param(
            ("--mx-preset", "p", "--mx-rounding", "even"), "mx_rounding = zero\n", "even", id="typed"
        ),
    ],
)
def test_precedence_of_values(configure: Configure, words: tuple[str, ...], ini: str, expected: str) -> None:
    assert Options(configure(*words, ini=INI + ini)).value("rounding") == expected


@pytest.mark.parametrize(
    ("words", "ini"),
    [
        pytest.param(("--mx-budgets", "mine.toml"), "", id="typed"),
        pytest.param((), "mx_budgets = mine.toml\n", id="ini"),
        pytest.param(("--mx-preset", "q"), "    q: --mx-budgets=mine.toml\n", id="preset"),
    ],
)
def test_the_former_name_of_the_bounds_is_taken(
    configure: Configure, words: tuple[str, ...], ini: str
) -> None:
    assert Options(configure(*words, ini=INI + ini)).value("bounds") == "mine.toml"


@pytest.mark.parametrize(
    ("words", "expected"),
    [((), False), (("--mx-preset", "p"), True), (("--mx-attention",), True)],
    ids=["nothing", "preset", "typed"],
)
def test_flags(configure: Configure, words: tuple[str, ...], expected: bool) -> None:
    options = Options(configure(*words, ini=INI))
    assert options.flag("attention") is expected
    assert options.on_the_command_line("attention") is ("--mx-attention" in words)


def test_lists_repeat_and_take_commas_and_keep_each_name_once(configure: Configure) -> None:
    config = configure("--mx-precision", "bf16, mxint8", "--mx-precision", "mxint8,fp32")
    assert Options(config).names("precision") == ["bf16", "mxint8", "fp32"]


def test_lists_of_the_ini_file_are_lines_and_commas(configure: Configure) -> None:
    config = configure(ini="mx_precision =\n    bf16\n    mxint8,fp32\n")
    assert Options(config).names("precision") == ["bf16", "mxint8", "fp32"]


# What is wrong


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        pytest.param(
            "x --mx-tier=A", "mx_presets: a line is `name: options`, got 'x --mx-tier=A'", id="no-colon"
        ),
        pytest.param("x:", "mx_presets: a line is `name: options`, got 'x:'", id="no-options"),
        pytest.param(": --mx-tier=A", "got ': --mx-tier=A'", id="no-name"),
        pytest.param(
            "x: --mx-tiers A", "preset 'x': unknown option '--mx-tiers'; allowed: --mx-models", id="unknown"
        ),
        pytest.param("x: --mx-tiers A", "did you mean '--mx-tier'?", id="nearest"),
        pytest.param("x: --mx-preset=quick", "unknown option '--mx-preset'", id="preset-in-preset"),
        pytest.param("x: tier A", "unknown option 'tier'", id="no-dashes"),
        pytest.param("x: -k fp8", "unknown option '-k'", id="pytest-s-own"),
        pytest.param("x: --mx-tier", "preset 'x': --mx-tier has no value; write --mx-tier=VALUE", id="value"),
        pytest.param("x: --mx-tier=Z", "unknown --mx-tier 'Z'; allowed: A, B, C, D, all", id="bad-value"),
    ],
)
def test_a_preset_that_is_not_well_formed(lay: Lay, lines: str, error: str) -> None:
    with pytest.raises(pytest.UsageError) as caught:
        lay("--mx-preset", "x", ini=f"mx_presets =\n    {lines}\n")
    assert str(caught.value).startswith("mxcheck: ")
    assert error in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_preset_names_those_there_are(lay: Lay) -> None:
    with pytest.raises(pytest.UsageError) as caught:
        lay("--mx-preset", "nigthly", ini=NIGHTLY)
    assert str(caught.value) == (
        "mxcheck: unknown --mx-preset 'nigthly'; allowed: quick, medium, full, large, nightly; "
        "did you mean 'nightly'?"
    )


@pytest.mark.parametrize("text", ["0", "-1", "2.5", "many", "²", "9" * 5000])
@pytest.mark.parametrize("name", MOST)
def test_numbers_are_whole_and_within_sense(lay: Lay, name: str, text: str) -> None:
    least = LEAST.get(name, 1)
    line = rf"--mx-{name} must be a whole number from {least} to {MOST[name]}, got '.{{1,40}}$"
    for got in (text if least or text != "0" else "00x", str(MOST[name] + 1)):
        with pytest.raises(pytest.UsageError, match=line):
            lay(f"--mx-{name}={got}")


@pytest.mark.parametrize("name", [*LISTS, *VALUES])
def test_an_empty_value_chooses_nothing(lay: Lay, name: str) -> None:
    """A variable that is not set is empty: of a CI, it would halve the gate without a word."""
    key = f"mx_{name.replace('-', '_')}"
    for words, ini, what in (
        ((f"--mx-{name}=",), "", f"--mx-{name}"),
        ((f"--mx-{name}= ",), "", f"--mx-{name}"),
        ((), f"{key} =\n", f"the ini key {key}"),
        (("-o", f"{key}="), f"{key} = x\n", f"the ini key {key}"),
    ):
        with pytest.raises(
            pytest.UsageError, match=rf"^mxcheck: {what} has an empty value, got ' ?'; give one"
        ):
            lay(*words, ini=ini)


@pytest.mark.parametrize("text", [",", "a,", ",a", "a,,b", "a, ,b"])
def test_an_empty_name_of_a_list_is_refused(lay: Lay, text: str) -> None:
    with pytest.raises(pytest.UsageError, match=rf"--mx-models has an empty value, got '{text}'"):
        lay(f"--mx-models={text}")
    with pytest.raises(pytest.UsageError, match=r"--mx-models of the preset has an empty value"):
        lay("--mx-preset=p", ini=f"mx_presets =\n    p: '--mx-models={text}'\n")


def test_what_is_no_list_may_have_commas(lay: Lay) -> None:
    assert lay("--mx-baselines=a,,b").baselines.name == "a,,b"


@pytest.mark.parametrize(
    ("words", "ini", "error"),
    [
        (
            ("--mx-precision", "fp8_e4m2"),
            "",
            "unknown --mx-precision 'fp8_e4m2'; allowed: fp32, bf16, bf16_operands",
        ),
        (("--mx-format", "nvfp"), "", "unknown --mx-format 'nvfp'; allowed: fp8_e4m3, fp8_e5m2"),
        (("--mx-skip", "fp32"), "", "unknown --mx-skip 'fp32'; allowed: bf16, bf16_operands, fp8_tensor, mx"),
        (("--mx-tier", "E"), "", "unknown --mx-tier 'E'; allowed: A, B, C, D, all"),
        (("--mx-tier", "linears"), "", "unknown --mx-tier 'linears'"),
        (("--mx-global", "nvfp4"), "", "unknown --mx-global 'nvfp4'; allowed: bf16, fp8_e4m3"),
        (
            ("--mx-mlp-only", "--mx-tier", "B"),
            "",
            "--mx-mlp-only takes the place of a tier, got --mx-tier=B too; drop one",
        ),
        (
            ("--mx-all-linears", "--mx-tier", "A,B"),
            "",
            "--mx-all-linears takes the place of a tier, got --mx-tier=A,B too; drop one",
        ),
        (
            ("--mx-precision", "mxint8", "--mx-tier", "C"),
            "",
            "--mx-precision=mxint8 has no tier C: tiers C, D fix their formats",
        ),
        (("--mx-precision", "mixed", "--mx-tier", "A"), "", "--mx-precision=mixed has no tier A"),
        (("--mx-precision", "mixed", "--mx-mlp-only"), "", "--mx-precision=mixed has no tier A"),
        (
            ("--mx-precision", "bf16", "--mx-skip", "bf16"),
            "",
            "no precision is left: --mx-precision=bf16, --mx-format=all, --mx-skip=bf16; drop one of them",
        ),
        (
            ("--mx-format", "mxint8", "--mx-precision", "mxfp8_e4m3"),
            "",
            "--mx-format=mxint8, --mx-skip=nothing",
        ),
        (
            ("--mx-scale-rule", "amax"),
            "",
            "unknown --mx-scale-rule 'amax'; allowed: floor, ceil, even, rceil",
        ),
        (("--mx-rounding", "stochastic"), "", "only the kernel suite has random integers for it"),
        (("--mx-rounding", "odd"), "", "unknown --mx-rounding 'odd'; allowed: even, away, zero"),
        (("--mx-block-size", "48"), "", "unknown --mx-block-size '48'; allowed: 16, 32, 64, 128"),
        (("--mx-dtype", "float32"), "", "unknown --mx-dtype 'float32'; allowed: fp32, bf16, fp16"),
        (("--mx-level", "deep"), "", "unknown --mx-level 'deep'"),
        (("--mx-device", "gpu"), "", "unknown --mx-device 'gpu'; allowed: auto, cpu, cuda"),
        (("--mx-datasets", "pil"), "", "unknown corpus 'pil'"),
        (("--mx-datasets", "self,pile"), "", "corpus 'self' goes with no other"),
        (("--mx-metrics", "surprise"), "", "unknown metric 'surprise'"),
        (
            ("--mx-trust-remote-code", "ref-neo"),
            "",
            "unknown --mx-trust-remote-code 'ref-neo'; allowed: ref-llama",
        ),
        (
            ("--mx-weights-only", "--mx-attention"),
            "",
            "weights_only leaves activations as they are; attention, outputs and global casts change some",
        ),
        (
            ("--mx-scale-rule", "even"),
            "",
            "mxint8 has no such rule, only floor, ceil, rceil; narrow the run with --mx-format=fp8_e4m3,",
        ),
        ((), "mx_tier = E\n", "unknown --mx-tier 'E'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_errors(lay: Lay, words: tuple[str, ...], ini: str, error: str) -> None:
    with pytest.raises(pytest.UsageError) as caught:
        lay(*words, ini=ini)
    assert str(caught.value).startswith("mxcheck: ")
    assert error in str(caught.value)
    assert "\n" not in str(caught.value)


# Whether a run is about us, and what it would be typed as


@pytest.mark.parametrize(
    ("words", "ini", "expected"),
    [
        ((), "", False),
        ((), "mx_presets =\n    x: --mx-tier=A\n", False),
        (("--mx-tier", "A"), "", True),
        (("--mx-attention",), "", True),
        (("--no-mx",), "", True),
        (("--mx-preset", "quick"), "", True),
        ((), "mx_preset = quick\n", True),
        ((), "mx_tier = A\n", True),
    ],
    ids=lambda value: "".join(value) if isinstance(value, str | tuple) else "",
)
def test_a_run_is_about_us_where_it_says_so(
    configure: Configure, words: tuple[str, ...], ini: str, expected: bool
) -> None:
    assert any_mx_option(configure(*words, ini=ini)) is expected


@pytest.mark.parametrize(
    ("typed", "ours"),
    [
        (["-k", "x", "--mx-tier", "A", "-n", "2"], ["--mx-tier=A"]),
        (["--mx-tier=A", "tests", "--mx-attention", "tests/models"], ["--mx-tier=A", "--mx-attention"]),
        (["--no-mx", "x", "--mx-preset", "full"], ["--no-mx", "--mx-preset=full"]),
        (["-o", "mx_datasets=prose", "-o", "addopts="], ["-o", "mx_datasets=prose"]),
        (["--mx-recentre", "--mx-debug", "--mx-weights-only", "x"], ["--mx-weights-only"]),
    ],
    ids=lambda words: words[0],
)
def test_own_options(typed: list[str], ours: list[str]) -> None:
    assert own_options(typed) == ours


# Models of few cases


def test_a_run_without_a_case_of_a_model_leaves_it_out(lay: Lay) -> None:
    assert not FEW_PRECISIONS.keys() & set(lay("--mx-precision", "mxint8").models)


def test_a_model_that_is_named_needs_one(lay: Lay) -> None:
    words = (
        r"--mx-models=wide-gpt2: this model has only cases of fp32 and mxfp8_e4m3 in tier B, and the run has"
    )
    with pytest.raises(pytest.UsageError, match=words):
        lay("--mx-models", "ref-llama,wide-gpt2", "--mx-precision", "mxint8")


def test_options_beside_the_ladder_are_gone_where_the_run_has_options_of_its_own(lay: Lay) -> None:
    whole = {case.name for case in lay("--mx-models", "wide-gpt2").cases}
    assert whole == {"fp32", "mxfp8_e4m3-B", "mxfp8_e4m3-B+attention"}
    ceil = {case.name for case in lay("--mx-models", "wide-gpt2", "--mx-scale-rule", "ceil").cases}
    assert ceil == {"fp32", "mxfp8_e4m3-B+ceil"}


# The field's names of formats


def test_lists_of_formats_take_the_names_of_the_field(configure: Configure, lay: Lay) -> None:
    """On the command line, in a preset and in the ini file; a name and its alias are one."""
    assert case_names(lay(*LLAMA, "--mx-precision", "mxfp8,mxfp8_e4m3,mxfp4")) == [
        "mxfp8_e4m3-B",
        "mxfp4_e2m1-B",
    ]
    ini = "mx_presets =\n    p: --mx-precision=mxfp6_e2m3\n"
    assert case_names(lay(*LLAMA, "--mx-preset", "p", ini=ini)) == ["mxfp6_e2m3-B"]
    assert Options(configure(ini="mx_format = mxfp8_e5m2\n")).names("format") == ["fp8_e5m2"]
    named = ("--mx-precision=mxfp8_e4m3", "--mx-global=mxfp4")
    assert [case.options for case in lay(*LLAMA, *named).cases] == [(), ("global-e2m1",)]
    assert Options(configure("--mx-kernel", "mxfp8")).names("kernel") == ["mxfp8"]  # no list of formats
    with pytest.raises(pytest.UsageError, match="--mx-precision 'mxfp6' may be mxfp6_e3m2 or mxfp6_e2m3"):
        lay(*LLAMA, "--mx-precision=mxfp6")
