"""Bounds: which table wins, and what a bad file says."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from mxcheck.gate.bounds_tables import Bounds, BoundsTables, load_bounds, read_bounds
from mxcheck.gate.case import Case, case_of
from mxcheck.models.recipes.ladder import with_tiers
from mxcheck.run.default_gate import WHOLE_LADDER

OUR_FILE = "mxcheck's own table, mxcheck/gate/bounds.toml"
OURS = {
    "default": {"bf16": {"kl": 1, "rise": 10}, "mxfp8_e4m3-A": {"kl": 2, "rise": 20}},
    "models": {"ref-moe": {"bf16": {"kl": 3, "rise": 30}}},
}
THEIRS = {
    "default": {"bf16": {"kl": 4, "rise": 40}},
    "models": {"ref-neo": {"bf16": {"kl": 5, "rise": 50}}},
}


@pytest.mark.parametrize(
    ("model", "case_name", "kl"),
    [
        pytest.param("ref-neo", "bf16", 5, id="their-model"),
        pytest.param("ref-llama", "bf16", 4, id="their-default"),
        pytest.param("ref-moe", "bf16", 4, id="their-default-before-our-model"),
        pytest.param("ref-neo", "mxfp8_e4m3-A", 2, id="our-default"),
    ],
)
def test_a_user_s_table_goes_first(model: str, case_name: str, kl: float) -> None:
    assert BoundsTables([THEIRS, OURS]).of(case_of(model, case_name)) == Bounds(kl=kl, rise=10 * kl)


@pytest.mark.parametrize(("model", "kl"), [("ref-moe", 3), ("ref-llama", 1)])
def test_a_model_s_entry_goes_before_the_common_one(model: str, kl: float) -> None:
    assert BoundsTables([OURS]).of(case_of(model, "bf16")) == Bounds(kl=kl, rise=10 * kl)


@pytest.mark.parametrize("tables", [pytest.param([], id="none"), pytest.param([THEIRS, OURS], id="both")])
def test_missing_bounds_name_case_name_and_model(tables: list[dict[str, object]]) -> None:
    with pytest.raises(ValueError, match=r"no bounds for mxfp6_e2m3-B of ref-neo; .*--snapshot-update"):
        BoundsTables(tables).of(case_of("ref-neo", "mxfp6_e2m3-B"))


#: A line for an option in each table, and more in the plain lines.
COSTLY_OURS = {
    "default": {"mxfp8_e4m3-A": {"kl": 1}, "mxfp8_e4m3-A+attention": {"kl": 2}},
    "models": {
        "ref-moe": {"mxfp8_e4m3-A": {"kl": 3}},
        "ref-neo": {"mxfp8_e4m3-A+global-bfloat16": {"kl": 4}},
    },
}
COSTLY_THEIRS = {"default": {"mxfp8_e4m3-A": {"kl": 5}}}


@pytest.mark.parametrize(
    ("tables", "model", "options", "kl"),
    [
        pytest.param([COSTLY_OURS], "ref-llama", (), 1, id="plain"),
        pytest.param([COSTLY_OURS], "ref-llama", ("attention",), 2, id="its-own-line"),
        pytest.param([COSTLY_OURS], "ref-llama", ("outputs",), 1, id="no-line-of-its-own"),
        pytest.param([COSTLY_OURS], "ref-llama", ("attention", "outputs"), 2, id="the-largest-of-fewer"),
        pytest.param([COSTLY_OURS], "ref-llama", ("block16", "attention", "pile"), 2, id="others-beside"),
        pytest.param([COSTLY_OURS], "ref-moe", ("attention",), 2, id="its-line-before-the-model-s-plain-one"),
        pytest.param([COSTLY_OURS], "ref-moe", ("weights-only",), 3, id="the-model-s-plain-one"),
        pytest.param([COSTLY_OURS], "ref-neo", ("global-bfloat16",), 4, id="its-line-of-the-model"),
        pytest.param([COSTLY_OURS], "ref-neo", ("global-int8",), 1, id="another-global"),
        pytest.param(
            [COSTLY_THEIRS, COSTLY_OURS],
            "ref-llama",
            ("attention",),
            5,
            id="theirs-before-ours-for-the-option",
        ),
        pytest.param([COSTLY_THEIRS, COSTLY_OURS], "ref-llama", ("outputs",), 5, id="their-plain-one"),
    ],
)
def test_options_that_quantize_more_may_have_lines_of_their_own(
    tables: list[dict[str, object]], model: str, options: tuple[str, ...], kl: float
) -> None:
    case = Case(model=model, precision="mxfp8_e4m3", tier="A", options=options)
    assert BoundsTables(tables).of(case) == Bounds(kl=kl, rise=kl)


def test_what_no_table_has_is_named_with_its_options() -> None:
    """As a model's own file would have it."""
    case = Case(model="ref-neo", precision="nvfp4", tier="B", options=("attention",))
    with pytest.raises(
        ValueError,
        match=r"no bounds for nvfp4-B\+attention of ref-neo; .*add `'nvfp4-B\+attention' = \{ kl = NATS \}`",
    ):
        BoundsTables([COSTLY_OURS]).of(case)


