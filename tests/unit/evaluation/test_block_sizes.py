"""Larger blocks are not better, and where they are: the scale rule `floor` on a format that saturates.

Measured here and not accepted as baselines: an order needs no figure to be kept.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import pytest
import torch

from mxcheck.evaluation.measure import Measurement, evaluate
from mxcheck.evaluation.tokens import load_tokens
from mxcheck.gate.orderings import OrderingResult, compare_kl
from mxcheck.models.conversion.convert import convert
from mxcheck.models.recipes.recipe import recipe
from mxcheck.models.zoo.load import LoadedModel, load

SEQUENCES = 16
SIZES = (16, 32, 64, 128)


@cache
def reference() -> tuple[LoadedModel, torch.Tensor, Measurement]:
    loaded = load("ref-llama")
    assert loaded.source.tokens is not None
    tokens = load_tokens(loaded.source.tokens)[:SEQUENCES]
    return loaded, tokens, evaluate(loaded.model, tokens, keep_log_probabilities=True)


@cache
def sequence_kl(precision: str, rule: str, block_size: int) -> list[float]:
    """KL of tier B by sequence, nats a token."""
    loaded, tokens, plain = reference()
    conversion = convert(loaded.model, recipe(precision, tier="B", scale_rule=rule, block_size=block_size))
    try:
        return list(evaluate(loaded.model, tokens, reference=plain).sequence_kl)
    finally:
        conversion.undo()


def doublings(precision: str, rule: str) -> dict[str, OrderingResult]:
    """Each block size against twice it."""
    return {
        f"{size} to {twice}": compare_kl(
            sequence_kl(precision, rule, size), sequence_kl(precision, rule, twice)
        )
        for size, twice in pairwise(SIZES)
    }


@pytest.mark.parametrize(("precision", "rule"), [("mxint8", "floor"), ("fp4_e2m1", "even")])
def test_larger_blocks_are_worse(precision: str, rule: str) -> None:
    """One scale for more elements: where range is scarce, each doubling costs."""
    found = doublings(precision, rule)
    assert {step: one.shows for step, one in found.items()} == dict.fromkeys(found, "holds"), found


def test_under_floor_fp8_e4m3_gains_from_larger_blocks() -> None:
    """The exception: each block's largest element may saturate, and larger blocks have fewer of them."""
    found = doublings("fp8_e4m3", "floor")
    assert {step: one.shows for step, one in found.items()} == dict.fromkeys(found, "reversed"), found


def test_it_is_saturation_that_larger_blocks_spare() -> None:
    """`rceil` never saturates: what 128 gains on 16 under `floor` is gone, to a tenth at most."""
    gains = {
        rule: compare_kl(sequence_kl("fp8_e4m3", rule, 16), sequence_kl("fp8_e4m3", rule, 128)).difference
        for rule in ("floor", "rceil")
    }
    assert gains["floor"] < 0
    assert abs(gains["rceil"]) < abs(gains["floor"]) / 10


def test_the_tests_above_can_fail() -> None:
    """Sizes that were ignored would give equal figures, and those show no order."""
    figures = sequence_kl("mxint8", "floor", 32)
    assert compare_kl(figures, figures).shows == "undecided"
    assert compare_kl(figures, sequence_kl("mxint8", "floor", 16)).shows == "reversed"
