"""What only this repository's own test run needs."""

pytest_plugins = ["pytester"]