def test_a_user_s_file_may_have_lines_for_options(tmp_path: Path) -> None:
    path = tmp_path / "bounds.toml"
    path.write_text('[default]\n"mxfp8_e4m3-A+attention+outputs+global-bfloat16" = { kl = 0.5 }\n')
    case = Case(
        model="ref-llama",
        precision="mxfp8_e4m3",
        tier="A",
        options=("attention", "outputs", "global-bfloat16"),
    )
    assert load_bounds(str(path)).of(case).kl == 0.5


@pytest.mark.parametrize(
    ("case_name", "words"),
    [
        ("+attention", r"unknown precision in \[default\] '\+attention'; allowed: "),
        ("fp9-A+attention", r"unknown precision in \[default\] 'fp9-A\+attention'; allowed: "),
        ("mxfp8_e4m3-A+block16", "unknown option of {}: 'block16'; allowed: attention, outputs, global-b"),
        ("mxfp8_e4m3-A+", "unknown option of {}: ''; allowed: attention, outputs, "),
        ("mxfp8_e4m3-A+attenton", r"unknown option of {}: 'attenton'; .*; did you mean 'attention'\?"),
        ("mxfp8_e4m3-A+global-nonsense", "unknown option of {}: 'global-nonsense'; allowed: attention, "),
        ("mxfp8_e4m3-A+global-é", "unknown option of {}: 'global-é'; allowed: attention, "),
        ("mxfp8_e4m3-A+outputs+attention", "{} is the name of no case; allowed: PRECISION"),
        ("mxfp8_e4m3-A+global-int8+global-e2m1", "{} is the name of no case; allowed: PRECISION"),
    ],
)
def test_a_line_that_no_case_reads_is_refused(tmp_path: Path, case_name: str, words: str) -> None:
    path = tmp_path / "bounds.toml"
    path.write_text(f'[default]\n"{case_name}" = {{ kl = 0.5 }}\n')
    with pytest.raises(ValueError, match=words.format(re.escape(repr(case_name)))) as caught:
        load_bounds(str(path))
    assert str(caught.value).startswith(f"bounds file {path}: ")
    assert "\n" not in str(caught.value)


def test_a_user_s_recipes_may_have_lines(tmp_path: Path) -> None:
    path = tmp_path / "bounds.toml"
    path.write_text("[default]\nw4a8 = { kl = 0.25 }\n")
    assert load_bounds(str(path), ("w4a8",)).of(case_of("ref-llama", "w4a8")).kl == 0.25
    with pytest.raises(ValueError, match=r"unknown precision in \[default\] 'w4a8'"):
        load_bounds(str(path))


@pytest.mark.parametrize("model", WHOLE_LADDER)
def test_our_table_covers_the_ladder(model: str) -> None:
    bounds = load_bounds()
    for precision, tier in with_tiers():
        case = Case(model=model, precision=precision, tier=tier)
        found = bounds.of(case)
        assert found.kl >= 0
        assert found.rise >= 0
    assert bounds.of(case_of(model, "fp32")) == Bounds(kl=0.0, rise=0.0)


