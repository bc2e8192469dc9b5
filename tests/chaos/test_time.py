"""Time that passes while nothing happens, and clocks that jump while much does."""

import asyncio
import functools
import time
from datetime import datetime
from typing import Any, Final

import pytest
import redis as redis_py

from tests.support import chaos_client
from tests.support.chaos import Scene, chaos, until
from tests.support.chaos_members import Member
from tests.support.chaos_report import Report, Row
from tests.support.clients import Client
from tests.support.fake_time import Clock, library
from tests.support.history import Place
from tests.support.servers import token

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

HOUR = 3600
TTL = 10
SHORT: Final[dict[str, Any]] = {
    "RUNCAST_HISTORY_TTL_SECONDS": str(TTL),
    "RUNCAST_LEASE_SECONDS": "5",
    "RUNCAST_QUEUE_TIMEOUT_SECONDS": "5",
}

needs_faketime = pytest.mark.skipif(
    library() is None, reason="libfaketime is not installed (Debian, Ubuntu: apt install faketime)"
)


@pytest.fixture
def long_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Valid before and after every step of the clock."""
    monkeypatch.setattr(chaos_client, "token", functools.partial(token, ttl_seconds=5 * HOUR))


# --- nothing happens


def ttls(scene: Scene) -> dict[bytes, int]:
    """Every key of the prefix, and the milliseconds that it has left."""
    with redis_py.Redis.from_url(scene.redis.url) as client:
        keys = list(client.scan_iter(match=f"{scene.prefix}:*", count=1000))
        return {key: client.pttl(key) for key in keys}


async def gone(scene: Scene, parts: tuple[bytes, ...], *, seconds: float) -> None:
    """Wait until no key has one of these parts in its name."""
    await until(
        lambda: not [key for key in ttls(scene) if any(part in key for part in parts)],
        seconds=seconds,
        what=f"no key with {parts}",
    )


async def test_idle_beyond_the_logs_ttl_costs_a_connected_client_nothing(report: Report) -> None:
    """He gets what comes next, once and without a ``resync``; who returns is told ``expired``."""
    async with chaos(report, gateways=2, workers=1, **SHORT) as scene:
        ask = {"count": 5, "per_second": 50}
        stays = await scene.connect("alice", name="stays")
        threaded = await scene.connect("alice", mode="factory", name="stays on his thread")
        first = [scene.gateways[0].base]
        leaves = await scene.connect("bob", bases=first, name="leaves")
        for client in (stays, threaded, leaves):
            await client.until_ended(await client.ask(ask, agent="notes"))
        await scene.settle()
        await leaves.leave()
        before = [frame["id"] for _, frame in stays.received()]
        # All that a silent user keeps.
        parts = (b":log:", b":run:", b":text:", b":thread:", b":message:", b":open:")
        await gone(scene, parts, seconds=TTL + 30)
        second = [scene.gateways[1].base]
        returns = await scene.connect("bob", bases=second, after=leaves.cursor, name="returns")
        told = [(f["payload"]["reason"], f["payload"]["from"]) for f in returns.frames("resync")]
        assert told == [("expired", "0-0")], f"who returned was told {told}"
        for client in (stays, threaded, returns):
            await client.until_ended(await client.ask(ask, agent="notes"))
        logs = scene.logs()  # at once: they do not last
        for client in (stays, threaded):
            assert client.frames("resync") == [], f"{client.name}: {client.frames('resync')}"
            assert len(client.connections) == 1, f"{client.name} was disconnected"
        got = [frame["id"] for _, frame in stays.received()]
        log = [entry.id for entry in logs[Place("user", "alice")]]
        assert got == [*before, *log], f"{len(got)} events instead of {len(before)} and {len(log)}"
        assert [f["id"] for _, f in returns.received()] == [
            entry.id for entry in logs[Place("user", "bob")]
        ], "who returned did not get what is kept"
        report(
            Row(
                fault="idle beyond the log's TTL",
                published=sum(map(len, logs.values())) + len(before),
                delivered=sum(1 for client in scene.clients for _ in client.received()),
                lost=0,
                doubled=0,
            )
        )


async def test_nothing_is_kept_for_ever(report: Report) -> None:
    """Every key has a time to live as soon as it exists; in the end all are gone."""
    async with chaos(report, gateways=1, workers=1, **SHORT) as scene:
        await scene.populate(users=3)
        seen: set[bytes] = set()
        async with scene.load(per_second=40):
            for agent in ("five", "raises", "writer", "hangs", "parent"):
                client = scene.clients[0]
                await client.until_ended(await client.ask({"text": "abc" * 20}, agent=agent))
                left = ttls(scene)
                seen |= left.keys()
                again = ttls(scene)  # a key and its time may be two commands of one write
                for_ever = [key for key, ms in left.items() if ms == again.get(key) == -1]
                assert not for_ever, f"keys without a time to live: {for_ever}"
                longest = {key: ms for key, ms in left.items() if ms > 160_000}
                assert not longest, f"far beyond what the settings say: {longest}"
        await scene.settle()
        scene.judge(fault="every key has a TTL", tracebacks=True)  # an agent raises
        kinds = (b":log:", b":run:", b":text:", b":open:", b":thread:", b":message:", b":leases",
                 b"queue", b"nodes", b"connection")  # fmt: skip
        missing = [kind for kind in kinds if not any(kind in key for key in seen)]
        assert not missing, f"never seen, so nothing is known of them: {missing}"
        for client in scene.clients:
            await client.leave()
        for member in (*scene.workers, *scene.gateways):
            await asyncio.to_thread(member.process.end)
        # Isolated connections can be taken up for two minutes; nothing else lasts as long.
        await until(
            lambda: not [key for key in ttls(scene) if b":connection:" not in key],
            seconds=2 * TTL + 30,
            what="no key but those of isolated connections",
        )
        with redis_py.Redis.from_url(scene.redis.url) as server:
            keys = server.dbsize()
        assert keys == len(ttls(scene)), "keys outside the prefix"


# --- clocks jump


async def told_time(member: Member) -> float:
    """What the gateway takes for now, in seconds before or after us."""
    valid = token("clock", ttl_seconds=5 * HOUR, issued_ago=2 * HOUR)
    async with Client(member.base, "clock", token=valid) as client:
        await client.send("ping", ref="clock")
        moment = (await client.reply("clock"))["payload"]["server_time"]
    return datetime.fromisoformat(moment).timestamp() - time.time()


@needs_faketime
@pytest.mark.usefixtures("long_tokens")
@pytest.mark.parametrize("step", [HOUR, -HOUR], ids=["forward", "back"])
async def test_a_gateways_clock_can_jump_an_hour_while_runs_stream(
    report: Report, step: int
) -> None:
    async with chaos(
        report, gateways=1, RUNCAST_LEASE_SECONDS="4", RUNCAST_HEARTBEAT_SECONDS="4"
    ) as scene:
        clock = Clock(scene.folder, "gateway")
        jumping = scene.add_gateway(door=False, **clock.settings)
        await scene.all_ready()
        assert abs(await told_time(jumping)) < 600, "the clock is wrong before it jumps"
        await scene.populate(users=3)
        async with scene.load(per_second=40):
            clock.set(step)
            jumped = time.monotonic()
            assert abs(await told_time(jumping) - step) < 600, "the clock did not jump"
            watching = [c for c in scene.clients if c.connections[-1].base == jumping.base]
            seconds = await scene.recovered(jumped, watching)
            # Beyond a lease and two heartbeats by any clock, events flow and nobody is cut off.
            await scene.recovered(time.monotonic() + 9, watching)
            clock.set(0)
            await scene.recovered(time.monotonic(), watching)
            late = await scene.connect("alice", bases=[jumping.base], name="connects later")
        await scene.settle()
        codes = [each.close_code for c in scene.clients for each in c.connections if each.closed]
        assert codes == [], f"connections were closed with {codes}"
        assert late.frames("resync") == []
        statuses = {end["payload"]["status"] for c in scene.clients for end in c.ended.values()}
        assert statuses == {"succeeded"}, f"runs ended {statuses}"
        name = "gateway's clock +1 h and back" if step > 0 else "gateway's clock -1 h and back"
        scene.judge(fault=name, recovery_seconds=seconds)


@needs_faketime
async def test_a_short_token_expires_by_the_gateways_clock(report: Report) -> None:
    """Ten minutes are over when the clock says so: told, and closed with 4401; nothing is lost."""
    async with chaos(report, gateways=1, workers=1) as scene:
        clock = Clock(scene.folder, "gateway")
        jumping = scene.add_gateway(door=False, **clock.settings)
        await scene.all_ready()
        here = await scene.connect("alice", bases=[scene.gateways[0].base], name="true clock")
        there = await scene.connect("alice", bases=[jumping.base], name="wrong clock")
        async with scene.load(clients=[here]):
            clock.set(HOUR)
            await there.until(lambda: there.refused is not None, what="being closed")
            assert there.refused == 4401, f"closed with {there.refused}"
            there.expected = False
        assert there.cursor is not None
        assert here.refused is None, "a clock elsewhere closed it"
        await scene.connect(
            "alice", bases=[scene.gateways[0].base], after=there.cursor, name="goes on"
        )
        await scene.settle()
        scene.judge(fault="token expired by a clock of +1 h")


@needs_faketime
@pytest.mark.usefixtures("long_tokens")
@pytest.mark.parametrize("step", [HOUR, -HOUR], ids=["forward", "back"])
async def test_a_workers_clock_can_jump_an_hour_while_its_runs_stream(
    report: Report, step: int
) -> None:
    """Leases are kept, every run succeeds, durations are true; only timestamps show the jump."""
    async with chaos(report, workers=0, RUNCAST_LEASE_SECONDS="4") as scene:
        clock = Clock(scene.folder, "worker")
        scene.add_worker(**clock.settings)
        await scene.all_ready()
        clients = await scene.populate(users=2)
        async with scene.load(per_second=20, count=120):  # six seconds each: more than a lease
            jumped = time.monotonic()
            clock.set(step)
            seconds = await scene.recovered(jumped, clients)
        await scene.settle()
        ends = [end["payload"] for client in clients for end in client.ended.values()]
        assert {end["status"] for end in ends} == {"succeeded"}, ends
        wrong = [end["duration_ms"] for end in ends if not 5_000 < end["duration_ms"] < 600_000]
        assert not wrong, f"durations that the jump is in: {wrong} ms"
        stamps = [
            datetime.fromisoformat(frame["timestamp"]).timestamp() - time.time()
            for client in clients
            for _, frame in client.received()
        ]
        assert any(abs(stamp - step) < 600 for stamp in stamps), "the clock did not jump"
        name = "worker's clock +1 h" if step > 0 else "worker's clock -1 h"
        scene.judge(fault=name, recovery_seconds=seconds)
