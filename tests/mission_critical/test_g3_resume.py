"""G3: a client that comes back with its cursor gets exactly what it missed, or is told why not."""

import pytest

from broker.config import Settings
from broker.redis.broker import Broker
from broker.redis.records import AgentSpec
from gateway.app import Gateway
from tests.mission_critical.test_g1_published_once import opened, thought
from tests.support.clients import Client, Frame


def replayed(client: Client) -> list[int]:
    """The ``seq`` of what came between the greeting and ``live``."""
    kinds = [frame["type"] for frame in client.frames]
    return [frame["seq"] for frame in client.frames[: kinds.index("live")] if "seq" in frame]


async def connected(client: Client) -> tuple[Frame, Frame | None]:
    """The greeting's payload and the payload of a ``resync`` before ``live``, if there is one."""
    await client.first("live")
    assert client.frames[0]["type"] == "connection_established"
    resyncs = [frame["payload"] for frame in client.frames if frame["type"] == "resync"]
    assert len(resyncs) <= 1
    if resyncs:
        assert client.frames[1]["type"] == "resync", "a resync precedes the events it announces"
    return client.frames[0]["payload"], resyncs[0] if resyncs else None


@pytest.fixture
async def log(broker: Broker) -> list[str]:
    """Ids of ten events that alice's log has."""
    claim = await opened(broker, "alice")
    return [await broker.publish(claim, thought(claim, seq)) for seq in range(1, 11)]


async def test_g3_exactly_what_was_missed_at_any_gateway(
    base: str, settings: Settings, log: list[str]
) -> None:
    async with Gateway(settings) as other:
        for at in range(10):
            for gateway in (base, f"http://127.0.0.1:{other.port}"):
                async with Client(gateway, "alice", after=log[at]) as client:
                    hello, resync = await connected(client)
                    assert (hello["recovered"], resync) == (True, None)
                    assert hello["resumed_from"] == log[at]
                    assert hello["cursor"] == log[-1]
                    assert replayed(client) == list(range(at + 2, 11))


async def test_g3_everything_retained_from_zero(base: str, log: list[str]) -> None:
    async with Client(base, "alice", after="0-0") as client:
        hello, resync = await connected(client)
        assert (hello["recovered"], resync) == (True, None)
        assert replayed(client) == list(range(1, 11))
    async with Client(base, "nobody yet", after="0-0") as client:
        hello, resync = await connected(client)
        assert (hello["recovered"], resync, replayed(client)) == (True, None, [])


async def test_g3_from_now_on_without_a_cursor(base: str, log: list[str]) -> None:
    async with Client(base, "alice") as client:
        hello, resync = await connected(client)
        assert (hello["recovered"], resync) == (False, None)
        assert hello["cursor"] == log[-1]
        assert "resumed_from" not in hello
        assert replayed(client) == []


@pytest.mark.parametrize(
    "cursor", ["nonsense", "", "1", "1-", "-1", "1-2-3", "9" * 30 + "-0", "01-0"]
)
async def test_g3_a_malformed_cursor_replays_nothing(
    base: str, log: list[str], cursor: str
) -> None:
    async with Client(base, "alice", after=cursor) as client:
        hello, resync = await connected(client)
        assert hello["recovered"] is False
        assert resync == {"reason": "unknown_cursor", "from": log[-1], "channel_cursor": log[-1]}
        assert replayed(client) == []


async def test_g3_an_expired_cursor_gets_all_that_is_retained(
    base: str, broker: Broker, log: list[str]
) -> None:
    claim = await opened(broker, "alice")
    await broker.client.execute("XTRIM", claim.channel.log, "MINID", log[5])
    async with Client(base, "alice", after=log[2]) as client:
        hello, resync = await connected(client)
        assert hello["recovered"] is False
        assert resync == {"reason": "expired", "from": "0-0", "channel_cursor": log[-1]}
        assert replayed(client) == [6, 7, 8, 9, 10]