def test_a_user_s_file_goes_before_ours(tmp_path: Path) -> None:
    path = tmp_path / "bounds.toml"
    path.write_text(
        "[default]\nbf16 = { kl = 0.25, rise = 0 }\n"
        '[models."org--m"]\n"mxfp8_e4m3-A" = { kl = 1e-3, rise = 2 }\n'
    )
    bounds = load_bounds(str(path))
    assert bounds.of(case_of("ref-llama", "bf16")) == Bounds(kl=0.25, rise=0.0)
    assert bounds.of(case_of("org--m", "mxfp8_e4m3-A")) == Bounds(kl=0.001, rise=2.0)
    assert bounds.of(case_of("ref-llama", "mxfp8_e4m3-A")) == load_bounds().of(
        case_of("ref-llama", "mxfp8_e4m3-A")
    )
    assert load_bounds().of(case_of("ref-llama", "bf16")) != bounds.of(case_of("ref-llama", "bf16"))


def test_without_a_rise_it_is_the_kl(tmp_path: Path) -> None:
    """On text sampled from the reference the expected rise is the KL divergence."""
    path = tmp_path / "bounds.toml"
    path.write_text("[default]\nbf16 = { kl = 0.25 }\n")
    assert load_bounds(str(path)).of(case_of("ref-llama", "bf16")) == Bounds(kl=0.25, rise=0.25)


ENTRY = "allowed: { kl = NATS } or { kl = NATS, rise = NATS } with numbers from 0 to 1e+09"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param(b"[default\n", "Expected ']'", id="no-toml"),
        pytest.param(b"[defaults]\n", "unknown table 'defaults'; allowed: default, models", id="unknown"),
        pytest.param(b"kl = 1\n", "unknown table 'kl'", id="top-level-value"),
        pytest.param(b"[default]\nbf16 = 1\n", f"[default] 'bf16' is 1; {ENTRY}", id="number"),
        pytest.param(b"[default]\nbf16 = { rise = 1 }\n", f"is {{'rise': 1}}; {ENTRY}", id="no-kl"),
        pytest.param(b"[default]\nbf16 = { kl = 1, rise = 1, top = 1 }\n", ENTRY, id="surplus"),
        pytest.param(b"[default]\nbf16 = { kl = -1, rise = 1 }\n", ENTRY, id="negative"),
        pytest.param(b"[default]\nbf16 = { kl = nan, rise = 1 }\n", ENTRY, id="nan"),
        pytest.param(b"[default]\nbf16 = { kl = 1, rise = '1' }\n", ENTRY, id="text"),
        pytest.param(b"[models.m]\nbf16 = 1\n", f"[models.m] 'bf16' is 1; {ENTRY}", id="of-a-model"),
        pytest.param(b"default = 1\n", "default must be a table, got 1", id="default-no-table"),
        pytest.param(b"models = []\n", "models must be a table, got []", id="models-no-table"),
        pytest.param(b"[models]\nm = 3\n", "models.m must be a table, got 3", id="model-no-table"),
        pytest.param(b"# \xff\n", "not UTF-8 text", id="no-utf8"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path: Path, text: bytes, words: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(text)
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (the message is held below)
        load_bounds(str(path))
    message = str(caught.value)
    assert message.startswith(f"bounds file {path}: ")
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize("table", ["default", "models.ref-llama"])
@pytest.mark.parametrize(
    ("case_name", "hint"),
    [
        pytest.param("fp8_e4m3_A", "; did you mean 'mxfp8_e4m3-A'?", id="misspelt"),
        pytest.param("fp8_e4m3-C", "; did you mean 'mxfp8_e4m3-B'?", id="unknown-tier"),
        pytest.param("fp8_e4m3", "; did you mean 'mxfp8_e4m3-B'?", id="no-tier"),
        pytest.param("zzz", "", id="nothing-near"),
    ],
)
def test_a_case_name_that_no_case_has_is_refused(
    tmp_path: Path, table: str, case_name: str, hint: str
) -> None:
    """It would never be read, and the bound that its author meant would stay ours."""
    path = tmp_path / "mine.toml"
    path.write_text(f"[{table}]\n{case_name} = {{ kl = 1, rise = 1 }}\n")
    with pytest.raises(ValueError, match="unknown precision") as caught:
        load_bounds(str(path))
    message = str(caught.value)
    where = f"bounds file {path}: unknown precision in [{table}]"
    assert message.startswith(f"{where} {case_name!r}; allowed: fp32, bf16, ")
    assert message.endswith(hint)
    assert bool(hint) == ("did you mean" in message)
    assert "\n" not in message


def test_a_file_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"bounds file .*absent\.toml does not exist"):
        load_bounds(str(tmp_path / "absent.toml"))


