"""One honest record, and what a test changes about it."""

from __future__ import annotations

from typing import Any

from mxcheck.gate.record import Noise, Record

NOISE = Noise(
    environments=["ATEN_CPU_CAPABILITY=default", "MKL_CBWR=COMPATIBLE"],
    reference_median=8e-6,
    reference_rms=1e-5,
    reference_max=1.5e-5,
    loss_median=8e-5,
    loss_rms=1e-4,
    loss_max=1.5e-4,
    kl_median=1.6e-5,
    kl_rms=2e-5,
    kl_max=3e-5,
)

_E4M3 = {"format": "fp8_e4m3", "block_size": 32, "scale_rule": "floor"}
CASTS = {"weights": _E4M3, "activations": _E4M3}


def build_record(**changes: Any) -> Record:
    """A case of two modules and four sequences that passes every check against itself."""
    figures: dict[str, Any] = {
        "model": "ref-llama",
        "precision": "fp8_e4m3",
        "tier": "B",
        "options": [],
        "recipe": {"precision": "fp8_e4m3", "tier": "B", "roles": {"attention": CASTS, "mlp": CASTS}},
        "changes_bits": True,
        "fingerprints": {"weights": "a" * 64, "tokenizer": "b" * 64, "tokens": "c" * 64},
        "arithmetic": "f" * 64,
        "environment": {"torch": "2.9.0", "capability": "AVX2", "threads": "1"},
        "replaced": {"layers.0.up": "mlp", "layers.0.q": "attention"},
        "unconverted": {},
        "weight_bytes": 33_792,
        "original_bytes": 131_072,
        "digests": {
            "layers.0.up": {"weight": "d1", "operands": "e1"},
            "layers.0.q": {"weight": "d2", "operands": "e2"},
        },
        "corpus": {"used": "self", "block_length": 256},
        "scored_tokens": 1_000_000_000,  # so many that the sampling allowance vanishes
        "reference_cross_entropy": 2.0125,
        "reference_entropy": 2.0125,
        "reference_losses": [2.0, 2.1, 1.9, 2.05],
        "reference_entropies": [2.01, 2.08, 1.92, 2.04],
        "bit_equal": False,
        "cross_entropy": 2.01393,
        "perplexity": 7.4927,
        "entropy": 2.0131,
        "kl": 0.001,
        "top1_agreement": 0.9875,
        "sequence_losses": [2.001, 2.102, 1.9015, 2.0512],
        "sequence_kl": [0.001, 0.0011, 0.0009, 0.001],
        "sqnr": {"layers.0.up": 31.25, "layers.0.q": 29.5},
        "metrics": {},
        "noise": NOISE,
    }
    assert changes.keys() <= figures.keys(), "a field that a record has not"
    return Record(**{**figures, **changes})
