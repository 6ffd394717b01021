"""Run the suites under each fault of the catalogue, and say what saw it."""
