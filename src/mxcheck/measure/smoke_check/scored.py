"""Compare `evaluate` on a toy model with the same figures computed from its logits, one token at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from statistics import fmean
from typing import Any

import torch

from mxcheck.evaluation.logits import Limits
from mxcheck.evaluation.measure import Measurement, evaluate
from mxcheck.gate.predictions import KL_PERCENTILES, PROBABILITY_CHANGE_PERCENTILES
from mxcheck.measure.smoke_check.toy_model import VOCABULARY, ToyForCausalLM, toy_model

#: Rounding of float64 sums of a few numbers.
_ROUNDING = 1e-9
_SEQUENCES, _LENGTH, _PARTS = 5, 14, 4
#: Five of thirteen positions per chunk: the last chunk has three.
_BY_CHUNKS = Limits(small=0, chunk=5 * VOCABULARY + 1)
#: Name, chunks, and sequences per pass: with five sequences the last pass has fewer.
_WAYS = (("whole", None, 8), ("by batches", None, 2), ("by chunks", _BY_CHUNKS, 2))


def scored() -> Iterator[tuple[str, str]]:
    """Yield the figures that `evaluate` gets wrong: what it was asked, and what is wrong."""
    generator = torch.Generator().manual_seed(7)
    tokens = torch.randint(
        0, VOCABULARY, (_SEQUENCES, _LENGTH), generator=generator, dtype=torch.int64, device="cpu"
    )
    reference, model = toy_model(1, tied=False), toy_model(2, tied=False)
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        ours.mul_(0.3).add_(theirs, alpha=0.8)
    expected = _by_hand(reference, model, tokens)
    alone = {name: expected[f"reference {name}"] for name in ("losses", "entropies")}
    for way, limits, batch_size in _WAYS:
        base = evaluate(
            reference,
            tokens,
            batch_size=batch_size,
            keep_log_probabilities=True,
            reference_cache=0,  # so that the head computes them again
            limits=limits,
        )
        found = evaluate(model, tokens, reference=base, batch_size=batch_size, limits=limits)
        again = evaluate(reference, tokens, reference=base, batch_size=batch_size, limits=limits)
        yield from _apart(f"reference {way}", _alone(base), alone)
        yield from _apart(f"model {way}", _figures(found), expected)
        yield from _apart(
            f"reference {way}, compared with itself",
            {"KL": again.kl, "bits": again.bit_equal, "top-1": again.top1_agreement},
            {"KL": 0.0, "bits": True, "top-1": 1.0},
        )


def _apart(what: str, found: dict[str, Any], expected: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in found.items():
        if not _equal(value, expected[name]):
            yield f"{name} ({what})", f"expected {expected[name]!r}, got {value!r}"


def _equal(found: Any, expected: Any) -> bool:
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(_equal, found, expected))
    return found == expected or (found is not None and abs(found - expected) <= _ROUNDING)


def _alone(found: Measurement) -> dict[str, Any]:
    return {"losses": found.sequence_losses, "entropies": found.sequence_entropies}


def _figures(found: Measurement) -> dict[str, Any]:
    predicted = found.predictions
    assert predicted is not None
    return {
        **_alone(found),
        "loss": found.cross_entropy,
        "entropy": found.entropy,
        "perplexity": found.perplexity,
        "KL": found.kl,
        "KL by sequence": found.sequence_kl,
        "top-1": found.top1_agreement,
        "top-1 by sequence": predicted.sequence_top1,
        "bits": found.bit_equal,
        "entropies of the predictions": predicted.sequence_entropies,
        "k3": predicted.sequence_k3,
        "KL by position": predicted.kl_by_position,
        "KL percentiles": list(predicted.kl_percentiles.values()),
        "probability change": predicted.probability_change,
        "rms of it": predicted.probability_change_rms,
        "percentiles of it": list(predicted.probability_change_percentiles.values()),
    }


def _by_hand(reference: ToyForCausalLM, model: ToyForCausalLM, tokens: torch.Tensor) -> dict[str, Any]:
    """Compute the same figures from plain lists of logits."""
    with torch.inference_mode():
        p_logits, q_logits = (one(input_ids=tokens).logits.tolist() for one in (reference, model))
    table: list[list[dict[str, float]]] = []
    for sequence, ids in enumerate(tokens.tolist()):
        rows = []
        for position, token in enumerate(ids[1:]):
            p, q = (_probabilities(one[sequence][position]) for one in (p_logits, q_logits))
            ratio = q[token] / p[token]
            rows.append(
                {
                    "p loss": -math.log(p[token]),
                    "q loss": -math.log(q[token]),
                    "p entropy": -math.fsum(one * math.log(one) for one in p),
                    "q entropy": -math.fsum(one * math.log(one) for one in q),
                    "kl": math.fsum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True)),
                    "top": float(p.index(max(p)) == q.index(max(q))),
                    "k3": ratio - 1 - math.log(ratio),
                    "change": q[token] - p[token],
                }
            )
        table.append(rows)
    by_sequence = {name: [fmean(row[name] for row in rows) for rows in table] for name in table[0][0]}
    kl, change = ([row[name] for rows in table for row in rows] for name in ("kl", "change"))
    scored = _LENGTH - 1
    ends = [part * scored // _PARTS for part in range(_PARTS + 1)]
    return {
        "reference losses": by_sequence["p loss"],
        "reference entropies": by_sequence["p entropy"],
        "losses": by_sequence["q loss"],
        "entropies": by_sequence["q entropy"],
        "entropies of the predictions": by_sequence["q entropy"],
        "loss": fmean(by_sequence["q loss"]),
        "entropy": fmean(by_sequence["q entropy"]),
        "perplexity": math.exp(fmean(by_sequence["q loss"])),
        "KL": fmean(kl),
        "KL by sequence": by_sequence["kl"],
        "top-1": fmean(by_sequence["top"]),
        "top-1 by sequence": by_sequence["top"],
        "bits": False,
        "k3": by_sequence["k3"],
        "KL by position": [
            fmean(row["kl"] for rows in table for row in rows[start:stop]) for start, stop in pairwise(ends)
        ],
        "KL percentiles": [_percentile(kl, percent) for percent in KL_PERCENTILES],
        "probability change": fmean(change),
        "rms of it": math.sqrt(fmean(one * one for one in change)),
        "percentiles of it": [_percentile(change, percent) for percent in PROBABILITY_CHANGE_PERCENTILES],
    }


def _probabilities(logits: list[float]) -> list[float]:
    powers = [math.exp(one - max(logits)) for one in logits]
    return [one / math.fsum(powers) for one in powers]


def _percentile(values: list[float], percent: float) -> float:
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
