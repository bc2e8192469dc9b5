"""Coming back with every kind of cursor, to a gateway that has never seen the client (G3)."""

import aiohttp
import pytest

from agents_sdk import Publisher
from broker.config import load_settings
from tests.support.chaos import Scene, chaos
from tests.support.chaos_client import ChaosClient
from tests.support.chaos_report import Report
from tests.support.clients import Client
from tests.support.history import Entry, Frame, Place, cursor
from tests.support.servers import token

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

WINDOW = 100
"""Redis trims whole blocks of a stream: it keeps at least this many, and fewer than 100 more."""

BAD = (
    "", " ", "rubbish", "-1", "0", "1-", "-", "1-1-1", "01-1", "1-1 ", "१-१", "1e3-0", "$", "+",
    "*", "(1-1", f"{2**64}-0", f"1-{2**64}", "9" * 7000,
)  # fmt: skip


async def publish(scene: Scene, user: str, count: int) -> None:
    """One run of so many thoughts, each noted, with the scene's own window."""
    window = int(scene.settings["RUNCAST_HISTORY_EVENTS"])
    settings = load_settings(redis_url=scene.redis.url, history_events=window)
    async with Publisher(settings=settings) as publisher:
        await scene.publish(publisher, user, count=count, per_second=2000)


def log_of(scene: Scene, user: str = "alice") -> list[Entry]:
    return scene.logs()[Place("user", user)]


async def back(scene: Scene, after: str | None, *, gateway: int = 1) -> ChaosClient:
    """Alice with this cursor, live at one gateway."""
    bases = [scene.gateways[gateway].base]
    return await scene.connect("alice", after=after, bases=bases, name=f"after {after!r:.40}")


def judge(client: ChaosClient, *, log: list[Entry], told: list[tuple[str, str]]) -> None:
    """What was told, whether it counts as recovered, and exactly which events came."""
    asked = client.connections[0].after
    frames = client.frames("resync")
    resyncs = [(frame["payload"]["reason"], frame["payload"]["from"]) for frame in frames]
    assert resyncs == told, f"after {asked!r:.60}: told {resyncs}"
    hello: Frame = client.frames("connection_established")[0]["payload"]
    recovered = asked is not None and not told
    assert hello["recovered"] is recovered, f"after {asked!r:.60}: {hello}"
    got = [frame["id"] for _, frame in client.received()]
    wanted = [entry.id for entry in log]
    assert got == wanted, f"after {asked!r:.60}: {len(got)} events instead of {len(wanted)}"


async def test_a_cursor_gets_at_another_gateway_exactly_what_came_after_it(report: Report) -> None:
    async with chaos(report, gateways=2, workers=0) as scene:
        await publish(scene, "alice", 300)
        log = log_of(scene)
        judge(await back(scene, "0-0", gateway=0), log=log, told=[])
        for at in (0, 1, 127, 128, 129, 256, len(log) - 2, len(log) - 1):  # a page has 128
            judge(await back(scene, log[at].id), log=log[at + 1 :], told=[])
        judge(await back(scene, None), log=[], told=[])
        await publish(scene, "alice", 20)
        await scene.settle()
        scene.judge(fault="cursors at another gateway")


async def test_beyond_the_window_there_is_a_resync_and_never_a_part_in_silence(
    report: Report,
) -> None:
    async with chaos(report, gateways=2, workers=0, RUNCAST_HISTORY_EVENTS=str(WINDOW)) as scene:
        early = await back(scene, None, gateway=0)
        await publish(scene, "alice", 20)
        await scene.settle()
        await early.leave()
        assert early.cursor is not None
        await publish(scene, "alice", 5 * WINDOW)
        log = log_of(scene)
        assert WINDOW <= len(log) < WINDOW + 100, f"{len(log)} events are kept"
        assert cursor(early.cursor) < cursor(log[0].id), "nothing was trimmed"
        for after in (early.cursor, "0-1", "1-1"):
            client = await back(scene, after)
            judge(client, log=log, told=[("expired", "0-0")])
            now = client.frames("resync")[0]["payload"]["channel_cursor"]
            assert now == log[-1].id, f"channel_cursor is {now}, the log ends at {log[-1].id}"
        judge(await back(scene, "0-0"), log=log, told=[])
        judge(await back(scene, log[0].id), log=log[1:], told=[])
        await publish(scene, "alice", 5)
        await scene.settle()
        scene.judge(fault="window exceeded")


