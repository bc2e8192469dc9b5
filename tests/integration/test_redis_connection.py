"""One Redis connection: every reply goes to who waits for it, whatever it looks like."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from redis.exceptions import ResponseError

from broker.errors import BrokerUnavailable
from broker.redis.address import parse
from broker.redis.client import RedisClient
from broker.redis.connection import RedisConnection
from broker.redis.topology import Listener, new_client, new_subscriber
from tests.support.clients import eventually


@pytest.fixture
async def client(redis_url: str) -> Any:
    client = new_client(redis_url, name="test")
    await client.start()
    yield client
    await client.stop()


async def test_a_reply_that_looks_like_a_message_is_a_reply(client: RedisClient) -> None:
    """Bug: three missing fields were taken for a push, and all later replies went astray."""
    name = "looks-like-a-message"
    replies = await client.execute_many(
        [
            ("HMGET", name, "a", "b", "c"),
            ("ECHO", "one"),
            ("HSET", name, "kind", "message", "channel", "c", "payload", "p"),
            ("HMGET", name, "kind", "channel", "payload"),
            ("ECHO", "two"),
            ("DEL", name),
        ]
    )
    assert replies == [[None] * 3, b"one", 3, [b"message", b"c", b"p"], b"two", 1]


WITH_ERRORS = [("ECHO", "one"), ("LPUSH", "a-text", "x"), ("INCR", "a-text"), ("ECHO", "two")]


async def test_the_first_error_of_several_commands_is_raised(client: RedisClient) -> None:
    """The replies of all the others are taken off the wire: nobody gets one of another's."""
    await client.execute("SET", "a-text", "no number")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await client.execute_many(WITH_ERRORS)
    assert await client.execute("ECHO", "after") == b"after"


async def test_or_each_error_stands_where_its_reply_would(client: RedisClient) -> None:
    await client.execute("SET", "a-text", "no number")
    one, wrong, no_number, two = await client.submit_many(WITH_ERRORS, keep_errors=True)
    assert (one, two) == (b"one", b"two")
    assert str(wrong).startswith("WRONGTYPE")
    assert "not an integer" in str(no_number)


async def test_no_commands_have_no_replies(client: RedisClient) -> None:
    assert await client.submit_many([]) == await client.execute_many([]) == []


async def test_whoever_waits_for_several_may_stop_waiting(client: RedisClient) -> None:
    """Law: cancelling abandons the future and nothing else."""
    replies = client.submit_many([("ECHO", "one"), ("ECHO", "two")])
    replies.cancel()
    assert await client.execute("ECHO", "three") == b"three"


async def test_several_commands_are_told_at_once_that_there_is_no_connection(
    redis_url: str,
) -> None:
    lost = new_client(redis_url, name="never started")
    with pytest.raises(BrokerUnavailable):
        await lost.execute_many(WITH_ERRORS)
    found = await lost.submit_many(WITH_ERRORS, keep_errors=True)
    assert [type(each) for each in found] == [BrokerUnavailable] * 4


async def test_messages_come_in_order_and_each_read_ends_once(
    redis_url: str, client: RedisClient
) -> None:
    """Payloads of any bytes, acknowledgements among them."""
    heard: list[tuple[bytes, bytes]] = []
    ends: list[int] = []
    subscriber = new_subscriber(
        redis_url,
        on_message=lambda channel, payload: heard.append((channel, payload)),
        on_read_end=lambda: ends.append(len(heard)),
        name="test",
    )
    await subscriber.start()
    try:
        await subscriber.subscribe(b"one")
        payloads = [b"", b"\r\n", bytes(range(256)), b"message", b"x" * 100_000]
        for payload in payloads:
            await client.publish(b"one", payload)
            await subscriber.subscribe(b"another")
        await eventually(lambda: len(heard) == len(payloads))
        assert heard == [(b"one", payload) for payload in payloads]
        assert ends == sorted(ends)
        assert ends[-1] == len(heard)
    finally:
        await subscriber.stop()


@pytest.fixture
async def subscriber(redis_url: str) -> Any:
    subscriber = new_subscriber(redis_url, on_message=lambda _channel, _payload: None, name="asks")
    await subscriber.start()
    yield subscriber
    await subscriber.stop()


async def test_what_is_asked_behind_a_subscription_is_read_once_it_is_heard(
    subscriber: Listener, client: RedisClient
) -> None:
    """Each with another channel at the same time, and with whatever else is said meanwhile."""
    numsub = ("PUBSUB", "NUMSUB")
    replies = await asyncio.gather(
        *[
            subscriber.subscribe(b"c%d" % at, (*numsub, b"c%d" % at), ("ECHO", b"%d" % at))
            for at in range(50)
        ],
        subscriber.subscribe(b"without"),
        *[client.publish(b"c%d" % at, b"x") for at in range(50)],
    )
    assert replies[:50] == [[[b"c%d" % at, 1], b"%d" % at] for at in range(50)]
    assert replies[50] is None


async def test_who_is_refused_asks_elsewhere_and_nobody_else_notices(
    subscriber: Listener, client: RedisClient
) -> None:
    """One user's broken key is no reason to interrupt all others."""
    await client.execute("SET", "a-text", "no log")
    refused, other = await asyncio.gather(
        subscriber.subscribe(b"one", ("XREVRANGE", "a-text", "+", "-"), ("ECHO", "one")),
        subscriber.subscribe(b"two", ("ECHO", "two")),
    )
    assert (refused, other) == (None, [b"two"])
    assert subscriber.reconnects == 0
    assert {b"one", b"two"} <= set(subscriber.channels)


async def test_replies_that_a_lost_connection_owed_are_asked_for_elsewhere(
    subscriber: Listener, client: RedisClient
) -> None:
    """The subscription itself is made good by the next connection."""
    waiting = asyncio.ensure_future(subscriber.subscribe(b"lost", ("ECHO", "lost")))
    await asyncio.sleep(0)  # so that it is sent
    subscriber.reconnect(b"lost")
    assert await asyncio.wait_for(waiting, 10) is None
    assert await client.execute("PUBSUB", "NUMSUB", "lost") == [b"lost", 1]


async def test_who_says_nothing_is_named() -> None:
    """As a server without TLS does that is spoken to with it: all that was told is TimeoutError."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        connection = RedisConnection(lambda _reply: None, lambda _why: None)
        with pytest.raises(BrokerUnavailable, match=f"{place} does not answer in time"):
            await connection.open(parse(f"rediss://{place}").data, name="test", timeout_seconds=0.2)


def test_what_came_before_rubbish_is_passed_on() -> None:
    """Bug: the read had no end then, and what waits for it came after what was heard later."""
    heard: list[bytes] = []
    ends: list[int] = []
    connection = RedisConnection(
        lambda _reply: None,
        lambda _why: None,
        lambda: ends.append(len(heard)),
        kind=b"message",
        on_message=lambda _channel, payload: heard.append(payload),
    )
    connection.data_received(b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n?rubbish\r\n")
    assert (heard, ends) == ([b"m"], [1])
