"""G7: one slow client costs the others nothing, and loses nothing itself."""

from dataclasses import replace

import pytest

from broker.redis.broker import Broker
from broker.redis.records import Claim
from gateway import feeder
from gateway.app import Gateway
from gateway.close_codes import CloseCode
from gateway.outbox import MAX_UNSENT_BYTES
from gateway.websocket import WebSocket
from tests.mission_critical.test_g1_published_once import opened, thought
from tests.support.clients import Client, eventually

pytestmark = pytest.mark.timeout(300)

KILOBYTES = 100
EVENTS = 120


async def publish_large(broker: Broker, claim: Claim, seq: int) -> None:
    """One event of a hundred kilobytes."""
    publication = thought(claim, seq)
    padding = b'"padding":"' + b"x" * KILOBYTES * 1024 + b'",'
    body = publication.body.replace(b'"seq":', padding + b'"seq":')
    await broker.publish(claim, replace(publication, body=body))


async def test_g7_a_client_that_takes_nothing_at_all_is_closed(
    gateway: Gateway, base: str, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the time for that (60 s, here half a second), with 4408."""
    monkeypatch.setattr(feeder, "SLOW_SECONDS", 0.5)
    closed: list[int] = []
    close = WebSocket.close

    def watched(socket: WebSocket, why: CloseCode) -> None:
        closed.append(why.code)
        close(socket, why)

    monkeypatch.setattr(WebSocket, "close", watched)
    claim = await opened(broker, "alice")
    async with Client(base, "alice") as client:
        await client.first("live")
        connection = client.ws._response.connection
        assert connection is not None
        assert connection.transport is not None
        connection.transport.pause_reading()
        for seq in range(1, EVENTS + 1):
            await publish_large(broker, claim, seq)
        await eventually(lambda: not gateway.node.sockets)
        assert closed == [4408]


async def test_g7_a_client_that_does_not_read_is_bounded_and_then_gets_everything(
    gateway: Gateway, base: str, broker: Broker
) -> None:
    """12 MB are published while one of two tabs does not read."""
    claim = await opened(broker, "alice")
    async with Client(base, "alice") as quick, Client(base, "alice", events="all") as slow:
        await quick.first("live")
        await slow.first("live")
        connection = slow.ws._response.connection
        assert connection is not None
        transport = connection.transport
        assert transport is not None
        transport.pause_reading()
        sockets = dict.fromkeys(gateway.node.sockets, 0)
        for seq in range(1, EVENTS + 1):
            await publish_large(broker, claim, seq)
            for socket in sockets:
                unsent = socket._transport.get_write_buffer_size() + socket.outbox._size
                sockets[socket] = max(sockets[socket], unsent)
        await quick.until(lambda frames: any(frame.get("seq") == EVENTS for frame in frames))
        assert [event["seq"] for event in quick.events()] == list(range(1, EVENTS + 1))
        assert len(slow.events()) < EVENTS, "it was not slow"
        # One read of the Redis socket may come on top of the limit.
        assert max(sockets.values()) < MAX_UNSENT_BYTES + 1024 * 1024
        transport.resume_reading()
        await slow.until(
            lambda frames: any(frame.get("seq") == EVENTS for frame in frames), seconds=30
        )
        assert [event["seq"] for event in slow.events()] == list(range(1, EVENTS + 1))
        # Level again: what is published now is pushed.
        await broker.publish(claim, thought(claim, EVENTS + 1))
        await slow.until(lambda frames: frames[-1].get("seq") == EVENTS + 1)
