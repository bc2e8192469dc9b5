"""A run's buffer, through outages: a recording host that fails as the network does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agents_sdk.buffer import Buffer, Event, Item, Text
from agents_sdk.pending import Pending
from broker.errors import (
    BrokerUnavailable,
    EventTooLarge,
    Fenced,
    PublishError,
    RuncastError,
    RunClosed,
    SequenceGap,
)
from broker.lifecycle import State
from broker.redis.publisher import Publication


def event(seq: int, body: bytes = b"{}") -> Event:
    return Event(
        Publication(seq=seq, event_type="agent_thinking", body=body, state=State.RUNNING, sent="st")
    )


class Log:
    """Keeps what arrives as the script would: in order of ``seq``, once."""

    def __init__(self) -> None:
        self.arrived: list[int] = []
        self.text = ""
        self.attempts: list[Item] = []
        self.fail: Callable[[Item], Awaitable[None]] | None = None
        self.lose_replies = 0
        self.reachable = asyncio.Event()
        self.reachable.set()

    async def send(self, item: Item) -> str:
        self.attempts.append(item)
        if self.fail is not None:
            await self.fail(item)
        if not self.reachable.is_set():
            raise BrokerUnavailable(why="down")
        if isinstance(item, Text):
            self._append(item)
            return ""
        seq = item.publication.seq
        if seq > len(self.arrived) + 1:
            raise SequenceGap(subject="r")
        if seq == len(self.arrived) + 1:
            self.arrived.append(seq)
        if self.lose_replies:
            self.lose_replies -= 1
            raise BrokerUnavailable(why="lost", outcome_unknown=True)
        return f"{seq}-0"

    def _append(self, item: Text) -> None:
        length = len(self.text.encode())
        if length >= item.offset + item.size:
            return
        if length != item.offset:
            raise SequenceGap(subject="r")
        self.text += item.text


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def lost() -> list[RuncastError]:
    return []


@pytest.fixture
def buffer(log: Log, lost: list[RuncastError]) -> Buffer:
    return Buffer(log.send, run_id="r", on_lost=lost.append)


async def test_events_are_confirmed_with_their_ids(buffer: Buffer) -> None:
    first, second = event(1), event(2)
    buffer.put(first)
    buffer.put(second)
    assert await buffer.confirmed(second, timeout_seconds=5) == "2-0"
    assert await buffer.confirmed(first, timeout_seconds=0) == "1-0"


async def test_a_lost_reply_is_asked_for_again_and_the_event_is_there_once(
    buffer: Buffer, log: Log
) -> None:
    log.lose_replies = 3
    events = [event(seq) for seq in (1, 2, 3)]
    for each in events:
        buffer.put(each)
    assert [await buffer.confirmed(each, timeout_seconds=5) for each in events] == [
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
    await buffer.flushed(timeout_seconds=5)
    assert waiting.done.result() == "1-0"


async def test_a_cancelled_caller_cancels_nothing_but_his_wait(buffer: Buffer, log: Log) -> None:
    log.reachable.clear()
    kept = event(1)
    buffer.put(kept)
    caller = asyncio.create_task(buffer.confirmed(kept, timeout_seconds=5))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    log.reachable.set()
    await buffer.flushed(timeout_seconds=5)
    assert log.arrived == [1]


async def test_text_not_sent_yet_is_merged_and_text_sent_is_not(buffer: Buffer, log: Log) -> None:
    log.reachable.clear()
    buffer.put(Text(0, "a", 1))
    await until(lambda: bool(log.attempts))
    buffer.put(Text(1, "é", 2))
    buffer.put(Text(3, "c", 1))
    assert len(buffer) == 2
    log.reachable.set()
    await buffer.flushed(timeout_seconds=5)
    assert log.text == "aéc"
    assert [item.text for item in log.attempts[-2:] if isinstance(item, Text)] == ["a", "éc"]


async def test_a_full_buffer_says_so_and_has_room_again(log: Log) -> None:
    pending: Pending[Item] = Pending(max_items=1)
    buffer = Buffer(log.send, run_id="r", on_lost=lambda _: None, pending=pending)
    log.reachable.clear()
    buffer.put(event(1))
    assert buffer.full
    with pytest.raises(PublishError):
        await buffer.room(timeout_seconds=0.01)
    log.reachable.set()
    await buffer.room(timeout_seconds=5)
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
        await buffer.confirmed(second, timeout_seconds=5)
    assert [type(error) for error in lost] == [refusal]
    later = event(3)
    buffer.put(later)
    with pytest.raises(refusal):
        await buffer.confirmed(later, timeout_seconds=5)
    await buffer.flushed(timeout_seconds=0)


async def test_text_that_no_longer_fits_what_is_kept_does_not_lose_the_run(
    buffer: Buffer, log: Log, lost: list[RuncastError]
) -> None:
    buffer.put(Text(7, "after a gap", 11))
    said = event(1)
    buffer.put(said)
    assert await buffer.confirmed(said, timeout_seconds=5) == "1-0"
    assert not lost


async def test_closing_gives_up_and_says_so(buffer: Buffer, log: Log) -> None:
    log.reachable.clear()
    given_up = event(1)
    buffer.put(given_up)
    await until(lambda: bool(log.attempts))
    await buffer.close()
    assert isinstance(given_up.done.exception(), PublishError)
    assert len(buffer) == 0


async def test_a_defect_in_sending_is_not_retried_for_ever(log: Log) -> None:
    lost: list[RuncastError] = []

    async def broken(item: Item) -> None:
        raise TypeError("a defect")

    log.fail = broken
    buffer = Buffer(log.send, run_id="r", on_lost=lost.append)
    said = event(1)
    buffer.put(said)
    with pytest.raises(RuncastError, match="a defect"):
        await buffer.confirmed(said, timeout_seconds=5)
    assert lost


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # nothing here could set an event
            await asyncio.sleep(0.001)
