"""Records, runs and merges with known verdicts, which are written down by hand."""
