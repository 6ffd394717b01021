"""Run the suites under each fault of the catalogue, and report which check detects it."""