async def test_g3_a_cursor_of_another_history_is_forked(base: str, broker: Broker) -> None:
    """A replica was promoted without the last three events, and the log went on from there; and a
    cursor from the future."""
    claim = await opened(broker, "alice")
    log = [await broker.publish(claim, thought(claim, seq)) for seq in range(1, 11)]
    await broker.client.execute("XDEL", claim.channel.log, *log[7:])
    key = broker.keys.run(claim.partition, claim.run_id)
    await broker.client.execute("HSET", key, "seq", 7, "tail", log[6])
    again = [await broker.publish(claim, thought(claim, seq)) for seq in range(8, 12)]
    for cursor, shared, expected in (
        (log[9], log[6], [8, 9, 10, 11]),
        (log[7], log[6], [8, 9, 10, 11]),
        ("99999999999999-0", again[-1], []),
    ):
        async with Client(base, "alice", after=cursor) as client:
            hello, resync = await connected(client)
            assert hello["recovered"] is False
            assert resync == {"reason": "forked", "from": shared, "channel_cursor": again[-1]}
            assert replayed(client) == expected


async def test_g3_a_hole_in_the_log_itself_is_told_and_passed(
    base: str, broker: Broker, log: list[str]
) -> None:
    claim = await opened(broker, "alice")
    await broker.client.execute("XDEL", claim.channel.log, log[4])
    async with Client(base, "alice", after="0-0") as client:
        resync = await client.first("resync")
        assert resync["payload"]["reason"] == "forked"
        assert resync["payload"]["from"] == log[3]
        await client.first("live")
        assert replayed(client) == [1, 2, 3, 4, 6, 7, 8, 9, 10]
        assert client.frames.index(resync) == 5, "told where the hole is"


async def test_g3_more_than_a_page_is_replayed_in_order(base: str, broker: Broker) -> None:
    claim = await opened(broker, "alice")
    first = await broker.publish(claim, thought(claim, 1))
    for seq in range(2, 601):
        await broker.publish(claim, thought(claim, seq))
    async with Client(base, "alice", after=first) as client:
        await connected(client)
        assert replayed(client) == list(range(2, 601))


async def test_g3_an_isolated_connection_is_taken_up_at_another_gateway(
    base: str, settings: Settings, broker: Broker
) -> None:
    await broker.announce([AgentSpec(name="any")])
    async with Gateway(settings) as other:
        async with Client(base, "alice", mode="isolated") as client:
            hello, _ = await connected(client)
            await client.ask("hello")
            echo = await client.first("user_message")
        again = {"connection": hello["connection_id"], "secret": hello["secret"]}
        async with Client(
            f"http://127.0.0.1:{other.port}", "alice", mode="isolated", after="0-0", query=again
        ) as client:
            resumed, resync = await connected(client)
            assert (resumed["recovered"], resync) == (True, None)
            assert client.logged() == [echo]


async def test_g3_a_strict_run_is_attached_and_resumed(base: str, broker: Broker) -> None:
    await broker.announce([AgentSpec(name="any", on_busy="parallel")])
    strict = {"mode": "factory", "isolation_level": "strict"}
    async with Client(base, "alice", query=strict) as client:
        runs = [await client.ask("hello", ref=f"m{number}") for number in range(2)]
        await client.until(lambda frames: sum(f["type"] == "user_message" for f in frames) == 2)
    async with Client(base, "alice", query=strict, run_id=runs[0], after="0-0") as client:
        await connected(client)
        assert [frame["run_id"] for frame in client.logged()] == [runs[0]]
        await client.send("attach", {"run_id": runs[1], "after": "0-0"}, ref="a")
        ok = await client.reply("a")
        assert ok["type"] == "ok"
        await client.until(lambda frames: frames[-1].get("run_id") == runs[1])
        assert ok["payload"]["cursor"] == client.frames[-1]["id"]
        assert client.frames.index(ok) < len(client.frames) - 1, "ok, then replay"
        await client.send("detach", {"run_id": runs[0]}, ref="d")
        assert (await client.reply("d"))["type"] == "ok"
        for run in runs:
            await client.send("stop_agent", {"run_id": run}, ref=f"stop {run}")
            await client.reply(f"stop {run}")
        await client.completed(runs[1])
        assert client.events(runs[0]) == [], "detached: nothing more of it"
