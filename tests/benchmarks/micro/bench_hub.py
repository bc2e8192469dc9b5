"""The hub: a live message from Redis into the outboxes of its readers."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import cast

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from broker.channels import Keys, Owner, Scope
from broker.events import AGENT_THINKING, encode
from gateway.feed import Member
from gateway.hub import Hub, Needs
from gateway.outbox import Outbox
from gateway.wires import WEBSOCKET, Wire

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


@dataclass(eq=False)
class Socket:
    """A member of a channel whose outbox is emptied by nobody else."""

    owner: bytes = b":alice"
    thread: bytes | None = None
    lifecycle_only: bool = False
    wire: Wire = WEBSOCKET
    whole: bool = True
    outbox: Outbox = field(default_factory=Outbox)
    floors: dict[bytes, int] | None = None


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
        hub.first_heard = b""
        hub.dirty.clear()
        for member in members:
            member.outbox.take()

    benchmark(deliver)
    assert hub.counters.delivered == hub.counters.published * sockets
