"""Estimate what a night of cases takes on GPUs, from counts of each model and named assumptions.

    python tools/night_on_paper.py

Nothing here was measured on a GPU. The counts are those that tools/night.py holds against whole cases on a
CPU; the rates are a datasheet's, times the shares below. Edit the assumptions and run it again.
"""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

#: One H200 by its datasheet: multiply-adds a second in bf16 and in fp32, bytes a second, bytes.
BF16, FP32, BANDWIDTH, MEMORY = 989e12 / 2, 67e12 / 2, 4.8e12, 141e9
#: Shares of these that products and everything else are assumed to reach.
PRODUCTS, STREAMS = 0.5, 0.6
#: Tokens of a case; cases of a model, and how many of them multiply in fp32 (scales of tensors and rows).
TOKENS, CASES, WIDE = 8 * 2048, 30, 8
#: Seconds of each converted module and case, whatever its size: the sum of docs/cost.md's "µs a module"
#: over convert, digests, layers, and forward less bare. Mostly Python, on a CPU.
MODULE = 0.0098
#: Bytes moved: for each weight converted (quantized, decoded, counted, hashed four times) and for each
#: activation cast; for each logit in float64, by tiles.
WEIGHT, ACTIVATION, LOGIT = 100, 4, 100
#: Bytes a second from disk; passes for the figures of layers, over few tokens: each reads all weights.
DISK, LAYER_PASSES = 2e9, 3
#: Share of a device for weights (the rest is for activations), and the weights over the model's size
#: where they are kept, and where they are made at each forward.
ROOM, KEPT, LEAN = 0.9, 2.0, 1.15


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Sizes of a model in bf16. `active`: parameters that one token meets."""

    name: str
    parameters: float
    active: float
    width: int
    layers: int
    vocabulary: int

    def devices(self, copies: float) -> int:
        """Return the devices that hold the weights so many times."""
        return int(-(-2 * copies * self.parameters // (ROOM * MEMORY)))

    def case(self, multiply_adds: float) -> dict[str, float]:
        """Return the seconds of a case by part, on devices that work in turns."""
        logits, stream = TOKENS * self.vocabulary, STREAMS * BANDWIDTH
        head = logits * self.width / (PRODUCTS * BF16)
        activations = 9.5 * self.width * self.layers * TOKENS
        return {
            "forward": self.active * TOKENS / (PRODUCTS * multiply_adds) + head,
            "casts": ACTIVATION * activations / stream,
            "metrics": LOGIT * logits / stream + head,
            "convert, digests": WEIGHT * self.parameters / stream,
            "layers": LAYER_PASSES * 2 * self.parameters / stream,
            "modules": MODULE * 7 * self.layers,
        }


MODELS = [
    Model(name="smollm2-135m", parameters=135e6, active=135e6, width=576, layers=30, vocabulary=49_152),
    Model(name="qwen1.5-0.5B", parameters=464e6, active=464e6, width=1024, layers=24, vocabulary=151_936),
    Model(name="phi-1_5", parameters=1.4e9, active=1.4e9, width=2048, layers=24, vocabulary=51_200),
    Model(name="qwen2.5-7b", parameters=7.6e9, active=7.6e9, width=3584, layers=28, vocabulary=152_064),
    Model(name="llama-3.1-8b", parameters=8.0e9, active=8.0e9, width=4096, layers=32, vocabulary=128_256),
    Model(name="phi-3-medium", parameters=14e9, active=14e9, width=5120, layers=40, vocabulary=32_064),
    Model(name="qwen2.5-14b", parameters=14.8e9, active=14.8e9, width=5120, layers=48, vocabulary=152_064),
    Model(name="mpt-30b", parameters=30e9, active=30e9, width=7168, layers=48, vocabulary=50_432),
    Model(name="yi-34b", parameters=34.4e9, active=34.4e9, width=7168, layers=60, vocabulary=64_000),
    Model(name="mixtral-8x7b", parameters=46.7e9, active=12.9e9, width=4096, layers=32, vocabulary=32_000),
    Model(name="a 70B Llama", parameters=70e9, active=70e9, width=8192, layers=80, vocabulary=128_256),
]


def main() -> None:
    """Print each model's case by part, and the night."""
    parts = [*MODELS[0].case(BF16)]
    table = Table(
        "model", "devices kept", "lean", *parts, "case", "over forward", "wide", "30 cases", box=None
    )
    total = 0.0
    for model in MODELS:
        case, wide = model.case(BF16), model.case(FP32)
        seconds = sum(case.values())
        loading = 2 * model.parameters / DISK + case["forward"] + case["layers"]
        night = loading + (CASES - WIDE) * seconds + WIDE * sum(wide.values())
        total += night * model.devices(LEAN)
        table.add_row(
            *[model.name, str(model.devices(KEPT)), str(model.devices(LEAN))],
            *[f"{case[part]:.2f}" for part in parts],
            *[f"{seconds:.1f} s", f"{seconds / case['forward']:.1f}", f"{sum(wide.values()):.1f} s"],
            f"{night / 60:.1f} min",
        )
    console = Console(width=140)
    console.print(table)
    console.print(f"all: {total / 3600:.1f} device hours; on 8 devices at least {total / 8 / 60:.0f} min")


if __name__ == "__main__":
    main()
