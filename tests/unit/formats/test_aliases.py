"""The field's names of formats: each stands for one of ours, wherever a format can be named."""

from __future__ import annotations

import argparse
import re

import pytest
import torch

import mxcheck
from mxcheck.cli.entry import parse
from mxcheck.cli.explain_command import read_cast
from mxcheck.formats.aliases import (
    ALIASES,
    MX_PRECISIONS,
    PRECISION_ALIASES,
    aliases_of,
    choose_format,
    choose_precision,
    former_text,
    global_option,
    own_name,
    own_option,
    own_precision,
    precision_aliases_of,
    precision_of,
)
from mxcheck.formats.blocks import BLOCK_FORMATS, block_format
from mxcheck.formats.elements import ELEMENT_FORMATS, element_format
from mxcheck.formats.spec import CastSpec, cast_spec
from mxcheck.models.recipes.ladder import LADDER
from mxcheck.models.recipes.recipe import Operand
from validation.sweeps.sweep import sweeps

#: Written down here too: what a user of the field means by them.
MEANT = {
    "mxfp8": "fp8_e4m3",
    "mxfp8_e4m3": "fp8_e4m3",
    "mxfp8_e5m2": "fp8_e5m2",
    "mxfp6_e3m2": "fp6_e3m2",
    "mxfp6_e2m3": "fp6_e2m3",
    "mxfp4": "fp4_e2m1",
    "mxfp4_e2m1": "fp4_e2m1",
    "mxfp4_e3m0": "fp4_e3m0",
}
#: Precisions whose operands have a format of another name, which is no element format.
TENSOR = {"fp8_tensor_e4m3": "e4m3_tensor", "fp8_tensor_e5m2": "e5m2_tensor"}
#: Likewise what they mean as precisions: formerly some had the format's name, others names of their own.
PRECISIONS = {
    "mxfp8": "mxfp8_e4m3",
    "mxfp4": "mxfp4_e2m1",
    "fp8_e4m3": "mxfp8_e4m3",
    "fp8_e5m2": "mxfp8_e5m2",
    "fp6_e3m2": "mxfp6_e3m2",
    "fp6_e2m3": "mxfp6_e2m3",
    "fp4_e2m1": "mxfp4_e2m1",
    "fp4_e3m0": "mxfp4_e3m0",
    "nvfp8_emu_e4m3": "fp8_tensor_e4m3",
    "nvfp8_emu_e5m2": "fp8_tensor_e5m2",
    "bfp16": "bf16_operands",
}
each_alias = pytest.mark.parametrize("alias", MEANT)


def test_they_are_these_and_none_is_a_name_of_ours() -> None:
    assert MEANT | TENSOR == ALIASES
    assert not ALIASES.keys() & {*BLOCK_FORMATS}
    assert PRECISIONS == PRECISION_ALIASES
    assert not PRECISION_ALIASES.keys() & {*LADDER}
    assert MX_PRECISIONS.keys() == {*ELEMENT_FORMATS}
    assert precision_aliases_of("mxfp8_e4m3") == ("mxfp8", "fp8_e4m3")
    assert precision_aliases_of("nvfp4") == ()
    assert aliases_of("fp8_e4m3") == ("mxfp8", "mxfp8_e4m3")
    assert aliases_of("mxint8") == ()


@pytest.mark.parametrize(("alias", "own"), TENSOR.items())
def test_a_precision_whose_format_has_another_name_names_that(alias: str, own: str) -> None:
    assert block_format(alias) is BLOCK_FORMATS[own]
    assert LADDER[alias].operand == own
    assert cast_spec(alias) == cast_spec(own)
    options: argparse.Namespace = parse(["explain", alias, "--values", "1"])
    assert read_cast(options)[1].format == own
    with pytest.raises(ValueError, match=f"unknown format '{alias}'"):
        element_format(alias)


def test_every_precision_of_our_casts_is_a_name_of_its_format() -> None:
    ours = {name: row.operand for name, row in LADDER.items() if row.operand not in (None, "bf16")}
    assert {name: own_name(name) for name in ours} == ours


@each_alias
def test_a_cast_takes_them_and_has_our_name(alias: str) -> None:
    own = MEANT[alias]
    assert own_name(alias) == own
    assert own_name(own) == own
    assert block_format(alias) is BLOCK_FORMATS[own]
    assert element_format(alias) is ELEMENT_FORMATS[own]
    assert CastSpec(format=alias) == CastSpec(format=own)
    assert cast_spec(alias).format == own
    x = torch.arange(64.0)
    assert torch.equal(mxcheck.fake_quantize(x, alias), mxcheck.fake_quantize(x, own))
    assert mxcheck.quantize(x, alias).spec == mxcheck.quantize(x, own).spec


