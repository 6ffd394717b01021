"""What only this repository's own test run needs."""

from __future__ import annotations

from mxcheck.run.library_messages import leave_out_logged

pytest_plugins = ["pytester"]

# The tests of the product import what the product's own tests do.
leave_out_logged()
