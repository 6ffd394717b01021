"""The table of scale rules, and the refusal of an implementation that lacks one."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from mxcheck.formats.elements import ELEMENT_FORMATS
from mxcheck.formats.scale_rules import RULES, check_rules, rules_of


def test_a_table_that_lacks_a_rule_or_has_another_is_refused() -> None:
    check_rules("here", RULES)
    with pytest.raises(ValueError, match=r"^here lacks the scale rule 'even' of formats/scale_rules\.py"):
        check_rules("here", set(RULES) - {"even"})
    with pytest.raises(ValueError, match=r"^here has 'round', which formats/scale_rules\.py lacks; add it$"):
        check_rules("here", [*RULES, "round"])


def test_the_rules_of_each_element_format() -> None:
    for element in ELEMENT_FORMATS.values():
        rules = rules_of(element)
        assert rules[0] == "floor"
        assert ("reciprocal" in rules) is element.name.startswith("fp8_")
        assert ("even" in rules) is (element.name != "mxint8")


@pytest.mark.parametrize(
    ("module", "table"),
    [
        ("mxcheck.formats.oracle", "formats/oracle.py: _ONE_MORE"),
        ("validation.second_oracle.search", "second_oracle/search.py: _BOUND"),
        ("mxcheck.kernels.rules", "kernels/rules.py: SCALE_RULES"),
    ],
)
def test_a_rule_without_an_implementation_stops_the_import(module: str, table: str) -> None:
    """A registered rule that nobody computes: the first table that lacks it says so."""
    words = (
        "import mxcheck.formats.scale_rules as rules, types\n"
        "new = rules.ScaleRule(name='new', what='')\n"
        "rules.RULES = types.MappingProxyType({**rules.RULES, 'new': new})\n"
        f"import {module}"
    )
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert re.fullmatch(
        rf"ValueError: {re.escape(table)} lacks the scale rule 'new' of formats/scale_rules\.py; add it", last
    )