async def test_what_is_no_cursor_is_told_so_and_nothing_is_replayed(report: Report) -> None:
    async with chaos(report, gateways=2, workers=0) as scene:
        await publish(scene, "alice", 20)
        newest = log_of(scene)[-1].id
        for bad in BAD:
            judge(await back(scene, bad), log=[], told=[("unknown_cursor", newest)])
        # A request line of 10 kB is no request: refused before anything else is looked at.
        url = f"{scene.gateways[1].base}/ws?after={'9' * 10_000}"
        headers = {"Authorization": f"Bearer {token('alice')}"}
        async with aiohttp.ClientSession() as http:
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await http.ws_connect(url, headers=headers)
            assert refused.value.status == 400
        # The same in a frame, on a strict connection.
        async with Client(
            scene.gateways[1].base, "alice", mode="factory", isolation_level="strict"
        ) as strict:
            settings = load_settings(redis_url=scene.redis.url)
            async with (
                Publisher(settings=settings) as publisher,
                publisher.run(user_id="alice", agent_name="any", scope="run") as run,
            ):
                await run.think("before")
                await strict.send("attach", {"run_id": run.id, "after": "9" * 10_000}, ref="a")
                assert (await strict.reply("a"))["type"] == "ok"
                await strict.first("resync", reason="unknown_cursor", run_id=run.id)
                await run.think("after")
                await strict.first("agent_thinking", thoughts="after")
                thoughts = [f["payload"].get("thoughts") for f in strict.events(run.id)]
                assert thoughts == ["after"], thoughts
        await publish(scene, "alice", 5)
        await scene.settle()
        scene.judge(fault="bad cursors")


async def test_foreign_and_future_cursors_replay_nothing_foreign_and_say_forked(
    report: Report,
) -> None:
    """Ids of one user's log between those of another's: nothing of his, and nothing is lost."""
    async with chaos(report, gateways=2, workers=0) as scene:
        for _ in range(3):
            await publish(scene, "alice", 10)
            await publish(scene, "bob", 10)
        log, foreign = log_of(scene), log_of(scene, "bob")
        for entry in (foreign[0], foreign[15], foreign[-1]):
            mine = [each for each in log if cursor(each.id) < cursor(entry.id)]
            assert entry.id not in [each.id for each in log], "the two logs share an id"
            client = await back(scene, entry.id)
            judge(client, log=log[len(mine) :], told=[("forked", mine[-1].id)])
        ms = cursor(log[-1].id)[0]
        for future in (f"{ms + 3_600_000}-0", f"{2**64 - 1}-{2**64 - 1}", f"{ms + 120_000}-99"):
            client = await back(scene, future)
            judge(client, log=[], told=[("forked", log[-1].id)])
        await publish(scene, "alice", 10)
        await scene.settle()
        scene.judge(fault="foreign and future cursors")


async def test_a_cursor_of_a_log_that_is_not_there_any_more_is_expired(report: Report) -> None:
    async with chaos(report, gateways=2, workers=0) as scene:
        await publish(scene, "bob", 10)
        some = log_of(scene, "bob")[5].id
        judge(await back(scene, some), log=[], told=[("expired", "0-0")])
        judge(await back(scene, "0-0"), log=[], told=[])
        await publish(scene, "alice", 10)
        await scene.settle()
        scene.judge(fault="cursor of an empty log")
