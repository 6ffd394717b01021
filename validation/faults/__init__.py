"""Faults as data: what is wrong, where, and which suite has to see it."""
