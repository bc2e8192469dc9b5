"""Callers who go away in the middle: nobody gets another's reply, and nothing stays behind."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import pytest

from agents_sdk import Publisher
from broker.channels import Owner
from broker.config import Settings
from broker.redis.client import RedisClient
from broker.redis.cluster import ClusterClient
from broker.redis.server_client import ServerClient
from gateway import relay
from gateway.app import Gateway
from tests.support.chaos_report import Report, Row
from tests.support.clients import Client, eventually
from tests.support.redis_cluster import cluster_redis
from tests.support.servers import Redis
from tests.support.storm import Storm

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

USERS = ("alice", "bob")
CALLS = 3000


@pytest.fixture(scope="module", params=["standalone", "cluster"])
def topology_url(request: pytest.FixtureRequest, redis_server: Redis) -> Iterator[str]:
    if request.param == "standalone":
        yield redis_server.url
        return
    with cluster_redis() as cluster:
        yield cluster.url


@pytest.fixture
def settings(settings: Settings, topology_url: str) -> Settings:
    return settings.model_copy(
        update={"redis_url": topology_url, "history_events": 100_000, "messages_per_minute": 10**6}
    )


def connections_of(client: RedisClient) -> list[object]:
    """The sockets to Redis that everybody shares."""
    if isinstance(client, ClusterClient):
        return [each._connection for each in client._clients.values()]
    assert isinstance(client, ServerClient)
    return [client._connection]


def unanswered(client: RedisClient) -> int:
    """Commands that wait for a reply."""
    if isinstance(client, ClusterClient):
        return sum(len(each._waiting) for each in client._clients.values())
    assert isinstance(client, ServerClient)
    return len(client._waiting)


class Talk:
    """A user who reads while events are published to him, and who asks all the time."""

    def __init__(self, user: str, client: Client, publisher: Publisher) -> None:
        self.user, self.client = user, client
        self.published: list[str] = []
        self.asked: list[str] = []
        self._publisher = publisher

    async def publish(self, over: asyncio.Event) -> None:
        async with self._publisher.run(user_id=self.user, agent_name="talker") as run:
            self.run_id = run.id
            while not over.is_set():
                marker = f"{self.user} {len(self.published)}"
                self.published.append(await run.emit_event("agent_thinking", {"thoughts": marker}))
                await asyncio.sleep(0.001)  # how fast it talks; nothing waits for it

    async def ask(self, over: asyncio.Event) -> None:
        """Each of these is answered with what is his alone: no such run, and his own words."""
        while not over.is_set():
            ref = f"{self.user}-asks-{len(self.asked)}"
            self.asked.append(ref)
            await self.client.send("stop_agent", {"run_id": ref}, ref=ref)
            await self.client.until(
                lambda frames: next((f for f in reversed(frames) if f.get("ref") == ref), None),  # noqa: B023 - called in this turn of the loop
                what=f"a reply to {ref}",
            )

    def judge(self) -> Counter[str]:
        """What reached him: events of his run alone, all of them, once; his replies alone."""
        counts: Counter[str] = Counter()
        got = [f["id"] for f in self.client.frames if f["type"] == "agent_thinking"]
        counts["delivered"] = len(got)
        counts["lost"] = len(set(self.published) - set(got))
        counts["doubled"] = len(got) - len(set(got))
        foreign = [f for f in self.client.frames if f.get("run_id", self.run_id) != self.run_id]
        replies = [f for f in self.client.frames if "ref" in f]
        strange = [f for f in replies if f["ref"] not in self.asked]
        strange += [f for f in replies if f["ref"] not in f["payload"].get("message", "")]
        counts["leaked"] = len(foreign) + len(strange)
        assert not foreign, f"{self.user} got {foreign[:3]}"
        assert not strange, f"{self.user} was answered {strange[:3]}"
        assert sorted(f["ref"] for f in replies) == sorted(self.asked), (
            f"{self.user}: one reply each"
        )
        assert got == self.published, f"{self.user}: {counts}"
        return counts


@pytest.fixture
async def publisher(settings: Settings) -> AsyncIterator[Publisher]:
    async with Publisher(settings=settings) as publisher:
        yield publisher


@pytest.mark.parametrize(
    "calls",
    [
        CALLS,
        # Ten times as many: two milliseconds for each, on a Cluster.
        pytest.param(10 * CALLS, marks=[pytest.mark.long, pytest.mark.timeout(300)]),
    ],
)
async def test_calls_that_are_cancelled_anywhere_cross_nobodys_replies(
    *,
    gateway: Gateway,
    base: str,
    publisher: Publisher,
    settings: Settings,
    report: Report,
    monkeypatch: pytest.MonkeyPatch,
    calls: int,
) -> None:
    """On the one client that a gateway's users share, while two of them read."""
    monkeypatch.setattr(relay, "LINGER_SECONDS", 0.2)
    node = gateway.node
    connections = connections_of(node.client)
    before = {task.get_name() for task in asyncio.all_tasks()}
    storm, over = Storm(gateway, seed=calls), asyncio.Event()
    async with Client(base, USERS[0]) as first, Client(base, USERS[1]) as second:
        talks = [
            Talk(user, each, publisher) for user, each in zip(USERS, (first, second), strict=True)
        ]
        for talk in talks:
            await talk.client.first("live")
        async with asyncio.TaskGroup() as group:
            for talk in talks:
                group.create_task(talk.publish(over))
                group.create_task(talk.ask(over))
            await storm.blow(calls)
            over.set()
        for talk in talks:
            last = talk.published[-1]
            await talk.client.until(
                lambda frames: any(f.get("id") == last for f in frames[-50:]),  # noqa: B023 - as above
                what=f"{talk.user}'s last event",
            )
        counts = sum((talk.judge() for talk in talks), Counter[str]())
    report(
        Row(
            fault=f"{storm.cancelled.total()} cancelled calls, "
            f"{'Cluster' if node.client.sharded else 'standalone'}",
            published=sum(len(talk.published) for talk in talks),
            delivered=counts["delivered"],
            lost=counts["lost"],
            doubled=counts["doubled"],
            leaked=counts["leaked"],
        )
    )
    assert storm.cancelled.keys() == storm.calls.keys(), f"never cancelled: {storm.cancelled}"
    assert storm.done.keys() == storm.calls.keys(), f"never let through: {storm.done}"
    assert connections_of(node.client) == connections, "a cancelled call cost the connection"
    await eventually(lambda: not unanswered(node.client))
    await eventually(lambda: not node.sockets)
    await eventually(lambda: not list(node.relay.hub.feeds()))
    assert not node.relay._opening, "subscriptions that nobody waits for are still under way"
    assert not node.relay._lingering, "timers of channels that are gone"
    assert not node.seats._arriving, "connections that never arrived are counted for ever"
    owner = Owner("", USERS[0])
    assert not node.seats._arriving[owner]

    # Some tasks come and go for ever: what is there now has to end, not that nothing is there.
    now = {task for task in asyncio.all_tasks() if task.get_name() not in before}
    now -= {asyncio.current_task()}
    _, left = await asyncio.wait(now, timeout=30) if now else (set(), set())
    assert not left, f"tasks that were left behind: {left}"
