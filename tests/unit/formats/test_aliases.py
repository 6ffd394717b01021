"""The field's names of formats: each stands for one of ours, wherever a format can be named."""

from __future__ import annotations

import argparse

import pytest
import torch

import mxcheck
from mxcheck.cli.entry import parse
from mxcheck.cli.explain import read_cast
from mxcheck.formats.aliases import ALIASES, aliases_of, choose_format, own_name
from mxcheck.formats.blocks import BLOCK_FORMATS, block_format
from mxcheck.formats.elements import ELEMENT_FORMATS, element_format
from mxcheck.formats.spec import CastSpec, cast_spec
from mxcheck.models.ladder import LADDER
from mxcheck.models.recipe import Operand
from validation.sweeps.sweep import sweeps

#: Written down here too: what a user of the field means by them.
MEANT = {
    "mxfp8": "fp8_e4m3",
    "mxfp8_e4m3": "fp8_e4m3",
    "mxfp8_e5m2": "fp8_e5m2",
    "mxfp6_e3m2": "fp6_e3m2",
    "mxfp6_e2m3": "fp6_e2m3",
    "mxfp4": "fp4_e2m1",
}
each_alias = pytest.mark.parametrize("alias", MEANT)


def test_they_are_these_and_none_is_a_name_of_ours() -> None:
    assert MEANT == ALIASES
    assert not ALIASES.keys() & {*BLOCK_FORMATS, *LADDER}
    assert aliases_of("fp8_e4m3") == ("mxfp8", "mxfp8_e4m3")
    assert aliases_of("mxint8") == ()


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
    assert by_alias.precision == own


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
    with pytest.raises(ValueError, match=r"^unknown fruit 'mxfp8'; allowed: mxint8; did you mean 'mxint8'"):
        choose_format("fruit", "mxfp8", ["mxint8"])


def test_what_is_no_name_is_refused_as_before() -> None:
    with pytest.raises(ValueError, match=r"unknown format \['mxfp8'\]"):
        Operand(format=["mxfp8"])  # type: ignore[arg-type]  # as TOML may have it
