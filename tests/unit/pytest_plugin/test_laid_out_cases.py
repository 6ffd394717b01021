"""Which cases a run has: their names, their order, and that each name says what its recipe does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from mxcheck.models.recipes import ladder
from mxcheck.models.recipes.ladder import LADDER, MX, ROLES, with_tiers
from mxcheck.models.recipes.recipe import Recipe, recipe
from mxcheck.run.laid_out_cases import Changes
from mxcheck.run.settings import Settings

Lay = Callable[..., Settings]


def names(settings: Settings) -> list[str]:
    return [case.name for case in settings.cases]


def made(settings: Settings, case_name: str) -> Recipe:
    (found,) = (recipe for case, recipe in settings.recipes.items() if case.name == case_name)
    return found


def test_all_is_every_precision_of_the_ladder_in_its_order(lay: Lay) -> None:
    settings = lay("--mx-precision", "all", "--mx-tier", "all")
    plain = [case for case in settings.cases if not case.options]
    assert [(case.precision, case.tier) for case in plain] == list(with_tiers())
    assert len(plain) == 38


def test_the_whole_ladder_has_the_float_formats_rounded_up_too(lay: Lay) -> None:
    """In tier B, each beside itself under OCP's rule; not where a run names steps or changes recipes."""
    found = names(lay("--mx-precision", "all", "--mx-tier", "all"))
    up = [name for name in found if "+" in name]
    formats = ("fp8_e4m3", "fp8_e5m2", "fp6_e3m2", "fp6_e2m3", "fp4_e2m1")
    assert up == [f"mx{name}-B+rceil" for name in formats]
    assert all(found[found.index(name) - 1] == name.removesuffix("+rceil") for name in up)
    assert [name for name in names(lay()) if "+" in name] == up
    for words in (
        ("--mx-precision", "mxfp8_e4m3"),
        ("--mx-tier", "A"),
        ("--mx-rounding", "away"),
        ("--mx-block-size", "16"),
        ("--mx-attention",),
    ):
        assert "mxfp8_e4m3-B+rceil" not in names(lay(*words))


def test_models_come_one_after_the_other(lay: Lay) -> None:
    settings = lay("--mx-models", "ref-moe,ref-neo", "--mx-precision", "bf16,mxint8")
    assert [case.id for case in settings.cases] == [
        "ref-moe-bf16", "ref-moe-mxint8-B", "ref-neo-bf16", "ref-neo-mxint8-B",
    ]  # fmt: skip


def test_each_recipe_is_its_case_s(lay: Lay) -> None:
    for case, its in lay("--mx-precision", "all", "--mx-tier", "all").recipes.items():
        assert (its.precision, its.tier) == (case.precision, case.tier)
        assert its == recipe(case.precision, tier=case.tier, scale_rule=next(iter(case.options), None))