@pytest.mark.parametrize("order", [1, -1], ids=["attention-larger", "outputs-larger"])
def test_without_a_line_for_both_options_the_larger_of_the_two_holds(order: int) -> None:
    larger, smaller = ["mxint8-A+attention", "mxint8-A+outputs"][::order]
    table = {"default": {"mxint8-A": {"kl": 1}, larger: {"kl": 3}, smaller: {"kl": 2}}}
    assert BoundsTables([table]).of(case_of("ref-llama", "mxint8-A+attention+outputs")).kl == 3


# A model's own file


def _own(root: Path, text: str, model: str = "my-model") -> Path:
    path = root / model / "bounds.toml"
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_our_table_is_for_our_models_alone() -> None:
    assert load_bounds().find(case_of("my-model", "bf16")) is None
    assert load_bounds().of(case_of("ref-llama", "bf16")).whose == OUR_FILE


def test_a_model_s_own_line_is_of_one_case_with_all_its_options(tmp_path: Path) -> None:
    path = _own(
        tmp_path, 'mxfp8_e4m3-B = { kl = 0.5 }\n"mxfp8_e4m3-B+rceil" = { kl = 0.25, reason = " why " }\n'
    )
    bounds = load_bounds(baselines=tmp_path)
    plain = bounds.find(case_of("my-model", "mxfp8_e4m3-B"))
    rceil = bounds.find(case_of("my-model", "mxfp8_e4m3-B+rceil"))
    assert plain is not None
    assert rceil is not None
    assert (plain.kl, plain.whose, plain.own, plain.reason) == (0.5, str(path), True, "")
    assert (rceil.kl, rceil.reason) == (0.25, "why")
    assert bounds.find(case_of("my-model", "mxfp8_e4m3-B+even")) is None
    assert bounds.find(case_of("other", "mxfp8_e4m3-B")) is None


def test_a_user_s_file_goes_before_a_model_s_and_that_before_ours(tmp_path: Path) -> None:
    _own(tmp_path, "bf16 = { kl = 2 }\nfp32 = { kl = 3 }\n", model="ref-llama")
    theirs = tmp_path / "mine.toml"
    theirs.write_text("[default]\nbf16 = { kl = 1 }\n")
    bounds = load_bounds(str(theirs), baselines=tmp_path)
    found = [bounds.of(case_of("ref-llama", case_name)) for case_name in ("bf16", "fp32", "mxint8-B")]
    assert [one.kl for one in found[:2]] == [1, 3]
    assert [one.whose for one in found] == [
        str(theirs),
        str(tmp_path / "ref-llama" / "bounds.toml"),
        OUR_FILE,
    ]


def test_a_line_of_another_kind_or_of_a_user_s_recipe_is_taken(tmp_path: Path) -> None:
    _own(tmp_path, "w4a8 = { kl = 1 }\n'checkpoint.my-fp8' = { kl = 2 }\n")
    found = load_bounds(None, ("w4a8",), baselines=tmp_path).find(case_of("my-model", "w4a8"))
    assert found is not None
    assert found.kl == 1


def _as_a_pipe(path: Path) -> None:
    os.mkfifo(path)


