"""What decides a record, as plain data: names, recipes, batches; and what it costs to say so."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest

from mxcheck.gate.case import Case
from mxcheck.models.recipes.recipe import recipe
from mxcheck.models.zoo.cards import CARDS
from mxcheck.run.measurement_settings import DEFAULT_BATCH_SIZE, DEFAULT_SAMPLES, Measuring

CASE = Case(model="ref-llama", precision="mxfp8_e4m3", tier="B")


def test_the_defaults_are_the_gate_s() -> None:
    measuring = Measuring()
    assert measuring.corpus.is_self
    assert (measuring.max_samples, measuring.sequence_length) == (DEFAULT_SAMPLES, None)
    assert (measuring.device, measuring.kernel, measuring.dtype) == ("auto", "auto", None)
    assert measuring.baselines == Path("baselines")
    with pytest.raises(FrozenInstanceError):
        measuring.max_samples = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"memory": "nope"}, "unknown memory 'nope'; allowed: auto, kept, lean"),
        ({"kernel": "Cpp"}, "unknown kernel 'Cpp'; allowed: auto, eager, "),
        ({"kernel": None}, "kernel must be a name, or package.module:function, got None"),
        ({"device": "gpu"}, "unknown device 'gpu'; allowed: auto, cpu, cuda"),
        ({"dtype": "bf16"}, "unknown dtype 'bf16'; allowed: float32, bfloat16, float16"),
        ({"reference_cache": -1}, "reference_cache must be a whole number from 0 on, got -1"),
        ({"reference_cache": None}, "reference_cache must be a whole number from 0 on, got None"),
        ({"max_samples": 0}, "max_samples must be a whole number from 1 on, got 0"),
        ({"batch_size": "8"}, "batch_size must be a whole number from 1 on, got '8'"),
        ({"sequence_length": 2.0}, "sequence_length must be a whole number from 1 on, got 2.0"),
    ],
)
def test_what_is_not_allowed_is_refused_at_once(given: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=re.escape(line)) as caught:
        Measuring(**given)
    assert "\n" not in str(caught.value)


def test_a_label_that_is_not_listed_is_a_name_itself() -> None:
    measuring = Measuring(models={"mine": "/models/mine"})
    assert measuring.name_of("mine") == "/models/mine"
    assert measuring.name_of("ref-llama") == "ref-llama"


def test_a_recipe_is_the_one_given_else_the_ladder_s() -> None:
    own = recipe("mxint8", tier="A")
    assert Measuring().recipe_of(CASE) == recipe("mxfp8_e4m3", tier="B")
    assert Measuring(kernel="gfloat").recipe_of(CASE).kernel == "gfloat"
    assert Measuring(recipes={CASE: own}, kernel="gfloat").recipe_of(CASE) == own
    assert Measuring().recipe_of(Case(model="m", precision="bf16")) == recipe("bf16")


def test_options_want_a_recipe() -> None:
    case = replace(CASE, options=("block16",))
    with pytest.raises(ValueError, match=r"-B\+block16 has options and no recipe; give its recipe"):
        Measuring().recipe_of(case)
    own = recipe("mxfp8_e4m3", tier="B", block_size=16)
    assert Measuring(recipes={case: own}).recipe_of(case) == own
    with pytest.raises(ValueError, match="has options and no recipe"):
        Measuring(recipes={case: own}).recipe_of(replace(case, model="ref-moe"))  # of another model


@pytest.mark.parametrize(
    "case",
    [
        Case(model="m", kind="checkpoint", subject="x"),
        Case(model="m", kind="engine", subject="x"),
        Case(model="m", kind="training", precision="mxfp8_e4m3", tier="B"),
    ],
    ids=lambda case: case.kind,
)
def test_what_is_no_recipe_has_none(case: Case) -> None:
    for measuring in (Measuring(), Measuring(recipes={case: recipe("bf16")})):
        with pytest.raises(ValueError, match=f"is a case of kind {case.kind}, which has no recipe"):
            measuring.recipe_of(case)


def test_batches_are_the_option_s_else_the_card_s_else_eight() -> None:
    # of another size than the usual one, or it could not be told which was taken
    name, card = next((name, card) for name, card in CARDS.items() if card.batch_size != DEFAULT_BATCH_SIZE)
    assert Measuring().batch_size_of(name) == card.batch_size
    assert Measuring(models={"mine": name}).batch_size_of("mine") == card.batch_size
    assert Measuring().batch_size_of("ref-llama") == DEFAULT_BATCH_SIZE == 8
    assert Measuring(batch_size=3).batch_size_of(name) == 3


def test_it_loads_no_torch() -> None:
    words = (
        "import sys; from mxcheck.run.measurement_settings import Measuring\n"
        "from mxcheck.gate.case import Case\n"
        "Measuring().recipe_of(Case(model='m', precision='fp8_e4m3', tier='B'))\n"
        "print([name for name in ('torch', 'numpy', 'pytest') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr
