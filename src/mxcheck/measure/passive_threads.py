"""Load torch so that its threads sleep while they wait for each other."""

from __future__ import annotations

import os
import sys

#: Read once by OpenMP, when torch is loaded.
_POLICY = "OMP_WAIT_POLICY"
#: Environment of a child process that loads torch itself, unless already set.
PASSIVE = {_POLICY: "passive"}


def load_torch() -> None:
    """Import torch, unless it is imported, with a passive wait policy: on busy cores, spinning threads made
    casts at two threads take twenty times as long. Restores the environment, which the user's own child
    processes inherit; leaves a policy that is set alone."""
    if "torch" in sys.modules or _POLICY in os.environ:
        return
    os.environ.update(PASSIVE)
    try:
        import torch  # noqa: F401
    finally:
        del os.environ[_POLICY]
