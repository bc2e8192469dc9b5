"""Where a reader of AG-UI events is."""

from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.cursor import ZERO, Cursor
from gateway.dialects.agui_position import Position, Span, parse

NUMBERS = st.integers(0, 10**18 - 1)
SPANS = st.tuples(NUMBERS, NUMBERS, st.integers(0, 2**32 - 1), st.booleans()).map(
    lambda drawn: Span(min(drawn[:2]), max(drawn[:2]), *drawn[2:])
)
IDS = st.text(min_size=0, max_size=20).filter(lambda text: text.isprintable())


@given(
    st.builds(
        Position,
        st.builds(Cursor, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
        st.none() | st.integers(0, 9999),
        st.dictionaries(IDS, SPANS, max_size=4),
    )
)
def test_what_is_written_is_read_again(position: Position) -> None:
    written = str(position)
    assert parse(written) == position
    assert written.isascii()
    assert not set(written) & set(" /\r\n,")


@pytest.mark.parametrize(
    "text",
    ["", "yesterday", "5", "5-0.", "5-0.x", "5-0.12345", "5-0;", "5-0;=1", "5-0;=2-1-0", "5-0;=1-2",
     "5-0;1-2-3", "5-0;=1-2-g", "5-0;=1-2-123456789"],
)  # fmt: skip
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"cursor|position"):
        parse(text)


def test_how_much_of_an_entry_is_there() -> None:
    position = Position(Cursor(5, 9), 2)
    assert position.has(Cursor(5, 8)) is None
    assert position.has(Cursor(5, 9)) == 2
    assert position.has(Cursor(5, 10)) == 0
    assert Position(Cursor(5, 9)).has(Cursor(5, 9)) is None
    assert Position().has(Cursor(0, 1)) == 0
    assert str(Position()) == str(ZERO)


@given(st.lists(st.binary(max_size=5)))
def test_a_span_grows_and_knows_its_text(pieces: list[bytes]) -> None:
    span, whole = Span(), b"".join(pieces)
    for piece in pieces:
        span = span.grown(piece)
    assert span == Span(0, len(whole), crc32(whole))
    assert span.open == bool(whole)
    assert not span.ended().open
    assert span.rest(whole) == b""
    assert span.rest(whole + b"!") == b"!"
    if whole:
        assert span.rest(whole[:-1]) is None
        assert span.rest(bytes([whole[0] ^ 1]) + whole[1:] + b"!") is None
