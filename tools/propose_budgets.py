"""Write the budget table from accepted baselines, by a rule that was fixed before the figures were seen.

    python tools/propose_budgets.py [--baselines baselines] > src/mxcheck/gate/budgets.toml

The rule. Let K be the largest KL divergence among the models concerned (the three trained reference models
for the default table; the outlier model alone for its own). The budget is 2 K, rounded up to two digits: a
fault that doubles the damage is over budget, and nothing that a machine's arithmetic does comes near it. The
rise of the cross-entropy, whose expectation on self-sampled text is the KL, has the same budget; the gate
adds an allowance for sampling (`mxcheck.gate.verdict.sampling_allowance`).
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from mxcheck.gate.baseline import read
from mxcheck.models.recipe import MX, TIERS

TRAINED = ("ref-llama", "ref-neo", "ref-moe")
STAGES = ("fp32", "bf16", *(f"{precision}-{tier}" for precision in MX for tier in TIERS))


def two_digits_up(value: float) -> float:
    """Rounded up to two significant digits."""
    if value == 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / unit) * unit:.1e}")


def entry(root: Path, models: tuple[str, ...], stage: str) -> str:
    worst = max(read(root / model / f"{stage}.json").kl for model in models)
    return f"{stage} = {{ kl = {two_digits_up(2 * worst):g} }}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--baselines", type=Path, default=Path("baselines"))
    root = parser.parse_args().baselines
    print("# Budgets in nats per token. Written by tools/propose_budgets.py, which states the rule.")
    print("# kl bounds the KL divergence to the reference, and the loss's rise where no `rise` is given.")
    for title, models in (("default", TRAINED), ("models.outlier-llama", ("outlier-llama",))):
        print(f"\n[{title}]")
        for stage in STAGES:
            print(entry(root, models, stage))


if __name__ == "__main__":
    main()