# Tiers


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), ["mxint8-B"]),
        (("--mx-tier", "A"), ["mxint8-A"]),
        (("--mx-tier", "B,A"), ["mxint8-A", "mxint8-B"]),
        (("--mx-tier", "all"), ["mxint8-A", "mxint8-B"]),
        (("--mx-mlp-only",), ["mxint8-A"]),
        (("--mx-all-linears",), ["mxint8-linears"]),
        (("--mx-mlp-only", "--mx-tier", "A"), ["mxint8-A"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_tiers(lay: Lay, words: tuple[str, ...], expected: list[str]) -> None:
    assert names(lay("--mx-precision", "mxint8", *words)) == expected


def test_options_in_place_of_a_tier_go_before_the_ini_file_s(lay: Lay) -> None:
    assert names(lay("--mx-precision", "mxint8", "--mx-all-linears", ini="mx_tier = A\n")) == [
        "mxint8-linears"
    ]


def test_all_linears_has_every_role_and_a_mixed_tier_has_not(lay: Lay) -> None:
    settings = lay("--mx-all-linears", "--mx-precision", "all")
    assert set(made(settings, "mxint8-linears").roles) == set(ROLES)
    assert "mixed" not in {case.precision for case in settings.cases}


@pytest.mark.parametrize(
    ("words", "ini", "expected"),
    [
        ((), "", ["mixed-C", "mixed-D"]),
        (("--mx-tier", "D"), "", ["mixed-D"]),
        (("--mx-tier", "A,D"), "", ["mixed-D"]),
        (("--mx-tier", "all"), "", ["mixed-C", "mixed-D"]),
        ((), "mx_tier = A,B\n", ["mixed-C", "mixed-D"]),
        ((), "mx_tier = C\n", ["mixed-C"]),
    ],
    ids=["alone", "D", "A,D", "all", "ini-A-B", "ini-C"],
)
def test_mixed_alone(lay: Lay, words: tuple[str, ...], ini: str, expected: list[str]) -> None:
    assert names(lay("--mx-precision", "mixed", *words, ini=ini)) == expected


def test_tiers_c_and_d_are_of_mixed_alone(lay: Lay) -> None:
    found = names(lay("--mx-tier", "C,D"))
    assert found == ["fp32", "bf16", "mixed-C", "mixed-D"]
    assert "mixed" not in "".join(names(lay()))  # and not of the default tier


# What is left out


@pytest.mark.parametrize(("group", "count"), [("mx", 9), ("bf16", 1), ("te", 3), ("fp8_tensor", 2)])
def test_skip(lay: Lay, group: str, count: int) -> None:
    words = ("--mx-precision", "all", "--mx-tier", "A,C,D")
    every, left = names(lay(*words)), names(lay(*words, "--mx-skip", group))
    skipped = [name for name in every if name not in left]
    assert len(skipped) == count
    assert {LADDER[name.partition("-")[0]].group for name in skipped} == {group}


@pytest.mark.parametrize("group", ladder.GROUPS)
def test_each_group_can_be_skipped_and_is_then_gone(lay: Lay, group: str) -> None:
    settings = lay("--mx-precision", "all", "--mx-tier", "all", "--mx-skip", group)
    left = {LADDER[case.precision].group for case in settings.cases}
    assert left == {"fp32", *ladder.GROUPS} - {group}


def test_no_mx_is_skip_mx_beside_other_groups(lay: Lay) -> None:
    words = ("--mx-precision", "all", "--mx-tier", "all")
    assert names(lay(*words, "--no-mx")) == names(lay(*words, "--mx-skip", "mx"))
    assert names(lay(*words, "--no-mx", "--mx-skip", "te")) == names(lay(*words, "--mx-skip", "mx,te"))


def test_format_narrows_the_mx_formats_and_nothing_else(lay: Lay) -> None:
    words = ("--mx-precision", "all", "--mx-tier", "all")
    left = names(lay(*words, "--mx-format", "mxint8"))
    gone = [name for name in names(lay(*words)) if name not in left]
    assert {name.partition("-")[0] for name in gone} == set(MX) - {"mxint8"}
    assert {"mxint8-A", "mixed-C", "nvfp4-B", "fp8_tensor_e4m3-A", "bf16"} <= set(left)


def test_by_default_what_is_not_installed_is_left_out(lay: Lay, monkeypatch: pytest.MonkeyPatch) -> None:
    """`all` keeps it: its cases then say what they lack."""
    absent = {"bitsandbytes", "transformer_engine"}
    monkeypatch.setattr(ladder, "find_spec", lambda name: None if name in absent else SimpleNamespace())
    gone = {"bnb_int8", "te_fp8_current", "te_fp8_delayed", "te_mxfp8"}
    default, every = (
        {case.precision for case in lay(*words).cases} for words in ((), ("--mx-precision", "all"))
    )
    assert every - default == gone
    assert {case.precision for case in lay("--mx-precision", "bnb_int8").cases} == {"bnb_int8"}
    monkeypatch.setattr(ladder, "find_spec", lambda _: SimpleNamespace())
    assert {case.precision for case in lay().cases} == every


# Labels

ALL_CHANGES = Changes(
    scale_rule="rceil", rounding="away", block_size=16, attention=True, outputs=True, weights_only=True
)
SCALES = ("rceil", "away", "block16")
CASTS = ("attention", "outputs", "weights-only")


@pytest.mark.parametrize(
    ("precisions", "expected"),
    [
        (("fp32", "bf16"), ()),
        (("bf16_operands", "fp8_tensor_e4m3", "fp8_tensor_e5m2", "nvfp4"), CASTS),
        (("mixed", *MX), (*SCALES, *CASTS)),
        (("bnb_int8", "te_fp8_current", "te_fp8_delayed", "te_mxfp8"), ()),
        (("scaled_mm_fp8", "scaled_mm_fp8_row"), ()),
    ],
    ids=["whole-model", "no-choice-of-scales", "e8m0", "other-libraries", "torch"],
)
def test_labels_only_where_they_mean_something(
    precisions: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    for name in precisions:
        assert ALL_CHANGES.labels(LADDER[name]) == expected
        assert Changes().labels(LADDER[name]) == ()


def test_the_order_of_all_labels(lay: Lay, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("text")
    settings = lay(
        "--mx-max-samples", "4", "--mx-sequence-length", "8", "--mx-datasets", f"pile,{tmp_path}/mine.txt",
        "--mx-dtype", "bf16", "--mx-global", "bf16", "--mx-quantize-outputs", "--mx-attention",
        "--mx-block-size", "64", "--mx-rounding", "zero", "--mx-scale-rule", "ceil",
        "--mx-precision", "fp32,nvfp4,mxfp8_e4m3,bnb_int8", "--mx-batch-size", "3",
    )  # fmt: skip
    text = "loaded-bf16+pile-or-mine.txt+length8+samples4"
    assert names(settings) == [
        f"fp32+{text}",
        f"mxfp8_e4m3-B+ceil+zero+block64+attention+outputs+{text}",
        f"mxfp8_e4m3-B+ceil+zero+block64+attention+outputs+global-bfloat16+{text}",
        f"nvfp4-B+attention+outputs+{text}",
        f"nvfp4-B+attention+outputs+global-bfloat16+{text}",
        f"bnb_int8-B+{text}",
    ]


def test_weights_only_is_a_label_and_a_recipe(lay: Lay) -> None:
    its = made(lay("--mx-precision", "mxint8", "--mx-weights-only"), "mxint8-B+weights-only")
    assert all(casts.activations is None and casts.weights for casts in its.roles.values())


@pytest.mark.parametrize(
    "words",
    [
        ("--mx-scale-rule", "floor"),
        ("--mx-rounding", "even"),
        ("--mx-block-size", "32"),
        ("--mx-max-samples", "1000"),
        ("--mx-datasets", "self"),
        ("--mx-batch-size", "1"),
        ("--mx-device", "cpu"),
    ],
    ids=" ".join,
)
def test_defaults_and_what_changes_no_result_are_no_labels(lay: Lay, words: tuple[str, ...]) -> None:
    assert lay(*words).recipes == lay().recipes


@pytest.mark.parametrize("kernel", ["eager", "cpp"])
def test_which_of_our_kernels_casts_is_no_label(lay: Lay, kernel: str) -> None:
    named, usual = lay("--mx-kernel", kernel).recipes, lay().recipes
    assert {case.id: one.as_dict() for case, one in named.items()} == {
        case.id: one.as_dict() for case, one in usual.items()
    }


def test_what_the_labels_say_is_what_the_recipe_does(lay: Lay) -> None:
    settings = lay(
        "--mx-precision", "mxfp8_e4m3", "--mx-scale-rule", "rceil", "--mx-rounding", "away",
        "--mx-block-size", "16", "--mx-attention", "--mx-quantize-outputs", "--mx-global", "mxint8,bf16",
    )  # fmt: skip
    stem = "mxfp8_e4m3-B+rceil+away+block16+attention+outputs"
    plain, mxint8, bf16 = (
        made(settings, case_name) for case_name in (stem, f"{stem}+global-int8", f"{stem}+global-bfloat16")
    )
    assert plain == recipe(
        "mxfp8_e4m3",
        tier="B",
        scale_rule="rceil",
        rounding="away",
        block_size=16,
        attention=True,
        outputs=True,
    )
    assert plain.elementwise is None
    assert mxint8.elementwise is not None
    assert (mxint8.elementwise.format, mxint8.elementwise.block_size) == ("mxint8", 16)
    assert bf16.elementwise is not None
    assert bf16.elementwise.format == "bf16"
    assert plain.roles == mxint8.roles == bf16.roles


def test_scale_options_leave_formats_alone_that_have_no_choice(lay: Lay) -> None:
    settings = lay("--mx-scale-rule", "rceil", "--mx-block-size", "16", "--mx-precision", "nvfp4,mxint8")
    assert names(settings) == ["mxint8-B+rceil+block16", "nvfp4-B"]
    assert made(settings, "nvfp4-B") == recipe("nvfp4", tier="B")


def test_even_is_refused_only_where_mxint8_is_in_the_run(lay: Lay) -> None:
    run = lay("--mx-scale-rule", "even", "--mx-precision", "mxfp4_e2m1,mixed", "--mx-tier", "B,C")
    assert names(run) == ["mxfp4_e2m1-B+even", "mixed-C+even"]


def test_the_kernel_is_in_every_recipe_that_casts(lay: Lay) -> None:
    settings = lay("--mx-kernel", "auto", "--mx-precision", "all", "--mx-tier", "all", "--mx-global", "bf16")
    assert {its.kernel for its in settings.recipes.values()} == {"auto"}


def test_no_two_cases_have_one_name(lay: Lay) -> None:
    settings = lay(
        "--mx-precision", "all", "--mx-tier", "all", "--mx-global", "bf16,mxint8", "--mx-attention"
    )
    assert len({case.id for case in settings.cases}) == len(settings.cases)
