"""Several models at once, one text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents_sdk.integrations.speakers import BETWEEN, Speakers


def said(*steps: tuple[str, str | None]) -> list[str]:
    """What is passed on; ``None`` = the speaker ends."""
    found: list[str] = []
    speakers = Speakers(found.append)
    for speaker, text in steps:
        if text is None:
            speakers.end(speaker)
        else:
            speakers.say(speaker, text)
    return found


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([("a", "1"), ("a", "2"), ("a", None)], ["1", "2"]),
        ([("a", "1"), ("a", None), ("b", "2")], ["1", "\n\n2"]),
        ([("a", "1"), ("b", "2"), ("a", "3")], ["1", "3"]),
        ([("a", "1"), ("b", "2"), ("a", None), ("b", "3")], ["1", "\n\n2", "3"]),
        ([("a", "1"), ("b", "2"), ("b", None), ("c", "3"), ("a", None)], ["1", "\n\n2", "\n\n3"]),
        ([("a", ""), ("a", None), ("b", "1")], ["1"]),
        ([("a", None), ("b", "1"), ("c", None), ("b", "2")], ["1", "2"]),
    ],
)
def test_one_speaks_at_a_time(steps: list[tuple[str, str | None]], expected: list[str]) -> None:
    assert said(*steps) == expected


@given(st.lists(st.sampled_from("abcd"), max_size=40))
def test_every_text_comes_whole_and_once_whatever_is_at_the_same_time(order: list[str]) -> None:
    steps: list[tuple[str, str | None]] = [(who, f"{who}{at} ") for at, who in enumerate(order)]
    ends: list[tuple[str, str | None]] = [(who, None) for who in "abcd"]
    text = "".join(said(*steps, *ends))
    whole = ["".join(t for w, t in steps if w == who and t) for who in dict.fromkeys(order)]
    assert sorted(text.split(BETWEEN)) == sorted(whole or [""])
