"""Names that are not allowed: what it was, what is allowed, what was probably meant."""

from __future__ import annotations

import pytest

from mxcheck.formats.choices import choose, unknown

FRUIT = ("apple", "pear", "plum")


@pytest.mark.parametrize("name", FRUIT)
def test_an_allowed_name_is_given_back(name: str) -> None:
    assert choose("fruit", name, iter(FRUIT)) == name


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        pytest.param("aple", "; did you mean 'apple'?", id="near"),
        pytest.param("plums", "; did you mean 'plum'?", id="nearest-of-two"),
        pytest.param("kiwi", "", id="far"),
        pytest.param("Apple", "; did you mean 'apple'?", id="case"),
        pytest.param("", "", id="empty"),
        pytest.param("PLUM", "; did you mean 'plum'?", id="capitals"),
        pytest.param("appl", "; did you mean 'apple'?", id="a-prefix-is-no-name"),
    ],
)
def test_another_name_is_refused_with_the_nearest(name: str, hint: str) -> None:
    message = f"unknown fruit {name!r}; allowed: apple, pear, plum{hint}"
    with pytest.raises(ValueError, match="unknown fruit") as caught:
        choose("fruit", name, iter(FRUIT))
    assert str(caught.value) == message
    assert str(unknown("fruit", name, iter(FRUIT))) == message


def test_what_is_no_text_is_named_as_it_is() -> None:
    assert str(unknown("block size", 31, ["32", "64"])) == (
        "unknown block size 31; allowed: 32, 64; did you mean '32'?"
    )


def test_unknown_gives_the_error_and_does_not_raise_it() -> None:
    """So that its caller's own line is the last of the traceback."""
    assert isinstance(unknown("fruit", "apple", FRUIT), ValueError)
