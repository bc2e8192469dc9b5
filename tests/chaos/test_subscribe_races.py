"""Connecting while events are published: whatever the order, everything once from the start."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from agents_sdk import Publisher
from broker.config import Settings
from gateway import relay
from gateway.app import Gateway
from tests.support.chaos_log import read_logs
from tests.support.chaos_report import Report, Row
from tests.support.clients import Client, eventually
from tests.support.history import Kind, describe
from tests.support.races import KINDS, Interleaving, Lane

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

LANES = 16
"""Channels at a time."""

CONNECTIONS = 20
"""In a lane's life: its log stays short enough that every reading can be judged by all of it."""

POINTS = {
    f"{when} {what}"
    for when in ("before", "after")
    for what in ("subscribe", "state", "texts", "open_texts", "resume", "read")
}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(
        update={
            "history_events": 100_000,
            "max_connections_per_user": 1000,
            "messages_per_minute": 1_000_000,
        }
    )


@pytest.fixture
async def publisher(settings: Settings) -> AsyncIterator[Publisher]:
    async with Publisher(settings=settings) as publisher:
        yield publisher


class Races:
    """Lanes, one after the other in ``LANES`` places, until there were enough connections.

    ``tabs``: connections at the same time. With several of them, some come only when nobody listens
    to the channel any more.
    """

    def __init__(
        self, gateway: Gateway, publisher: Publisher, monkeypatch: pytest.MonkeyPatch, tabs: int
    ) -> None:
        self.interleaving = Interleaving(gateway, monkeypatch)
        self.lanes: list[Lane] = []
        self._hub = gateway.node.relay.hub
        self._base, self._publisher = f"http://127.0.0.1:{gateway.port}", publisher
        self._tabs = tabs
        self._left = 0

    async def run(self, connections: int) -> None:
        self._left = connections
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            aiohttp.ClientSession(connector=connector) as self._http,
            asyncio.TaskGroup() as group,
        ):
            for place in range(LANES):
                group.create_task(self._keep_racing(place))

    async def _keep_racing(self, place: int) -> None:
        number = place
        while self._left > 0:
            self._left -= CONNECTIONS * self._tabs
            kind = list(KINDS)[number % len(KINDS)]
            number += 1
            lane = Lane(f"racer {len(self.lanes)} ({kind})", kind, self._publisher)
            self.lanes.append(lane)
            await lane.live(CONNECTIONS, self._connect)

    async def _connect(self, lane: Lane) -> None:
        live = self.interleaving.add(lane)
        if self._tabs > 1 and lane.rng.random() < 0.3:
            await eventually(lambda: not self._hub.feeds_of([live]))
        await asyncio.gather(*(lane.read(self._base, self._http) for _ in range(self._tabs)))

    def judge(self, settings: Settings, report: Report, *, fault: str) -> None:
        assert settings.redis_url is not None
        logs = read_logs([settings.redis_url], settings.prefix)
        violations = [each for lane in self.lanes for each in lane.violations(logs[lane.place])]
        counts = Counter(violation.kind for violation in violations)
        readings = [reading for lane in self.lanes for reading in lane.readings]
        report(
            Row(
                fault=f"{fault}, {len(readings)} times",
                published=sum(len(lane.emissions) for lane in self.lanes),
                delivered=sum("id" in frame for each in readings for frame in each.frames),
                lost=counts[Kind.LOST] + counts[Kind.NOT_IN_LOG],
                doubled=counts[Kind.DOUBLED],
                leaked=counts[Kind.LEAKED],
            )
        )
        assert not violations, describe(violations)
        faults = [fault for lane in self.lanes for fault in lane.faults()]
        assert not faults, f"{len(faults)} faults, among them {faults[:5]}"
        never = POINTS - self.interleaving.points.keys()
        assert not never, f"nothing was ever published {sorted(never)}: the race was not run"


@pytest.mark.parametrize(
    "connections",
    [
        500,
        pytest.param(
            10_000,
            # A hundredth of a second each, on one core for gateway, clients and publishers.
            marks=[pytest.mark.long, pytest.mark.timeout(300)],
        ),
    ],
)
async def test_whoever_connects_while_events_are_published_gets_each_once(
    *,
    gateway: Gateway,
    publisher: Publisher,
    settings: Settings,
    report: Report,
    monkeypatch: pytest.MonkeyPatch,
    connections: int,
) -> None:
    """From now, from the newest, from any cursor, and from 0-0; at every step of connecting."""
    monkeypatch.setattr(relay, "LINGER_SECONDS", 5.0)
    races = Races(gateway, publisher, monkeypatch, tabs=1)
    await races.run(connections)
    races.judge(settings, report, fault="connect against publish")


@pytest.mark.parametrize(
    "connections", [480, pytest.param(4_800, marks=[pytest.mark.long, pytest.mark.timeout(300)])]
)
async def test_channels_that_are_left_and_taken_up_all_the_time_lose_nothing(
    *,
    gateway: Gateway,
    publisher: Publisher,
    settings: Settings,
    report: Report,
    monkeypatch: pytest.MonkeyPatch,
    connections: int,
) -> None:
    """Next to nothing lingers: the last one to leave unsubscribes while others connect."""
    monkeypatch.setattr(relay, "LINGER_SECONDS", 0.25)
    hub = gateway.node.relay.hub
    closed: Counter[bytes] = Counter()
    remove = hub.remove

    def counted(feed: Any) -> None:
        closed[feed.channel.live] += 1
        remove(feed)

    monkeypatch.setattr(hub, "remove", counted)
    races = Races(gateway, publisher, monkeypatch, tabs=3)
    await races.run(connections)
    races.judge(settings, report, fault="resubscribe against publish")
    assert closed.total() > len(races.lanes), "channels were not left and taken up again"
    await eventually(lambda: not list(hub.feeds()))


async def test_a_channel_that_was_closed_before_its_reader_came_is_never_deaf(
    gateway: Gateway, publisher: Publisher, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway that stood still for longer than the linger time, in the middle of a handshake."""
    node = gateway.node
    async with publisher.run(user_id="alice", agent_name="any") as run:
        first = await run.emit_event("agent_thinking", {"thoughts": "1"})
        await run.think("2")
        monkeypatch.setattr(relay, "LINGER_SECONDS", 0.0)
        glance = node.broker.glance

        async def late(*args: Any) -> Any:
            found = await glance(*args)
            await eventually(lambda: not list(node.relay.hub.feeds()))
            return found

        monkeypatch.setattr(node.broker, "glance", late)
        async with Client(base, "alice", after=first) as client:
            assert await client.closed() == 4503, "connected to a channel that nobody listens to"
        monkeypatch.setattr(node.broker, "glance", glance)
        monkeypatch.setattr(relay, "LINGER_SECONDS", 0.5)
        async with Client(base, "alice", after=first) as client:
            await client.first("agent_thinking", thoughts="2")
            await run.think("3")
            await client.first("agent_thinking", thoughts="3")
    await eventually(lambda: not list(node.relay.hub.feeds()))
    assert set(node.relay.subscriber.channels) == {*node.probe.channels, node.keys.orders}, (
        "still subscribed"
    )
