"""Measure the KL divergence of every precision and tier on the reference models, and write our table of
bounds from it by a rule that was fixed before the figures were seen.

    python tools/propose_bounds.py build/bounds > src/mxcheck/gate/bounds.toml

Figures are kept in the folder named, so that a run that was stopped goes on; delete it to measure anew.

The rule. Let K be the largest KL divergence among the models concerned (the three trained reference models
for the default table; the outlier model alone for its own). The bound is 2 K, rounded up to two digits: a
fault that doubles the damage is over its bound, and nothing that a machine's arithmetic does comes near it.
The rise of the cross-entropy, whose expectation on self-sampled text is the KL, has the same bound; the gate
adds an allowance for sampling (`mxcheck.gate.verdict.sampling_allowance`).

Transformer Engine has no CPU build. Its precisions get the bound of what emulates them: one fp32 scale a
tensor for te_fp8_*, the MX format under the scale rule rceil for te_mxfp8.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers.utils.logging import disable_progress_bar

from mxcheck.evaluation.measure import evaluate
from mxcheck.evaluation.tokens import load_tokens
from mxcheck.files.write import write_text
from mxcheck.gate.absolute_checks import two_digits_up
from mxcheck.models.conversion.convert import UnavailableError, convert
from mxcheck.models.recipes.ladder import ALL_LINEARS, LADDER, WHOLE_MODEL, with_tiers
from mxcheck.models.recipes.recipe import Recipe, recipe
from mxcheck.models.zoo.load import load
from mxcheck.run.default_gate import WHOLE_LADDER

TRAINED = ("ref-llama", "ref-neo", "ref-moe")
#: long-llama has the lines of the trained ones.
MEASURED = (*TRAINED, "outlier-llama")
#: Options that quantize more, by their names in a case.
OPTIONS: dict[str, dict[str, Any]] = {
    "+attention": {"attention": True},
    "+outputs": {"outputs": True},
    "+attention+outputs": {"attention": True, "outputs": True},
    "+global-bfloat16": {"elementwise": "bf16"},
    "+global-e4m3": {"elementwise": "fp8_e4m3"},
}
EMULATED: dict[str, dict[str, Any]] = {
    "te_fp8_current": {"precision": "fp8_tensor_e4m3"},
    "te_fp8_delayed": {"precision": "fp8_tensor_e4m3"},
    "te_mxfp8": {"precision": "mxfp8_e4m3", "scale_rule": "rceil"},
}


def recipes() -> Iterator[tuple[str, Recipe]]:
    """Every line of the table and what to measure for it."""
    for precision, tier in with_tiers():
        name = precision if tier is None else f"{precision}-{tier}"
        made = {"precision": precision, **EMULATED.get(precision, {})}
        yield name, recipe(**made, tier=tier)
        if LADDER[precision].library is None and precision not in WHOLE_MODEL:
            for label, more in OPTIONS.items():
                yield f"{name}{label}", recipe(**made, tier=tier, **more)
    for precision in LADDER:
        if precision not in (*WHOLE_MODEL, "mixed"):
            made = {"precision": precision, **EMULATED.get(precision, {})}
            yield f"{precision}-{ALL_LINEARS}", recipe(**made, tier=ALL_LINEARS)


def measure(label: str, kept: dict[str, float | None], store: Path) -> None:
    """KL of every recipe on one model; null where it cannot run."""
    loaded = load(label)
    assert loaded.source.tokens is not None
    tokens = load_tokens(loaded.source.tokens)
    reference = evaluate(loaded.model, tokens, keep_log_probabilities=True)
    for name, made in tqdm(list(recipes()), desc=label):
        if name in kept:
            continue
        try:
            conversion = convert(loaded.model, made)
        except UnavailableError:
            kept[name] = None
            continue
        result = evaluate(loaded.model, tokens, reference=reference, batch_size=made.sequences_a_pass or 8)
        conversion.undo()
        kept[name] = result.kl
        write_text(store, json.dumps(kept))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", type=Path, help="directory for the figures, one JSON file a model")
    parser.add_argument("--models", default=",".join(MEASURED), help="measure these only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bar()
    for label in options.models.split(","):
        store = options.store / f"{label}.json"
        measure(label, json.loads(store.read_text()) if store.is_file() else {}, store)
    if options.models != ",".join(MEASURED):
        return
    kl = {label: json.loads((options.store / f"{label}.json").read_text()) for label in MEASURED}
    print("# Bounds in nats per token. Written by tools/propose_bounds.py, which states the rule.")
    print("# kl bounds the KL divergence to the reference, and the loss's rise where no `rise` is given.")
    print(f"serves = {json.dumps(list(WHOLE_LADDER))}")
    for title, models in (("default", TRAINED), ("models.outlier-llama", ("outlier-llama",))):
        print(f"\n[{title}]")
        for name, _ in recipes():
            worst = max(kl[model][name] for model in models if kl[model][name] is not None)
            key = name if "+" not in name else f'"{name}"'
            print(f"{key} = {{ kl = {two_digits_up(2 * worst):g} }}")


if __name__ == "__main__":
    main()
