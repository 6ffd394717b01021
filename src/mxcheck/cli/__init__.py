"""The side door: `mxcheck …`. Measuring goes through pytest."""

from mxcheck.cli.entry import main

__all__ = ["main"]