def _as_a_dangling_link(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere.toml"))


@pytest.mark.parametrize(
    ("make", "words"), [(_as_a_pipe, "no regular file"), (_as_a_dangling_link, "dangling link")]
)
def test_what_is_no_file_is_refused(tmp_path: Path, make: Callable[[Path], None], words: str) -> None:
    """A pipe would be waited for, and a first acceptance would write through the link."""
    folder = tmp_path / "my-model"
    folder.mkdir()
    make(folder / "bounds.toml")
    with pytest.raises(ValueError, match=words):
        load_bounds(baselines=tmp_path).find(case_of("my-model", "bf16"))


def test_a_user_s_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[default]\nbf16 = { kl = 0.25 }\n", encoding="utf-8-sig")
    assert load_bounds(str(path)).of(case_of("ref-llama", "bf16")).kl == 0.25


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("bf16 = {", "bounds file .*bounds.toml: "),
        ("bf16 = 1", "'bf16' is 1; allowed: "),
        ("bf16 = { rise = 1 }", "allowed: "),
        ("bf16 = { kl = -1 }", "allowed: "),
        ("bf16 = { kl = 1, reason = 3 }", "allowed: .*reason"),
        ("bf16 = { kl = 1, why = 'x' }", "allowed: "),
        ("'a b' = { kl = 1 }", "cannot be called 'a b'"),
        ("fp8_e4m3_B = { kl = 1 }", "unknown precision 'fp8_e4m3_B'; allowed: "),
        ("fp9-B = { kl = 1 }", "unknown precision 'fp9-B'; allowed: "),
        (f"bf16 = {{ kl = {'9' * 400} }}", "more than 307 digits"),
        ("bf16 = { kl = 1, reason = '\u200b' }", "allowed: .*reason"),
        ("bf16 = { kl = 1, reason = '.' }", "allowed: .*reason"),
        ("bf16 = " + "[" * 5000, "nested too deeply"),
        ("[default]\nbf16 = { kl = 1 }", "'default' is {'bf16': {'kl': 1}}; allowed: "),
    ],
)
def test_a_bad_file_of_a_model_is_refused(tmp_path: Path, text: str, words: str) -> None:
    _own(tmp_path, text)
    with pytest.raises(ValueError, match=words) as caught:
        load_bounds(baselines=tmp_path).find(case_of("my-model", "bf16"))
    assert "\n" not in str(caught.value)


def test_a_table_of_a_misspelt_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[models.ref-lama]\n"bf16" = { kl = 0.5 }\n')
    known = ("ref-llama", "my-model")
    with pytest.raises(ValueError, match=r"unknown model in \[models\] 'ref-lama'; .*mean 'ref-llama'"):
        load_bounds(str(path), models=known)
    path.write_text('[models.my-model]\n"bf16" = { kl = 0.5 }\n')
    assert load_bounds(str(path), (), models=(*known, "a")).of(case_of("my-model", "bf16")).kl == 0.5


def test_a_table_of_another_run_s_model_is_not(tmp_path: Path) -> None:
    """Several jobs share a file, and each names its own models; nobody has accepted any yet."""
    path = tmp_path / "mine.toml"
    tables = [
        f"[models.{name}]\nbf16 = {{ kl = 0.5 }}\n" for name in ("ours-7b", "ours-13b", "mine-a", "mine-b")
    ]
    path.write_text("".join(tables))
    found = load_bounds(str(path), models=("ref-llama", "ours-7b", "mine-a"))
    assert found.labels == ("ours-7b", "ours-13b", "mine-a", "mine-b")
    assert found.of(case_of("mine-b", "bf16")).kl == 0.5


def test_lines_may_have_former_names(tmp_path: Path) -> None:
    _own(tmp_path, 'bfp16-A = { kl = 0.5 }\n"fp8_e4m3-B+global-bf16" = { kl = 0.25 }\n')
    bounds = load_bounds(baselines=tmp_path)
    assert bounds.of(case_of("my-model", "bf16_operands-A")).kl == 0.5
    assert bounds.of(case_of("my-model", "mxfp8_e4m3-B+global-bfloat16")).kl == 0.25
    theirs = tmp_path / "mine.toml"
    theirs.write_text('[default]\nfp8_e4m3-A = { kl = 2 }\n[models.my-model]\n"fp4_e2m1-B" = { kl = 3 }\n')
    loaded = load_bounds(str(theirs))
    assert loaded.of(case_of("my-model", "mxfp8_e4m3-A")).kl == 2
    assert loaded.of(case_of("my-model", "mxfp4_e2m1-B")).kl == 3


def test_a_model_s_line_of_an_unknown_format_of_element_wise_results_is_refused(tmp_path: Path) -> None:
    path = _own(tmp_path, '"mxfp8_e4m3-A+prose+global-nonsense" = { kl = 2 }\n')
    with pytest.raises(
        ValueError, match=r"unknown option of .*: 'global-nonsense'; allowed: global-bfloat16,"
    ):
        read_bounds(path.parent)


def test_two_lines_of_one_case_are_refused(tmp_path: Path) -> None:
    path = _own(tmp_path, "mxfp8_e4m3-B = { kl = 1 }\nfp8_e4m3-B = { kl = 2 }\n")
    with pytest.raises(ValueError, match=r"'mxfp8_e4m3-B' and 'fp8_e4m3-B' are lines of one case; drop one"):
        read_bounds(path.parent)
