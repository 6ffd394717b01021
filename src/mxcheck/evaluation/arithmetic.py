"""Digest fixed products, shaped as a model's are, to tell whether two machines have the same
arithmetic.

Equal losses of the fp32 reference do not show this for a precision that computes in another dtype: with
oneDNN limited to AVX2 the reference stayed bit-equal here, while every bf16 product changed.
"""

from __future__ import annotations

import hashlib

import torch

from mxcheck.models.conversion.probe import probe
from mxcheck.models.zoo.load import tensor_bytes

#: (batch, rows, inner, columns): a projection, the two products of attention, the output embedding.
_SHAPES = ((1, 2048, 128, 344), (32, 256, 32, 256), (32, 256, 256, 32), (1, 2048, 128, 1024))


def product_digest(dtype: torch.dtype, device: str = "cpu") -> str:
    """Return the SHA-256 of the results of fixed matrix products computed in `dtype` on `device`."""
    digest = hashlib.sha256()
    for batch, rows, inner, columns in _SHAPES:
        left = probe(batch * rows, inner).view(batch, rows, inner).to(device, dtype)
        right = probe(batch * columns, inner).view(batch, columns, inner).to(device, dtype)
        digest.update(tensor_bytes(left @ right.mT))
    return digest.hexdigest()
