from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents_sdk.pending import WINDOW, Pending, Reply


@dataclass(eq=False)
class Item:
    number: int
    size: int = 1


def queue(count: int, **bounds: int) -> Pending[Item]:
    pending: Pending[Item] = Pending(**bounds)
    for number in range(count):
        pending.add(Item(number))
    return pending


def test_it_is_full_by_number() -> None:
    pending = queue(2, max_items=3)
    assert not pending.full
    pending.add(Item(2))
    assert pending.full


def test_it_is_full_by_bytes() -> None:
    pending = queue(0, max_bytes=10)
    pending.add(Item(0, size=10))
    assert pending.full
    pending.window()
    pending.settle([Reply.CONFIRMED])
    assert not pending.full


def test_growing_counts() -> None:
    pending = queue(1, max_bytes=10)
    last = pending.last_unsent()
    assert last is not None
    last.size += 9
    pending.grown(9)
    assert pending.full


def test_what_was_sent_never_grows() -> None:
    pending = queue(1)
    pending.window()
    pending.settle([Reply.RETRY])
    assert pending.last_unsent() is None
    pending.add(Item(1))
    assert pending.last_unsent() is not None


def test_the_window_is_bounded() -> None:
    assert len(queue(WINDOW + 1).window()) == WINDOW


def test_a_confirmation_behind_a_failure_does_not_leave() -> None:
    pending = queue(3)
    pending.window()
    verdict = pending.settle([Reply.CONFIRMED, Reply.RETRY, Reply.CONFIRMED])
    assert [item.number for item in verdict.confirmed] == [0]
    assert [item.number for item in pending.window()] == [1, 2]


def test_the_first_refused_leaves_and_is_named() -> None:
    pending = queue(3)
    pending.window()
    verdict = pending.settle([Reply.CONFIRMED, Reply.REFUSED, Reply.RETRY])
    assert verdict.refused is not None
    assert verdict.refused.number == 1
    assert verdict.progress
    assert [item.number for item in pending.clear()] == [2]
    assert len(pending) == 0
    assert not pending.full


@pytest.mark.parametrize("reply", [Reply.RETRY, Reply.REFUSED])
def test_no_confirmation_is_no_progress(reply: Reply) -> None:
    pending = queue(1)
    pending.window()
    assert not pending.settle([reply]).progress


@given(st.integers(1, 200), st.lists(st.sets(st.integers(0, WINDOW - 1), max_size=5), max_size=20))
def test_whatever_fails_everything_leaves_once_and_in_order(
    count: int, rounds: list[set[int]]
) -> None:
    """``rounds``: which of the window's items fail, round by round; then nothing fails any more."""
    pending = queue(count)
    left: list[int] = []
    for failing in [*rounds, *[set[int]()] * (count // WINDOW + 1)]:
        replies = [
            Reply.RETRY if at in failing else Reply.CONFIRMED for at in range(len(pending.window()))
        ]
        left += [item.number for item in pending.settle(replies).confirmed]
    assert left == list(range(count))
