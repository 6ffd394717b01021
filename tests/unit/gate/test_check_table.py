"""The table of checks: what registers is whole, and every check has the text of its cause."""

from __future__ import annotations

from importlib import resources

import pytest

from mxcheck.gate.cause import ROWS, read_rows
from mxcheck.gate.check import check
from mxcheck.gate.check_table import CHECKS, CheckRow, registered

TEXT = resources.files("mxcheck.gate").joinpath("causes.toml").read_text(encoding="utf-8")


def test_every_check_has_a_step_and_a_cause_of_its_own() -> None:
    for key, row in CHECKS.items():
        assert check(key, True, "").step == row.step
        alone = {key, *row.groups}
        assert any(one.when <= alone and not one.unless and one.means and one.look for one in ROWS), key


@pytest.mark.parametrize("key", CHECKS)
def test_a_check_without_a_cause_is_refused_when_the_table_is_read(key: str) -> None:
    """Each row that answers this check alone goes; another check of its group may be the first to miss it."""
    head, *rows = TEXT.split("[[row]]\n")
    alone = {key, *CHECKS[key].groups}
    left = [row for row, parsed in zip(rows, ROWS, strict=True) if parsed.unless or not parsed.when <= alone]
    with pytest.raises(ValueError, match=r"^causes\.toml has no row for the check '.*' of step \d; add a"):
        read_rows("[[row]]\n".join([head, *left]))


def test_a_symptom_that_nothing_shows_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^unknown symptom of causes\.toml 'losess'; .*mean 'losses'"):
        read_rows(TEXT.replace('when = ["losses"]', 'when = ["losess"]'))
    with pytest.raises(ValueError, match=r"^unknown link of causes\.toml 'wieghts'; .*mean 'weights'"):
        read_rows(TEXT.replace('link = "weights"', 'link = "wieghts"'))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (CheckRow(step=7, key="new"), r"^check 'new' has step 7; allowed: 1, 2, 3, 4, 5, 6$"),
        (CheckRow(step=6, key="new", groups=("cats",)), r"^check 'new' is in \['cats'\]; allowed: casts, "),
        (CheckRow(step=6, key="losses"), r"^two checks are called 'losses'; give one another key$"),
    ],
    ids=["step", "group", "twice"],
)
def test_a_row_that_cannot_be_one_is_refused(row: CheckRow, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        registered([*CHECKS.values(), row])
