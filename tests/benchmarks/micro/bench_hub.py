"""The hub: a live message from Redis into the outboxes of its readers."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import cast

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from broker.channels import Keys, Owner, Scope
from broker.events import AGENT_THINKING, encode
from broker.redis.connection import RedisConnection
from gateway.fastpath import NEVER, FastPath
from gateway.feed import Member
from gateway.hub import Hub, Needs
from gateway.outbox import Outbox
from gateway.wires import WEBSOCKET, Wire
from tests.support.fastpath import BUILT_HERE
from tests.support.pushes import KIND, push

CHANNEL = Keys().channel(Owner("", "alice"), Scope.USER)
BODY = encode(
    event_type=AGENT_THINKING,
    user_id="alice",
    thread_id="thread",
    run_id="run",
    agent_name="bench",
    epoch_ms=1_700_000_000_000,
    payload={"thoughts": "x" * 130},
    seq=7,
)


@dataclass(eq=False, slots=True)
class Socket:
    """A member of a channel whose outbox is emptied by nobody else."""

    owner: bytes = b":alice"
    thread: bytes | None = None
    lifecycle_only: bool = False
    wire: Wire = WEBSOCKET
    whole: bool = True
    outbox: Outbox = field(default_factory=Outbox)
    floors: dict[bytes, int] | None = None
    _fd: int = NEVER
    _closing: bool = False


class NoNeeds:
    """Nothing goes wrong in a benchmark: whatever the hub asks for is an error."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"the hub asks for {name}")


def messages() -> Iterator[bytes]:
    """One live message after the other, each linked to the one before."""
    prev = b"0-0"
    for index in count(1):
        id_ = b"%d-0" % index
        yield b"%s %s :alice thread run %d agent_thinking\n%s" % (id_, prev, index, BODY)
        prev = id_


@pytest.mark.parametrize("sockets", [1, 1000])
def bench_deliver(benchmark: BenchmarkFixture, sockets: int) -> None:
    hub = Hub(cast("Needs", NoNeeds()))
    feed = hub.add(CHANNEL)
    feed.follower.level = True
    members: list[Member] = [Socket() for _ in range(sockets)]
    feed.live.update(dict.fromkeys(members))
    live = messages()

    def deliver() -> None:
        hub.on_message(CHANNEL.live, next(live))
        hub.read_ended()
        hub.first_heard = b""
        hub.dirty.clear()
        for member in members:
            member.outbox.take()

    benchmark(deliver)
    assert hub.counters.delivered == hub.counters.published * sockets


@pytest.mark.parametrize("way", ["Python", pytest.param("C", marks=BUILT_HERE)])
def bench_read_of_100(benchmark: BenchmarkFixture, way: str) -> None:
    """From Redis' bytes to outboxes, of a hundred users with a socket each."""
    hub = Hub(cast("Needs", NoNeeds()))
    channels = [Keys().channel(Owner("", f"user-{index}"), Scope.USER) for index in range(100)]
    members: list[Member] = []
    for channel in channels:
        feed = hub.add(channel)
        feed.follower.level = True
        members.append(Socket(owner=feed.owner))
        feed.live[members[-1]] = None
    path = FastPath(hub, member=Socket) if way == "C" else None
    connection = RedisConnection(
        lambda _reply: None, lambda _why: None, hub.read_ended,
        kind=KIND, on_message=hub.on_message, on_read=path.on_read if path else None,
    )  # fmt: skip

    def reads() -> Iterator[bytes]:
        for at in count(1):
            words = (at, at - 1)
            yield b"".join(
                push(channel.live, b"%d-0 %d-0 :%b t r 7 agent_thinking\n%b" % (*words, name, BODY))
                for channel, name in zip(channels, names, strict=True)
            )

    names = [channel.owner.user.encode() for channel in channels]
    live = reads()

    def deliver(data: bytes) -> None:
        connection.data_received(data)
        hub.first_heard = b""
        hub.dirty.clear()
        for member in members:
            member.outbox.take()

    benchmark.pedantic(  # type: ignore[no-untyped-call]  # the plugin's gap
        deliver, setup=lambda: ((next(live),), {}), rounds=500
    )
    assert hub.counters.delivered == 500 * len(members)
