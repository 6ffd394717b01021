"""Figures of single positions: losses, entropies, and distances from the reference, each from rows of logits.

Everything is computed in float64, a tile of rows at a time, in memory that is allocated once: the copies of
a tile stay in the processor's cache, and no more logits than these are ever held in float64. (Beside new
memory for each step, which the kernel has to hand out page by page, this takes a fifth of the time.) The
operations are those of whole rows, so that neither tiles nor chunks change a bit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from mxcheck.evaluation.metrics import Metric

#: Logits in a tile. Three copies in float64 take 1.5 MiB, which fits the second-level cache of a core; a GPU
#: needs more to be kept busy, as do the user's metrics, which are Python functions.
_TILE, _LARGE_TILE = 2**16, 2**22


class NotFiniteError(ValueError):
    """A row has log-probabilities that are NaN or infinite."""


class TokenFigures:
    """Computes the figures of rows of logits over one vocabulary, on one device.

    Args:
        vocabulary: length of a row.
        device: where the rows are scored.
        metrics: the user's own, for rows with a reference.
    """

    def __init__(self, vocabulary: int, device: torch.device, metrics: Sequence[Metric] = ()) -> None:
        self._metrics = metrics
        tile = _TILE if device.type == "cpu" and not metrics else _LARGE_TILE
        self._height = max(1, tile // vocabulary)
        self._scratch = torch.empty(3, self._height, vocabulary, dtype=torch.float64, device=device)

    def of(
        self, logits: Tensor, targets: Tensor, reference_logits: Tensor | None = None
    ) -> dict[str, list[float]]:
        """Return figures by name, one number a row: `loss` and `entropy`, in nats; with a reference
        `reference_loss`, `kl` (reference || model), `top1_agreement` and `bit_equal` (1 or 0), and the
        metrics.

        Args:
            logits: [rows, vocabulary] in any floating-point dtype.
            targets: int64 [rows], the true next tokens, on the device.
            reference_logits: the reference's, of the same shape, on any device.

        Raises NotFiniteError where log-probabilities of a row are, ValueError for a metric at fault.
        """
        # Python numbers, not tensors: small tensors that stay between large ones that are freed keep malloc
        # from reusing the gaps, and the process grew by the size of the whole logits
        found: dict[str, list[float]] = defaultdict(list)
        for start in range(0, len(logits), self._height):
            rows = slice(start, min(start + self._height, len(logits)))
            log_p, reference_log_p, spare = self._scratch[:, : rows.stop - rows.start]
            _log_softmax(logits[rows], log_p, spare)
            figures = _figures(log_p, targets[rows], spare)
            if not torch.isfinite(figures["entropy"]).all():  # a term is, where its log-probability is
                raise NotFiniteError("log-probabilities are NaN or infinite")
            if reference_logits is not None:
                _log_softmax(reference_logits[rows], reference_log_p, spare)
                figures |= {one.name: one(log_p, targets[rows], reference_log_p) for one in self._metrics}
                figures |= _distances(log_p, reference_log_p, targets[rows], spare)
            for name, values in figures.items():
                found[name] += values.tolist()
        return found


def _log_softmax(logits: Tensor, log_p: Tensor, spare: Tensor) -> None:
    """Write the log-probabilities of `logits` to `log_p`, by way of `spare`; both are float64."""
    wide = spare.copy_(logits)
    torch.log_softmax(wide, dim=-1, out=log_p)


def _figures(log_p: Tensor, targets: Tensor, spare: Tensor) -> dict[str, Tensor]:
    """Return the figures of rows by themselves, each [rows]. Writes over `spare`."""
    return {
        "loss": _losses(log_p, targets),
        "entropy": -torch.exp(log_p, out=spare).mul_(log_p).sum(-1),
    }


def _distances(log_p: Tensor, reference_log_p: Tensor, targets: Tensor, spare: Tensor) -> dict[str, Tensor]:
    """Return the figures of rows relative to the reference's, each [rows]. Writes over `spare`, and leaves
    the differences of both in `reference_log_p`."""
    reference_loss = _losses(reference_log_p, targets)
    agreement = _likeliest(reference_log_p) == _likeliest(log_p)
    kl = torch.exp(reference_log_p, out=spare).mul_(reference_log_p.sub_(log_p)).sum(-1)
    # a row whose KL is not 0 differs, and need not be looked at
    equal = torch.zeros_like(kl) if kl.all() else (reference_log_p == 0).all(-1)
    return {
        "reference_loss": reference_loss,
        "kl": kl,
        "top1_agreement": agreement.double(),
        "bit_equal": equal.double(),
    }


def _losses(log_p: Tensor, targets: Tensor) -> Tensor:
    return -log_p.gather(-1, targets[:, None])[:, 0]


def _likeliest(log_p: Tensor) -> Tensor:
    """Return the first of the most likely tokens of each row, int64 [rows]."""
    # on a CPU numpy compares several at once, and takes a twentieth of torch's time
    return torch.from_numpy(log_p.numpy().argmax(-1)) if log_p.is_cpu else log_p.argmax(-1)
