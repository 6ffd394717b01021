"""Loading torch so that its threads sleep while they wait for each other."""

from __future__ import annotations

import os
import sys

#: OpenMP reads it once, when torch is loaded.
_POLICY = "OMP_WAIT_POLICY"
#: What a child process is started with that loads torch itself, unless it is set.
PASSIVE = {_POLICY: "passive"}


def load_torch() -> None:
    """Import torch, unless it is imported. Threads that wait burn their cores else: where these were busy,
    casts at two threads took twenty times as long. The environment, which the user's own child processes
    inherit, is as it was afterwards; a policy that is set is left alone."""
    if "torch" in sys.modules or _POLICY in os.environ:
        return
    os.environ.update(PASSIVE)
    try:
        import torch  # noqa: F401
    finally:
        del os.environ[_POLICY]
