"""The commands of `python -m validation`."""
