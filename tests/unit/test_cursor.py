"""Cursors: what Redis writes, and nothing else, compared number by number."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.cursor import ZERO, Cursor, from_redis, parse

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

NUMBERS = st.one_of(
    st.integers(0, 2**64 - 1), st.integers(0, 12), st.sampled_from([9, 10, 99, 100, 2**64 - 1])
)
CURSORS = st.builds(Cursor, NUMBERS, NUMBERS)


@relaxed
@given(CURSORS)
def test_text_and_bytes_round_trip(cursor: Cursor) -> None:
    """What a client sends back is what it was told."""
    assert parse(str(cursor)) == cursor
    assert from_redis(cursor.raw) == cursor
    assert cursor.raw.decode() == str(cursor)


@relaxed
@given(CURSORS, CURSORS)
def test_cursors_compare_part_by_part_as_numbers(one: Cursor, other: Cursor) -> None:
    """Never as text: two events of one millisecond stay in order."""
    assert (one < other) == (one.ms < other.ms or (one.ms == other.ms and one.seq < other.seq))
    assert one >= ZERO


def test_the_tenth_event_of_a_millisecond_comes_after_the_ninth() -> None:
    """Compared as strings, it would not."""
    assert parse("5-9") < parse("5-10") < parse("10-0")


@pytest.mark.parametrize(
    "text",
    [
        "", "-", "5", "5-", "-5", "5-5-5", "05-0", "5-00", "+5-0", " 5-0", "5-0 ", "5-0\n", "5_0-0",
        "a-0", "\u0665-\u0660", "5\u20130", "5-*", "$", "0x5-0", "-1-0", "1e3-0",
        "18446744073709551616-0",
        "0-18446744073709551616", "9" * 5000 + "-0",
    ],
)  # fmt: skip
def test_what_is_no_cursor_is_refused(text: str) -> None:
    """Only the form that Redis writes, with 64 bits: nothing else reaches a command."""
    with pytest.raises(ValueError, match="a cursor"):
        parse(text)


@relaxed
@given(st.text(max_size=24) | st.from_regex(r"[0-9 +_]{1,21}-[0-9]{1,21}"))
def test_parse_accepts_canonical_text_only(text: str) -> None:
    """Any text: a cursor that is written back as the same text, or ValueError."""
    try:
        cursor = parse(text)
    except ValueError:
        canonical = re.fullmatch(r"(0|[1-9]\d*)-(0|[1-9]\d*)", text, re.ASCII)
        assert not canonical or max(map(int, canonical.groups())) >= 2**64
    else:
        assert str(cursor) == text


def test_zero_is_before_every_event() -> None:
    """Resuming from it asks for everything retained; it is a cursor like any other."""
    assert parse("0-0") == ZERO
    assert bool(ZERO)
    assert Cursor(0, 1) > ZERO
