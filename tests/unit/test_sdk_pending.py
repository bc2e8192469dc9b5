from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents_sdk.pending import KEPT_BYTES, KEPT_ITEMS, WINDOW, Pending, Reply


@dataclass(eq=False)
class Item:
    number: int
    size: int = 1
    seq: int | None = None
    final: bool = False


def event(seq: int, size: int = 1) -> Item:
    return Item(seq, size, seq)


def confirmed(*items: Item) -> Pending[Item]:
    """A queue that has had these confirmed, and is empty."""
    pending: Pending[Item] = Pending(max_items=10_000)
    for item in items:
        pending.add(item)
        pending.window()
        pending.settle([Reply.CONFIRMED])
    return pending


def numbers(pending: Pending[Item]) -> list[int]:
    return [item.number for item in pending.clear()]


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


def test_the_end_does_not_overtake_text() -> None:
    """Text has no number by which a server could refuse what comes behind it."""
    pending = queue(2)
    pending.add(event(1))
    pending.add(Item(9, seq=2, final=True))
    assert [item.number for item in pending.window()] == [0, 1, 1]
    pending.settle([Reply.CONFIRMED, Reply.RETRY, Reply.CONFIRMED])
    assert [item.number for item in pending.window()] == [1, 1]
    pending.settle([Reply.CONFIRMED, Reply.RETRY])
    assert [item.number for item in pending.window()] == [1, 9]


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


def test_what_a_failover_took_back_is_put_in_front_in_order() -> None:
    pending = confirmed(event(1), event(2), Item(0), event(3))
    pending.add(event(4))
    pending.window()
    assert pending.rewind(1) == 2
    assert pending.last_unsent() is None, "what was sent never grows"
    assert numbers(pending) == [2, 3, 4]


def test_it_can_be_taken_back_twice() -> None:
    pending = confirmed(*map(event, range(1, 6)))
    pending.add(event(6))
    assert pending.rewind(3) == 2
    pending.window()
    pending.settle([Reply.CONFIRMED, Reply.RETRY])
    assert pending.rewind(2) == 2
    assert numbers(pending) == [3, 4, 5, 6]


@pytest.mark.parametrize(
    ("at", "why"),
    [(5, "the log does not end before the first"), (6, "nor behind it"), (-1, "no such number")],
)
def test_an_impossible_end_of_the_log_changes_nothing(at: int, why: str) -> None:
    pending = confirmed(*map(event, range(1, 6)))
    pending.add(event(6))
    assert pending.rewind(at) == 0, why
    assert numbers(pending) == [6]


def test_text_and_a_queue_that_begins_anew_have_nothing_to_rewind() -> None:
    pending = confirmed(event(1))
    pending.add(Item(0))
    assert pending.rewind(0) == 0
    fresh = queue(0)
    fresh.add(event(7))
    assert fresh.rewind(5) == 0
    skipped = confirmed(event(1))
    skipped.add(event(3))
    assert skipped.rewind(0) == 0


def test_only_the_newest_are_kept_by_number() -> None:
    last = KEPT_ITEMS + 10
    pending = confirmed(*map(event, range(1, last + 1)))
    pending.add(event(last + 1))
    assert pending.rewind(9) == 0
    assert pending.rewind(10) == KEPT_ITEMS


def test_only_the_newest_are_kept_by_bytes() -> None:
    pending = confirmed(event(1, KEPT_BYTES - 1), event(2), event(3))
    pending.add(event(4))
    assert pending.rewind(0) == 0
    assert pending.rewind(1) == 2
    whole = confirmed(event(1), event(2, KEPT_BYTES + 1))
    whole.add(event(3))
    assert whole.rewind(1) == 0


def test_another_item_takes_the_place_of_the_first() -> None:
    pending = queue(2)
    pending.window()
    pending.replace_first([Item(7), Item(8)])
    assert pending.sent == 3
    assert numbers(pending) == [7, 8, 1]


class Server:
    """The log of one run at a master, as the script keeps it, and at a replica that lags."""

    def __init__(self) -> None:
        self.log: list[int] = []

    def take(self, item: Item) -> Reply:
        if item.seq is not None:
            if item.seq > len(self.log) + 1:
                return Reply.RETRY
            if item.seq == len(self.log) + 1:
                self.log.append(item.seq)
        return Reply.CONFIRMED


class Step(StrEnum):
    ARRIVES = "arrives, and its reply too"
    REPLY_LOST = "arrives, its reply does not"
    LOST = "does not arrive"


ROUND = st.tuples(
    st.lists(st.booleans(), max_size=12),  # what is said before: events, and text
    st.lists(st.sampled_from(Step), max_size=WINDOW),  # what becomes of the window's items
    st.integers(0, 20) | st.none(),  # then a failover takes this many events back
)


@given(st.lists(ROUND, max_size=10))  # so that all of it is within what is kept
def test_whatever_is_taken_back_arrives_again_in_order_and_once(
    rounds: list[tuple[list[bool], list[Step], int | None]],
) -> None:
    """Any interleaving of outages, lost replies and failovers."""
    pending: Pending[Item] = Pending()
    server, said, told = Server(), 0, list[int]()
    calm: list[tuple[list[bool], list[Step], int | None]] = [([True], [], None)] * 10
    for news, steps, taken_back in [*rounds, *calm]:
        for is_event in news:
            said += is_event
            pending.add(event(said) if is_event else Item(0))
        window = pending.window()
        replies = []
        for at, item in enumerate(window):
            step = steps[at] if at < len(steps) else Step.ARRIVES
            reply = Reply.RETRY if step is Step.LOST else server.take(item)
            replies.append(Reply.RETRY if step is Step.REPLY_LOST else reply)
        verdict = pending.settle(replies)
        assert verdict.refused is None
        told += [item.seq for item in verdict.confirmed if item.seq is not None]
        assert server.log == list(range(1, len(server.log) + 1)), "a gap, or a number twice"
        if taken_back is not None:
            del server.log[max(0, len(server.log) - taken_back) :]
        first = next(iter(pending.window()), None)
        if first is not None and first.seq is not None and first.seq > len(server.log) + 1:
            lost = first.seq - 1 - len(server.log)
            assert pending.rewind(len(server.log)) == lost <= KEPT_ITEMS
    assert len(server.log) == said, "everything that was said is there in the end"
    assert sorted(set(told)) == list(range(1, said + 1)), "everything was reported as published"


@given(st.integers(1, 300), st.integers(0, 300), st.integers(1, 5000))
def test_a_rewind_is_whole_or_nothing(count: int, at: int, size: int) -> None:
    """Never a part: whatever is sent after one begins right behind the end of the log."""
    pending = confirmed(*(event(seq, size) for seq in range(1, count + 1)))
    pending.add(event(count + 1))
    again = pending.rewind(at)
    assert again in (0, count - at)
    assert numbers(pending) == list(range(count + 1 - again, count + 2))
