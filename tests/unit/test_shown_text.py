"""A run's text as one reader has it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.shown_text import ShownText

PIECES = st.lists(st.text(min_size=1, max_size=5), max_size=8)


@given(PIECES)
def test_pieces_one_after_the_other_are_the_text(pieces: list[str]) -> None:
    shown, offset, said = ShownText(), 0, ""
    for piece in pieces:
        said += shown.delta(offset, piece)
        offset += len(piece.encode())
    assert said == "".join(pieces)
    assert shown.size == offset


@given(PIECES, PIECES)
def test_the_whole_adds_what_is_new_also_after_a_break(before: list[str], after: list[str]) -> None:
    shown = ShownText()
    shown.delta(0, "".join(before))
    again = ShownText.parse(shown.mark)
    assert again.delta(0, "".join(before + after)) == "".join(after)
    assert again.whole("".join(before + after)) == ""


def test_what_it_has_or_what_continues_nothing_adds_nothing() -> None:
    shown = ShownText()
    assert shown.delta(0, "grüße") == "grüße"
    assert shown.delta(0, "grüße") == ""
    assert shown.delta(2, "ü") == ""
    assert shown.delta(99, "x") == ""
    assert shown.delta(0, "gr") == ""
    assert shown.size == len("grüße".encode())


def test_another_text_is_none_of_it() -> None:
    shown = ShownText()
    shown.delta(0, "one")
    assert shown.whole("two and more") is None
    assert shown.delta(0, "two and more") == ""
    assert shown.size == 3


@pytest.mark.parametrize("mark", ["", "x", "-1-0", "²-0", "1-xyz", "1"])
def test_what_is_no_mark_is_refused(mark: str) -> None:
    with pytest.raises(ValueError, match=r"mark|base 16"):
        ShownText.parse(mark)
