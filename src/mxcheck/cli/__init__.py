"""The command line `mxcheck …`. Measurements go through pytest."""

from mxcheck.cli.entry import main

__all__ = ["main"]
