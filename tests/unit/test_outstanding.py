"""What a subscriber has sent and waits for: each reply goes to who asked, or to nobody."""

import asyncio
from collections.abc import Iterator

import pytest
from redis.exceptions import ResponseError

from broker.redis.outstanding import Acknowledged, Outstanding, Waiting, follow


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture
def sent() -> Outstanding:
    return Outstanding()


def waits(loop: asyncio.AbstractEventLoop, *channels: bytes) -> list[Waiting]:
    return [(channel, loop.create_future()) for channel in channels]


def heard(waiting: list[Waiting]) -> list[object]:
    """What each was told, and ``...`` for who waits still."""
    return [future.result() if future.done() else ... for _, future in waiting]


def test_a_batch_is_acknowledged_channel_by_channel(
    loop: asyncio.AbstractEventLoop, sent: Outstanding
) -> None:
    batch, next_one = waits(loop, b"a", b"b"), waits(loop, b"c")
    sent.sent(batch)
    sent.sent(next_one)
    assert sent.acknowledge(b"a")
    assert heard(batch) == [None, ...]
    assert not sent.acknowledge(b"c"), "b is next"
    assert sent.acknowledge(b"b")
    assert sent.acknowledge(b"c")
    assert heard(batch + next_one) == [None] * 3
    assert sent.oldest is None
    assert not sent.acknowledge(b"c"), "nothing is waited for"


def test_who_asks_has_the_acknowledgement_with_all_replies(
    loop: asyncio.AbstractEventLoop, sent: Outstanding
) -> None:
    one, plain = waits(loop, b"a"), waits(loop, b"b")
    sent.sent(one, asked=2)
    sent.sent(plain)
    assert not sent.answer(b"PONG"), "of a PING that was sent before"
    assert sent.acknowledge(b"a")
    assert not sent.acknowledge(b"b"), "what was asked is answered first"
    assert sent.answer([])
    assert heard(one) == [...]
    assert sent.answer({b"run"})
    assert heard(one) == [[[], {b"run"}]]
    assert not sent.answer(b"PONG"), "nothing was asked behind the next one"
    assert sent.acknowledge(b"b")
    assert heard(plain) == [None]


@pytest.mark.parametrize("replies", [[ResponseError("WRONGTYPE"), []], [[], ResponseError("no")]])
def test_who_is_refused_one_answer_has_none_and_nobody_gets_another_s(
    loop: asyncio.AbstractEventLoop, sent: Outstanding, replies: list[object]
) -> None:
    one, two = waits(loop, b"a"), waits(loop, b"b")
    sent.sent(one, asked=2)
    sent.sent(two, asked=1)
    sent.acknowledge(b"a")
    assert all(sent.answer(reply) for reply in replies)
    assert heard(one) == [None]
    assert sent.acknowledge(b"b")
    assert sent.answer(b"own")
    assert heard(two) == [[b"own"]]


def test_of_a_refused_one_the_answers_are_nobody_s(
    loop: asyncio.AbstractEventLoop, sent: Outstanding
) -> None:
    one, two = waits(loop, b"a"), waits(loop, b"b")
    sent.sent(one, asked=2)
    sent.sent(two, asked=1)
    assert sent.refuse() == one
    assert not sent.acknowledge(b"b"), "its answers come first, whatever they are"
    assert sent.answer(ResponseError("MOVED 1 x:1"))
    assert sent.answer(ResponseError("MOVED 1 x:1"))
    assert sent.acknowledge(b"b")
    assert sent.answer(b"own")
    assert (heard(one), heard(two)) == ([...], [[b"own"]])


def test_a_refused_batch_without_questions_is_over(
    loop: asyncio.AbstractEventLoop, sent: Outstanding
) -> None:
    batch, two = waits(loop, b"a", b"b"), waits(loop, b"c")
    sent.sent(batch)
    sent.sent(two)
    assert sent.refuse() == batch
    assert sent.acknowledge(b"c")


def test_when_the_connection_is_lost_everybody_waits_still(
    loop: asyncio.AbstractEventLoop, sent: Outstanding
) -> None:
    answering, batch = waits(loop, b"a"), waits(loop, b"b", b"c")
    sent.sent(answering, asked=2)
    sent.sent(batch)
    sent.acknowledge(b"a")
    sent.answer([])
    assert list(sent) == answering + batch
    assert sent.clear() == answering + batch
    assert sent.oldest is None
    assert heard(answering + batch) == [...] * 3


def test_who_gave_up_is_no_obstacle(loop: asyncio.AbstractEventLoop, sent: Outstanding) -> None:
    one, two = waits(loop, b"a"), waits(loop, b"b")
    sent.sent(one, asked=1)
    sent.sent(two)
    one[0][1].cancel()
    assert sent.acknowledge(b"a")
    assert sent.answer([])
    assert sent.acknowledge(b"b")
    assert heard(two) == [None]


async def test_one_may_be_heard_as_soon_as_another_is() -> None:
    loop = asyncio.get_running_loop()
    first: Acknowledged = loop.create_future()
    later: Acknowledged = loop.create_future()
    follow(later, first)
    first.set_result([b"of the first"])
    assert await later is None
