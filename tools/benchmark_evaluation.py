"""What quantization costs: evaluating a converted model against the same transformers model unquantized.

Both are measured in turns within one run, with all metrics, and only their ratio is reported: the seconds
of a shared machine mean nothing.

    python tools/benchmark_evaluation.py [--rounds 5]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import PreTrainedModel

from mxcheck.evaluation.measure import evaluate
from mxcheck.evaluation.tokens import load_tokens
from mxcheck.models.conversion.convert import UnavailableError, convert
from mxcheck.models.recipes.ladder import with_tiers
from mxcheck.models.recipes.recipe import recipe
from mxcheck.models.zoo.load import load
from mxcheck.run.default_gate import WHOLE_LADDER


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    table = Table("model", "precision", "tier", "ratio (median)", "least", "most", box=None)
    for name in WHOLE_LADDER:
        loaded = load(name)
        assert loaded.source.tokens is not None
        tokens = load_tokens(loaded.source.tokens)
        reference = evaluate(loaded.model, tokens, keep_log_probabilities=True)
        cases = [case for case in with_tiers() if case[1] is not None and _runs(loaded.model, *case)]
        ratios: dict[tuple[str, str | None], list[float]] = {case: [] for case in cases}
        for _ in track(range(rounds), description=name):
            for precision, tier in cases:
                made = recipe(precision, tier=tier)
                together = made.sequences_a_pass or 8  # of both: one sequence a pass is slower by itself
                measure = partial(evaluate, loaded.model, tokens, reference=reference, batch_size=together)
                plain = _seconds(measure)
                conversion = convert(loaded.model, made)
                quantized = _seconds(measure)
                conversion.undo()
                ratios[precision, tier].append(quantized / plain)
        for (precision, tier), values in ratios.items():
            figures = (statistics.median(values), min(values), max(values))
            table.add_row(name, precision, tier or "", *[f"{figure:.2f}" for figure in figures])
    Console().print(table)


def _runs(model: PreTrainedModel, precision: str, tier: str | None) -> bool:
    try:
        convert(model, recipe(precision, tier=tier)).undo()
    except UnavailableError:
        return False
    return True


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
