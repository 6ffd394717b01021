"""Measure mxcheck's sensitivity, by faults put into its code, and its false alarms, in control environments;
compare our casts with the oracle on every fp32 number.

It runs in a checkout (`python -m validation`) and is not in the wheel.
"""

from __future__ import annotations

from pathlib import Path

import mxcheck
from mxcheck.distributed.provenance import folder_digest

#: The folder that contains `validation`.
ROOT = Path(__file__).parent.parent


def sources_digest() -> str:
    """Return the digest of mxcheck with its data, and of this package: results from other sources do not
    count."""
    assert mxcheck.__file__ is not None
    return folder_digest(Path(mxcheck.__file__).parent) + folder_digest(Path(__file__).parent)
