"""A run's buffer, through outages: a recording host that fails as the network does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import structlog

from agents_sdk.buffer import Buffer, Event, Item, Text
from agents_sdk.pending import KEPT_BYTES, KEPT_ITEMS, WINDOW, Pending
from broker.errors import (
    BrokerUnavailable,
    EventTooLarge,
    Fenced,
    PublishError,
    RuncastError,
    RunClosed,
    SequenceGap,
)
from broker.events import MAX_DELTA_CHARACTERS
from broker.lifecycle import State
from broker.publication import Publication
from broker.redis.client import Receiver


def event(seq: int, *, status: str | None = None, body: bytes = b"{}") -> Event:
    return Event(
        Publication(
            seq=seq,
            event_type="agent_completed" if status else "agent_thinking",
            body=body,
            state=State.COMPLETED if status else State.RUNNING,
            sent="st",
            status=status,
        )
    )


class Log:
    """Keeps what arrives as the script would: in order of ``seq``, once."""

    def __init__(self) -> None:
        self.arrived: list[int] = []
        self.text = ""
        self.attempts: list[Item] = []
        self.fail: Callable[[Item], Awaitable[None]] | None = None
        self.lose_replies = 0
        self.closed = False
        self.tasks: set[asyncio.Task[bytes]] = set()
        self.reachable = asyncio.Event()
        self.reachable.set()

    def send(self, item: Item, receiver: Receiver) -> None:
        task = asyncio.create_task(self._take(item))
        self.tasks.add(task)
        task.add_done_callback(partial(self._answer, receiver))

    def _answer(self, receiver: Receiver, task: asyncio.Task[bytes]) -> None:
        self.tasks.discard(task)
        error = task.exception()
        if error is None:
            receiver.set_result(task.result())
        else:
            receiver.set_exception(error)

    async def _take(self, item: Item) -> bytes:
        self.attempts.append(item)
        if self.fail is not None:
            await self.fail(item)
        if not self.reachable.is_set():
            raise BrokerUnavailable(why="down")
        if isinstance(item, Text):
            if self.closed:
                raise RunClosed(subject="r")
            self._append(item)
            self._lose_reply()
            return b""
        seq = item.publication.seq
        if seq > len(self.arrived) + 1:
            raise SequenceGap(subject="r", detail=f"at {len(self.arrived)}")
        if seq == len(self.arrived) + 1:
            self.arrived.append(seq)
            self.closed = item.final
        self._lose_reply()
        return b"%d-0" % seq

    def _lose_reply(self) -> None:
        if self.lose_replies:
            self.lose_replies -= 1
            raise BrokerUnavailable(why="lost", outcome_unknown=True)

    def _append(self, item: Text) -> None:
        length = len(self.text.encode())
        if length >= item.offset + item.size:
            return
        if length != item.offset:
            raise SequenceGap(subject="r", detail=f"text at {length}")
        self.text += item.text


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def lost() -> list[RuncastError]:
    return []


@pytest.fixture
async def buffer(log: Log, lost: list[RuncastError]) -> Buffer:
    return Buffer(log.send, run_id="r", on_lost=lost.append, written=written)


TEXT = "Grüße aus Zürich, "


def written(start: int, end: int) -> str:
    return (TEXT * 2000).encode()[start:end].decode()


async def test_events_are_confirmed_with_their_ids(buffer: Buffer) -> None:
    first, second = event(1), event(2)
    buffer.put(first)
    buffer.put(second)
    assert await buffer.confirmed(second, timeout_seconds=60) == "2-0"
    assert await buffer.confirmed(first, timeout_seconds=0) == "1-0"


async def test_a_lost_reply_is_asked_for_again_and_the_event_is_there_once(
    buffer: Buffer, log: Log
) -> None:
    log.lose_replies = 3
    events = [event(seq) for seq in (1, 2, 3)]
    for each in events:
        buffer.put(each)
    assert [await buffer.confirmed(each, timeout_seconds=60) for each in events] == [
        "1-0",
        "2-0",
        "3-0",
    ]
    assert log.arrived == [1, 2, 3]
    assert len(log.attempts) > 3


async def test_a_caller_waits_no_longer_than_he_asked_and_the_event_is_sent_later(
    buffer: Buffer, log: Log
) -> None:
    log.reachable.clear()
    waiting = event(1)
    buffer.put(waiting)
    with pytest.raises(PublishError, match=r"1 event\(s\) not confirmed yet.*down"):
        await buffer.confirmed(waiting, timeout_seconds=0.01)
    log.reachable.set()
    await buffer.flushed(timeout_seconds=60)
    assert waiting.id == "1-0"


async def test_a_cancelled_caller_cancels_nothing_but_his_wait(buffer: Buffer, log: Log) -> None:
    log.reachable.clear()
    kept = event(1)
    buffer.put(kept)
    caller = asyncio.create_task(buffer.confirmed(kept, timeout_seconds=60))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    log.reachable.set()
    await buffer.flushed(timeout_seconds=60)
    assert log.arrived == [1]


async def test_each_caller_waits_as_long_as_he_asked(buffer: Buffer, log: Log) -> None:
    """There is one timer for all of them, whichever is told first."""
    log.reachable.clear()
    events = [event(seq) for seq in (1, 2, 3)]
    for each in events:
        buffer.put(each)
    told: list[int] = []

    async def wait(said: Event, seconds: float) -> None:
        with pytest.raises(PublishError):
            await buffer.confirmed(said, timeout_seconds=seconds)
        told.append(said.seq)

    patient = asyncio.create_task(buffer.confirmed(events[0], timeout_seconds=60))
    await asyncio.gather(wait(events[2], 0.06), wait(events[1], 0.01))
    assert told == [2, 3]
    log.reachable.set()
    assert await patient == "1-0"


async def test_what_is_said_in_one_turn_leaves_together_and_the_rest_behind_it(
    buffer: Buffer, log: Log
) -> None:
    held = asyncio.Event()

    async def hold(item: Item) -> None:
        await held.wait()

    log.fail = hold
    for seq in (1, 2, 3):
        buffer.put(event(seq))
    await until(lambda: len(log.attempts) == 3)
    buffer.put(event(4))
    await asyncio.sleep(0)
    assert len(log.attempts) == 3
    held.set()
    await buffer.flushed(timeout_seconds=60)
    assert log.arrived == [1, 2, 3, 4]
    assert len(log.attempts) == 4, "none was sent twice"


async def test_no_more_than_a_window_is_on_its_way(buffer: Buffer, log: Log) -> None:
    held = asyncio.Event()

    async def hold(item: Item) -> None:
        await held.wait()

    log.fail = hold
    for seq in range(1, WINDOW + 11):
        buffer.put(event(seq))
    await until(lambda: len(log.attempts) == WINDOW)
    await asyncio.sleep(0)
    assert len(log.attempts) == WINDOW
    held.set()
    await buffer.flushed(timeout_seconds=60)
    assert log.arrived == list(range(1, WINDOW + 11))


async def test_a_reply_that_comes_after_closing_changes_nothing(buffer: Buffer, log: Log) -> None:
    held = asyncio.Event()

    async def hold(item: Item) -> None:
        await held.wait()

    log.fail = hold
    said = event(1)
    buffer.put(said)
    await until(lambda: bool(log.attempts))
    buffer.close()
    held.set()
    await until(lambda: not log.tasks)
    await asyncio.sleep(0)
    assert (log.arrived, said.id) == ([1], None)


async def test_text_not_sent_yet_is_merged_and_text_sent_is_not(buffer: Buffer, log: Log) -> None:
    log.reachable.clear()
    buffer.put(Text(0, "a", 1))
    await until(lambda: bool(log.attempts))
    buffer.put(Text(1, "é", 2))
    buffer.put(Text(3, "c", 1))
    assert len(buffer) == 2
    log.reachable.set()
    await buffer.flushed(timeout_seconds=60)
    assert log.text == "aéc"
    assert [item.text for item in log.attempts[-2:] if isinstance(item, Text)] == ["a", "éc"]


async def test_a_full_buffer_says_so_and_has_room_again(log: Log) -> None:
    pending: Pending[Item] = Pending(max_items=1)
    buffer = Buffer(log.send, run_id="r", on_lost=lambda _: None, written=written, pending=pending)
    log.reachable.clear()
    buffer.put(event(1))
    assert buffer.full
    with pytest.raises(PublishError):
        await buffer.room(timeout_seconds=0.01)
    log.reachable.set()
    await buffer.room(timeout_seconds=60)
    assert not buffer.full


@pytest.mark.parametrize("refusal", [Fenced, RunClosed, SequenceGap, EventTooLarge])
async def test_an_event_refused_for_good_loses_the_run(
    buffer: Buffer, log: Log, lost: list[RuncastError], refusal: Any
) -> None:
    async def refuse(item: Item) -> None:
        raise refusal(subject="r")

    log.fail = refuse
    first, second = event(1), event(2)
    buffer.put(first)
    buffer.put(second)
    with pytest.raises(refusal):
        await buffer.confirmed(second, timeout_seconds=60)
    assert [type(error) for error in lost] == [refusal]
    later = event(3)
    buffer.put(later)
    with pytest.raises(refusal):
        await buffer.confirmed(later, timeout_seconds=60)
    await buffer.flushed(timeout_seconds=0)


async def test_what_a_failover_took_back_is_published_again_before_the_next(
    buffer: Buffer, log: Log, lost: list[RuncastError]
) -> None:
    for seq in range(1, 6):
        buffer.put(event(seq))
    await buffer.flushed(timeout_seconds=60)
    del log.arrived[2:]
    said = event(6)
    buffer.put(said)
    assert await buffer.confirmed(said, timeout_seconds=60) == "6-0"
    assert log.arrived == [1, 2, 3, 4, 5, 6]
    assert not lost


async def test_a_failover_in_mid_window_is_made_up_for(
    buffer: Buffer, log: Log, lost: list[RuncastError]
) -> None:
    """The log goes back while the window is on its way, and the replies of half of it are lost."""

    async def fail(item: Item) -> None:
        if isinstance(item, Event) and item.seq == 5:
            log.fail = None
            del log.arrived[1:]
            raise BrokerUnavailable(why="lost", outcome_unknown=True)

    log.fail = fail
    events = [event(seq) for seq in range(1, 9)]
    for each in events:
        buffer.put(each)
    await buffer.flushed(timeout_seconds=60)
    assert log.arrived == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [each.id for each in events] == [f"{seq}-0" for seq in range(1, 9)]
    assert not lost


async def test_a_log_that_lost_more_than_is_kept_loses_the_run(
    buffer: Buffer, log: Log, lost: list[RuncastError]
) -> None:
    many = KEPT_ITEMS + 5
    for seq in range(1, many + 1):
        buffer.put(event(seq))
    await buffer.flushed(timeout_seconds=60)
    del log.arrived[4:]
    said = event(many + 1)
    buffer.put(said)
    with pytest.raises(SequenceGap):
        await buffer.confirmed(said, timeout_seconds=60)
    assert log.arrived == [1, 2, 3, 4], "nothing is skipped, not even then"
    assert len(lost) == 1


async def test_text_that_a_failover_took_back_is_sent_from_where_it_ends(
    buffer: Buffer, log: Log, lost: list[RuncastError]
) -> None:
    size = len(TEXT.encode())
    buffer.put(Text(0, TEXT, size))
    await buffer.flushed(timeout_seconds=60)
    log.text = TEXT[:3]
    log.attempts.clear()
    buffer.put(Text(size, TEXT, size))
    await buffer.flushed(timeout_seconds=60)
    assert log.text == TEXT * 2
    sent = [item.text for item in log.attempts if isinstance(item, Text)]
    assert sent == [TEXT, TEXT[3:] + TEXT], "the gap is seen, and one delta closes it"
    assert not lost


async def test_text_is_not_too_late_when_the_run_ends_right_behind_it(
    log: Log, lost: list[RuncastError]
) -> None:
    """Taken back by a failover, or its reply lost: the end was accepted before it, and it was
    refused then, and the run thought lost."""
    size = len(TEXT.encode())
    buffer = Buffer(log.send, run_id="r", on_lost=lost.append, written=written)
    buffer.put(Text(0, TEXT, size))
    await buffer.flushed(timeout_seconds=60)
    log.text = ""
    log.lose_replies = 1
    buffer.put(Text(size, TEXT, size))
    buffer.put(event(1, status="succeeded"))
    await buffer.flushed(timeout_seconds=60)
    assert (log.text, log.arrived, lost) == (TEXT * 2, [1], [])


async def test_all_of_a_long_text_is_sent_again_in_bounded_deltas(buffer: Buffer, log: Log) -> None:
    size = len(TEXT.encode())
    for number in range(1999):
        buffer.put(Text(number * size, TEXT, size))
    await buffer.flushed(timeout_seconds=60)
    assert log.text == TEXT * 1999
    log.text = ""
    log.attempts.clear()
    buffer.put(Text(1999 * size, TEXT, size))
    await buffer.flushed(timeout_seconds=60)
    assert log.text == TEXT * 2000
    longest = max(len(item.text) for item in log.attempts if isinstance(item, Text))
    assert longest <= MAX_DELTA_CHARACTERS


async def test_text_over_the_limit_fails_once_and_does_not_lose_the_run(
    buffer: Buffer, log: Log, lost: list[RuncastError]
) -> None:
    async def refuse(item: Item) -> None:
        if isinstance(item, Text):
            raise EventTooLarge(subject="r", detail="text over 10 bytes")

    log.fail = refuse
    with structlog.testing.capture_logs() as entries:
        for seq in range(1, 6):
            buffer.put(Text(seq * 7, "1234567", 7))
            buffer.put(event(seq))
        await buffer.flushed(timeout_seconds=60)
        attempts = len(log.attempts)
        buffer.put(Text(70, "more", 4))
        last = event(6)
        buffer.put(last)
        await buffer.confirmed(last, timeout_seconds=60)
    assert [entry["event"] for entry in entries] == ["text_refused"]
    assert len(log.attempts) == attempts + 1, "text is not tried any more"
    assert log.arrived == [1, 2, 3, 4, 5, 6]
    assert not lost


async def test_an_event_that_overtook_another_is_sent_again(
    buffer: Buffer, log: Log, lost: list[RuncastError]
) -> None:
    """As over the redirections of a Cluster. The first one is too large to be kept."""

    async def overtake(item: Item) -> None:
        if item.seq == 2:
            log.fail = None
            raise SequenceGap(subject="r", detail="at 0")

    log.fail = overtake
    buffer.put(event(1, body=b"x" * (KEPT_BYTES + 1)))
    said = event(2)
    buffer.put(said)
    assert await buffer.confirmed(said, timeout_seconds=60) == "2-0"
    assert log.arrived == [1, 2]
    assert not lost


async def test_text_that_ends_within_a_character_is_not_this_runs_and_fails_alone(
    buffer: Buffer, log: Log, lost: list[RuncastError]
) -> None:
    async def foreign(item: Item) -> None:
        if isinstance(item, Text):
            raise SequenceGap(subject="r", detail="text at 3")

    log.fail = foreign
    buffer.put(Text(0, "Grüße", 7))
    said = event(1)
    buffer.put(said)
    assert await buffer.confirmed(said, timeout_seconds=60) == "1-0"
    assert not lost


async def test_a_gap_that_cannot_be_is_not_tried_for_ever(log: Log) -> None:
    """A server that contradicts itself: it wants what it is given, and refuses it as too early."""
    lost: list[RuncastError] = []

    async def refuse(item: Item) -> None:
        at = "text at 0" if isinstance(item, Text) else "at 0"
        raise SequenceGap(subject="r", detail=at)

    log.fail = refuse
    buffer = Buffer(log.send, run_id="r", on_lost=lost.append, written=written)
    buffer.put(Text(0, "text", 4))
    said = event(1)
    buffer.put(said)
    with pytest.raises(SequenceGap):
        await buffer.confirmed(said, timeout_seconds=60)
    assert len(log.attempts) < 5
    assert len(lost) == 1


async def test_closing_gives_up_and_says_so(buffer: Buffer, log: Log) -> None:
    log.reachable.clear()
    given_up = event(1)
    buffer.put(given_up)
    await until(lambda: bool(log.attempts))
    buffer.close()
    assert isinstance(given_up.error, PublishError)
    assert len(buffer) == 0


async def test_a_defect_in_sending_is_not_retried_for_ever(log: Log) -> None:
    lost: list[RuncastError] = []

    async def broken(item: Item) -> None:
        raise TypeError("a defect")

    log.fail = broken
    buffer = Buffer(log.send, run_id="r", on_lost=lost.append, written=written)
    said = event(1)
    buffer.put(said)
    with pytest.raises(RuncastError, match="a defect"):
        await buffer.confirmed(said, timeout_seconds=60)
    assert lost


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  # nothing here could set an event
            await asyncio.sleep(0.001)
