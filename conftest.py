"""What only this repository's own test run needs."""

from __future__ import annotations

import logging

pytest_plugins = ["pytester"]

# torchao is installed as a peer to compare with, and transformers imports it wherever it is. It then logs, in
# each worker, that its CUDA libraries cannot be loaded on a CPU, and torch that two registrations are old.
for name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(name).setLevel(logging.ERROR)
