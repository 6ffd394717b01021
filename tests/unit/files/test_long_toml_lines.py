"""A line of TOML that its parser would take minutes for: refused as what it is."""

from __future__ import annotations

import pytest

from mxcheck.files.plain_data import TOML_DOTS, DataError, toml_data


def test_a_line_of_many_dots() -> None:
    """Sound TOML, so that nothing else is said of it."""
    line = f'a = "{"." * (TOML_DOTS + 1)}"\n'
    with pytest.raises(DataError, match=r"^it has a line with more than 1,000 dots, which is not read$"):
        toml_data(line)
    assert toml_data(line.replace(".", "", 1))
