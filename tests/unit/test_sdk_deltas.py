from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agents_sdk.deltas import WINDOW_SECONDS, Merger, cut
from broker.events import MAX_DELTA_CHARACTERS


def test_the_first_text_after_a_silence_goes_at_once() -> None:
    merger = Merger()
    merger.add("a")
    assert merger.wait(100.0) == 0
    assert merger.take(100.0) == "a"


def test_what_follows_within_the_window_is_merged() -> None:
    merger = Merger()
    merger.take(1.0)
    merger.add("a")
    merger.add("b")
    assert 0 < merger.wait(1.01) <= WINDOW_SECONDS
    assert merger.wait(1.0 + WINDOW_SECONDS) == 0
    assert merger.take(1.04) == "ab"
    assert not merger


def test_nothing_added_gives_nothing() -> None:
    assert Merger().take(0.0) == ""
    assert cut("") == []


@given(st.lists(st.builds(str.__mul__, st.text(max_size=7), st.integers(0, 5000)), max_size=5))
def test_no_character_is_lost_split_or_reordered(texts: list[str]) -> None:
    merger = Merger()
    for text in texts:
        merger.add(text)
    pieces = cut(merger.take(0.0))
    assert "".join(pieces) == "".join(texts)
    assert all(0 < len(piece) <= MAX_DELTA_CHARACTERS for piece in pieces)
