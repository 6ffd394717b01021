"""The table's words for a case that is not red. Apart, so that collecting does not load the table."""

GOOD = ("pass", "accepted", "updated", "recentred")
