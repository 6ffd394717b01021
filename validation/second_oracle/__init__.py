"""The casts of the oracle, `mxcheck.formats`, computed in another way, to compare the two."""
