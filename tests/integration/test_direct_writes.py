"""Sockets that are written to by their number: until when, and that nothing overtakes."""

from __future__ import annotations

from dataclasses import replace

from broker.redis.broker import Broker
from gateway.app import Gateway
from gateway.connection import Connection
from gateway.fastpath import NEVER
from tests.mission_critical.test_g1_published_once import opened, thought
from tests.support.clients import Client, eventually
from tests.support.fastpath import BUILT_HERE
from tests.support.slow_reader import SlowReader, slow_reader

pytestmark = BUILT_HERE

EVENTS = 60
EVENT_BYTES = 30 * 1024
"""All of them are more than the kernel takes of whoever does not read."""


def only(gateway: Gateway) -> Connection:
    """The one connection that there is."""
    (connection,) = gateway.node.sockets
    return connection


def seqs(client: SlowReader) -> list[int]:
    return [frame["seq"] for frame in client.frames if "id" in frame]


async def test_its_number_is_used_for_as_long_as_the_socket_lives(
    gateway: Gateway, base: str, broker: Broker
) -> None:
    """It is another's soon after: whoever still holds the connection reaches nobody by it."""
    claim = await opened(broker, "alice")
    async with Client(base, "alice") as client:
        for seq in (1, 2):
            await broker.publish(claim, thought(claim, seq))
        await client.first("agent_thinking")
        connection = only(gateway)
        assert connection._fd >= 0
    await eventually(lambda: len(gateway.node.sockets) == 0)
    connection.outbox.put(b"for nobody")
    connection.flush()
    assert connection._fd == NEVER


async def test_what_the_kernel_does_not_take_is_overtaken_by_nothing(
    gateway: Gateway, base: str, broker: Broker
) -> None:
    """G2: in order and once, from the first event that it takes a part of to long after it."""
    claim = await opened(broker, "alice")
    async with slow_reader(base, "alice") as client:
        for seq in range(1, EVENTS + 1):
            publication = thought(claim, seq)
            padding = b'"padding":"' + b"x" * EVENT_BYTES + b'",'
            body = publication.body.replace(b'"seq":', padding + b'"seq":')
            await broker.publish(claim, replace(publication, body=body))
        connection = only(gateway)
        await eventually(lambda: connection.unsent > 0)
        assert connection._fd < 0, "its transport has something to write first"
        await client.until(lambda: seqs(client)[-1:] == [EVENTS])
        await broker.publish(claim, thought(claim, EVENTS + 1))
        await client.until(lambda: seqs(client)[-1:] == [EVENTS + 1])
        assert seqs(client) == list(range(1, EVENTS + 2))
        assert connection._fd >= 0, "it has drained"
