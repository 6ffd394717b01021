"""The update of accepted baselines that a run asks for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """Baselines that a run may accept.

    Attributes:
        changed: changed and missing ones.
        missing: missing ones.
        recentre: those within tolerance, and nothing new.
        measure: none; nothing is judged either.
    """

    changed: bool = False
    missing: bool = False
    recentre: bool = False
    measure: bool = False

    @property
    def is_update(self) -> bool:
        """True if the run may write a baseline."""
        return self.changed or self.missing

    def covers(self, *, exists: bool) -> bool:
        """Return whether it may write a baseline whose file does or does not exist."""
        return self.changed or (self.missing and not exists)