@each_alias
def test_a_recipe_takes_them(alias: str) -> None:
    own = MEANT[alias]
    assert Operand(format=alias) == Operand(format=own)
    by_alias = mxcheck.recipe(alias, tier="B", elementwise=alias, block_size=16)
    assert by_alias == mxcheck.recipe(own, tier="B", elementwise=own, block_size=16)
    assert by_alias.precision == precision_of(own)


@each_alias
def test_commands_take_them(alias: str) -> None:
    options: argparse.Namespace = parse(["explain", alias, "--values", "1"])
    assert read_cast(options)[1].format == MEANT[alias]
    assert sweeps([alias]) == sweeps([MEANT[alias]])


def test_the_nearest_match_may_be_one_of_them() -> None:
    with pytest.raises(
        ValueError, match=r"^unknown format 'mxfp9'; allowed: fp8_e4m3, [^;]*; did you mean 'mxfp8'\?$"
    ):
        cast_spec("mxfp9")
    with pytest.raises(
        ValueError, match=r"^format 'mxfp6' may be mxfp6_e3m2 or mxfp6_e2m3; name one of them$"
    ):
        cast_spec("mxfp6")
    several = "fp8_e4m3 or fp8_e5m2 or fp8_tensor_e4m3 or fp8_tensor_e5m2"
    with pytest.raises(ValueError, match=rf"^format 'fp8' may be {several}; name one of them$"):
        cast_spec("fp8")
    with pytest.raises(ValueError, match=r"^unknown fruit 'mxfp8'; allowed: mxint8; did you mean 'mxint8'"):
        choose_format("fruit", "mxfp8", ["mxint8"])


def test_what_is_no_name_is_refused_as_before() -> None:
    with pytest.raises(ValueError, match=r"unknown format \['mxfp8'\]"):
        Operand(format=["mxfp8"])  # type: ignore[arg-type]  # as TOML may have it


def test_a_precision_is_chosen_by_its_canonical_name() -> None:
    assert choose_precision("precision", "bfp16", LADDER) == own_precision("bfp16") == "bf16_operands"
    assert own_precision("my_recipe") == "my_recipe"
    with pytest.raises(ValueError, match=r"^unknown precision 'fp8_e4m4'; .*; did you mean 'mxfp8_e4m3'\?$"):
        choose_precision("precision", "fp8_e4m4", LADDER)
    with pytest.raises(ValueError, match=r"^precision 'mxfp6' may be mxfp6_e3m2 or mxfp6_e2m3; name one of"):
        choose_precision("precision", "mxfp6", LADDER)
    several = "mxfp8_e4m3 or mxfp8_e5m2 or fp8_tensor_e4m3 or fp8_tensor_e5m2"
    with pytest.raises(ValueError, match=rf"^precision 'fp8' may be {several}; name one of them$"):
        choose_precision("precision", "fp8", LADDER)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fp8", "may be mxfp8_e4m3 or mxfp8_e5m2 or fp8_tensor_e4m3 or fp8_tensor_e5m2; name one of them"),
        ("nvfp8_emu", "may be fp8_tensor_e4m3 or fp8_tensor_e5m2; name one of them"),
        ("fp6", "may be mxfp6_e3m2 or mxfp6_e2m3; name one of them"),
        ("nvfp8_em_e4m3", "did you mean 'fp8_tensor_e4m3'?"),
        ("bfp61", "did you mean 'bf16_operands'?"),
    ],
)
def test_a_former_name_in_part_or_misspelt_leads_to_the_canonical_one(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"{re.escape(words)}$"):
        choose_precision("precision", name, LADDER)


@pytest.mark.parametrize("format", ["bf16", *ELEMENT_FORMATS])
def test_the_option_of_global_casts_contains_no_precisions_name(format: str) -> None:
    option = global_option(format)
    assert not [name for name in (*LADDER, *PRECISION_ALIASES) if name in option]
    assert own_option(f"global-{format}") == own_option(option) == option
    assert own_option("rceil") == "rceil"
    assert own_option(f"global-{precision_of(format)}") == option
    assert own_option("global-nvfp4") == "global-nvfp4"
    assert own_option(format) == format


def test_an_id_with_former_names() -> None:
    now = "te_mxfp8-B mxfp8_e5m2-B+global-e2m1 bf16_operands-A-below-mxint8-A fp8_tensor_e4m3-A mxfp4_e3m0"
    then = "te_mxfp8-B fp8_e5m2-B+global-e2m1 bfp16-A-below-mxint8-A nvfp8_emu_e4m3-A fp4_e3m0"
    assert (former_text(now), former_text(then)) == (then, then)


def test_the_options_of_global_casts_differ() -> None:
    assert len({global_option(format) for format in ("bf16", *ELEMENT_FORMATS)}) == 1 + len(ELEMENT_FORMATS)
