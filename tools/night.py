"""Predict what a case costs on a CPU from two small models, and hold that against cases at three more sizes.

    python tools/night.py [--precision NAME] [--tier TIER] [--rounds N]

Every part of a case costs a number of nanoseconds for each of what it works on, and a number for each module
that it visits. Both numbers are solved from the smallest model and the middle one of five; then the other
three are predicted, and measured. Models are Llamas with drawn weights and a vocabulary of 32k, in one
thread, by CPU seconds. docs/cost.md has the figures, and what they say of models that are not here.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from peak_memory import SIZES, VOCABULARY, make
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import logging

from mxcheck.evaluation.layer_states import TOKENS, reference_states
from mxcheck.evaluation.measure import evaluate
from mxcheck.evaluation.spent import spending
from mxcheck.measure.emulation import emulate
from mxcheck.models.recipes.recipe import Recipe, recipe
from mxcheck.models.zoo.load import load

SEQUENCES, LENGTH = 8, 256
#: The models whose parts give the rates.
KNOWN = (2, 50)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A model's counts and CPU seconds, by part of a case. `bare`: before it is converted."""

    parameters: int
    modules: int
    counts: Mapping[str, float]
    seconds: Mapping[str, float]

    @property
    def whole(self) -> float:
        return sum(seconds for part, seconds in self.seconds.items() if part != "bare")


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--precision", default="mxfp8_e4m3")
    parser.add_argument("--tier", default="B")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    made = recipe(given.precision, tier=given.tier)
    cases = {}
    for millions in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            make(millions, Path(folder))
            cases[millions] = measured(load(folder).model, made, given.rounds)
        print(f"measured {cases[millions].parameters / 1e6:.1f}M parameters", flush=True)
    rates = {part: solved(part, *[cases[one] for one in KNOWN]) for part in cases[KNOWN[0]].seconds}
    print(f"\n{given.precision}, tier {given.tier}: {SEQUENCES} sequences of {LENGTH}, {given.rounds} rounds")
    show(cases, rates)


def measured(model: PreTrainedModel, made: Recipe, rounds: int) -> Case:
    """Return a model's case, by medians of rounds after one that is not counted, which tests the casts' code,
    once a process."""
    tokens = torch.randint(VOCABULARY, (SEQUENCES, LENGTH), generator=torch.Generator().manual_seed(1))
    reference = evaluate(model, tokens, batch_size=1, keep_log_probabilities=True)
    states = reference_states(model, tokens)
    held, found = set(), []
    for _ in range(rounds + 1):
        with spending(time.process_time) as parts:
            emulate(model, made, tokens, reference, states, batch_size=1, held=held)
        found.append({**parts, "bare": bare_seconds(model, tokens)})
    linears = [
        one for one in model.modules() if isinstance(one, nn.Linear) and one.out_features != VOCABULARY
    ]
    weights = sum(one.weight.numel() for one in linears)
    products = weights + model.config.hidden_size * VOCABULARY
    attention = 2 * LENGTH * model.config.hidden_size * model.config.num_hidden_layers
    forward = (products + attention) * tokens.numel()
    return Case(
        parameters=sum(one.numel() for one in model.parameters()),
        modules=len(linears),
        counts={
            "bare": forward,
            "forward": forward,
            "convert": weights,
            "digests": weights,
            "layers": weights * TOKENS,
            "metrics": tokens.numel() * VOCABULARY,
        },
        seconds={part: statistics.median(one[part] for one in found[1:]) for part in found[0]},
    )


def bare_seconds(model: PreTrainedModel, tokens: Tensor) -> float:
    """Return the CPU seconds of the model's forward passes."""
    began = time.process_time()
    with torch.inference_mode():
        for sequence in tokens:
            model(sequence[None], use_cache=False)
    return time.process_time() - began


def solved(part: str, small: Case, large: Case) -> tuple[float, float]:
    """Return the seconds of a part for each count and each module, from two models. Metrics visit none."""
    if small.counts[part] == large.counts[part]:
        return large.seconds[part] / large.counts[part], 0.0
    determinant = small.counts[part] * large.modules - large.counts[part] * small.modules
    by_count = (small.seconds[part] * large.modules - large.seconds[part] * small.modules) / determinant
    return by_count, (large.seconds[part] - by_count * large.counts[part]) / large.modules


def show(cases: Mapping[int, Case], rates: Mapping[str, tuple[float, float]]) -> None:
    """Print rates, and what they predict beside what was measured."""
    console = Console(width=140)
    of_parts = Table("part", "ns a count", "µs a module", box=None)
    for part, (by_count, by_module) in rates.items():
        of_parts.add_row(part, f"{1e9 * by_count:.4f}", f"{1e6 * by_module:.0f}")
    console.print(of_parts)
    table = Table("parameters", *rates, "case", "case / bare", "predicted", "off by", box=None)
    for millions, case in cases.items():
        predicted = sum(
            by_count * case.counts[part] + by_module * case.modules
            for part, (by_count, by_module) in rates.items()
            if part != "bare"
        )
        table.add_row(
            f"{case.parameters / 1e6:.1f}M",
            *[f"{case.seconds[part]:.2f}" for part in rates],
            f"{case.whole:.2f} s",
            f"{case.whole / case.seconds['bare']:.2f}",
            "given" if millions in KNOWN else f"{predicted:.2f} s",
            "" if millions in KNOWN else f"{100 * (predicted / case.whole - 1):+.0f} %",
        )
    console.print(table)


if __name__ == "__main__":
    main()
