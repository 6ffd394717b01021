"""Records, runs and merges whose verdict is known: what the gate has to say of each, written down by hand."""
