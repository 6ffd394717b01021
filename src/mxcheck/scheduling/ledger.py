"""PLACEHOLDER"""

from __future__ import annotations

import getpass
import tempfile
from pathlib import Path


def default_folder() -> Path:
    """A user's ledger, where no option names one: on a local disk, and nobody else's to write."""
    return Path(tempfile.gettempdir()) / f"mxcheck-{getpass.getuser()}"
