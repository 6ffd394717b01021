"""Faults as data: the error, its place, and the suite that must detect it."""
