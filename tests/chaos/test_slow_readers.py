"""G7 under load: clients that do not read cost the others nothing, and lose nothing themselves."""

import asyncio
import statistics
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial

import psutil
import pytest

from agents_sdk import Publisher, Run
from broker.config import Settings, load_settings
from gateway import feeder
from gateway.app import Gateway
from gateway.close_codes import CloseCode
from gateway.websocket import WebSocket
from tests.support.chaos import chaos
from tests.support.chaos_report import Report, Row
from tests.support.clients import Client, eventually
from tests.support.history import (
    Emission,
    Epoch,
    Excuses,
    History,
    Outcome,
    Place,
    Reader,
    RunRecord,
    check,
    describe,
)
from tests.support.slow_reader import SlowReader, first_word, slow_reader

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

READERS = 20
KILOBYTES = 32
EVENTS = 500
"""Of 32 KB each: 16 MB, far more than outbox and kernel hold for one of them."""

RETENTION = 150
BOUND = 3 * 1024 * 1024
"""Bytes of memory for each: the outbox's one MiB, one read of the Redis socket, and the rest."""


async def padded(run: Run, number: int) -> Emission:
    """One large event."""
    marker = f"{run.id}-{number}"
    event = await run.emit_event(
        "agent_thinking", {"thoughts": f"{marker} {'x' * KILOBYTES * 1024}"}
    )
    return Emission(run.id, marker, Outcome.OK, event)


async def latency(run: Run, client: Client, *, count: int = 60) -> float:
    """Median seconds from an event's emission to its arrival."""
    taken = []
    for _ in range(count):
        number, sent = len(client.frames), time.time()
        await run.think(f"{sent}")
        await client.until(lambda frames: len(frames) > number)  # noqa: B023 - awaited here
        taken.append(client.times[-1] - sent)
    return statistics.median(taken)


async def test_twenty_that_stop_reading_cost_the_others_nothing_and_catch_up(
    report: Report,
) -> None:
    """Beyond what the log keeps: told so by one ``resync``, given what is kept, and level again."""
    # Twenty readers in one process, on a busy machine, one after the other: some wait for long.
    async with (
        chaos(
            report,
            gateways=1,
            workers=0,
            RUNCAST_HISTORY_EVENTS=str(RETENTION),
            RUNCAST_HEARTBEAT_SECONDS="60",
        ) as scene,
        AsyncExitStack() as stack,
    ):
        base = scene.gateways[0].base
        process = psutil.Process(scene.gateways[0].process.popen.pid)
        settings = load_settings(redis_url=scene.redis.url, history_events=RETENTION)
        publisher = await stack.enter_async_context(Publisher(settings=settings))
        enter = stack.enter_async_context
        readers = [await enter(slow_reader(base, "alice")) for _ in range(READERS)]
        quick = await enter(slow_reader(base, "alice"))
        other = await enter(Client(base, "bob"))
        await other.first("live")
        beside = await enter(publisher.run(user_id="bob", agent_name="ticks"))
        baseline = await latency(beside, other)
        empty = process.memory_info().rss
        most = empty
        emissions = []
        async with publisher.run(user_id="alice", agent_name="large") as run:
            async with asyncio.TaskGroup() as group:
                meanwhile = group.create_task(latency(beside, other))
                reading = group.create_task(quick.until(lambda: seen(quick, f"{run.id}-{EVENTS}")))
                for number in range(1, EVENTS + 1):
                    emissions.append(await padded(run, number))
                    most = max(most, process.memory_info().rss)
                await reading
            each = (most - empty) / READERS
            begun = time.monotonic()
            async with asyncio.TaskGroup() as group:
                for reader in readers:
                    last = partial(seen, reader, f"{run.id}-{EVENTS}")
                    group.create_task(reader.until(last))
            caught_up = time.monotonic() - begun
            # Level again: what is published now is pushed.
            emissions.append(await padded(run, EVENTS + 1))
        everyone = [*readers, quick]
        for reader in everyone:
            await reader.until(lambda: reader.frames[-1]["type"] == "agent_completed")  # noqa: B023 - in its own turn
        for reader in readers:
            resyncs = [f["payload"] for f in reader.frames if f["type"] == "resync"]
            told = [(resync["reason"], resync["from"]) for resync in resyncs]
            assert told == [("overrun", "0-0")], f"{reader.user} was told {told}"
        assert not any(f["type"] == "resync" for f in quick.frames), "who reads is told nothing"
        place = Place("user", "alice")
        log = [
            replace(entry, marker=entry.marker and first_word(entry.marker))
            for entry in scene.logs()[place]
        ]
        records = {run.id: RunRecord(run.id, place, run.thread_id)}
        ends = [
            Reader(f"reader {number}", place, [Epoch(None, reader.frames)])
            for number, reader in enumerate(everyone)
        ]
        violations = check(
            History(records, emissions, ends, {place: log}, Excuses(retention=RETENTION))
        )
        report(
            Row(
                fault=f"{READERS} readers stopped ({each / 2**20:.2f} MiB each; others' latency x "
                f"{await meanwhile / baseline:.1f})",
                published=len(emissions),
                delivered=sum("id" in frame for reader in everyone for frame in reader.frames),
                lost=len(violations),
                doubled=0,
                leaked=0,
                recovery_seconds=caught_up,
            )
        )
        assert not violations, describe(violations)
        assert each < BOUND, f"{each / 2**20:.1f} MiB for each client that does not read"


def seen(reader: SlowReader, marker: str) -> bool:
    """Whether the event is among the last that were read."""
    return any(
        frame["type"] == "agent_thinking" and frame["payload"]["thoughts"] == marker
        for frame in reader.frames[-3:]
    )


async def test_who_reads_slowly_is_kept_and_who_takes_next_to_nothing_is_closed_with_4408(
    gateway: Gateway, base: str, settings: Settings, monkeypatch: pytest.MonkeyPatch, report: Report
) -> None:
    """The limit is one second here. The kernel asks for more when a third of its buffer is free, so
    a byte now and then is no progress, and some hundred KB a second are."""
    monkeypatch.setattr(feeder, "SLOW_SECONDS", 1.0)
    closed: dict[str, int] = {}
    close = WebSocket.close

    def watched(websocket: WebSocket, why: CloseCode) -> None:
        closed[websocket.opening.mode + (websocket.opening.thread_id or "")] = why.code
        close(websocket, why)

    monkeypatch.setattr(WebSocket, "close", watched)

    async def keep_taking(reader: SlowReader, most: int, over: asyncio.Event) -> None:
        while not over.is_set() and await reader.take(most):  # noqa: ASYNC110 - a pace, no wait
            await asyncio.sleep(0.02)  # how slowly it reads: that is the fault

    over = asyncio.Event()
    async with (
        slow_reader(base, "alice") as slow,
        slow_reader(base, "alice", thread_id="stuck") as stuck,
        slow_reader(base, "alice", mode="legacy", thread_id="stuck") as drip,
        Publisher(settings=settings) as publisher,
        publisher.run(user_id="alice", agent_name="large", thread_id="stuck") as run,
    ):
        assert stuck.frames[-1]["type"] == "live"
        async with asyncio.TaskGroup() as group:
            group.create_task(keep_taking(slow, 16 * 1024, over))
            group.create_task(keep_taking(drip, 1, over))
            for number in range(1, EVENTS + 1):
                await padded(run, number)
            began = time.monotonic()
            await eventually(lambda: len(closed) == 2)
            while time.monotonic() - began < 4:  # four times the limit
                assert closed == {"mainstuck": 4408, "legacystuck": 4408}, closed
                await asyncio.sleep(0.1)  # looks, as long as nothing may change
            assert slow.frames[-1]["seq"] < EVENTS, "it read too fast to be slow"
            over.set()
        await slow.until(lambda: seen(slow, f"{run.id}-{EVENTS}"))
        seqs = [frame["seq"] for frame in slow.frames if "seq" in frame]
    assert seqs == list(range(1, EVENTS + 2)), f"{len(seqs)} events, {len(set(seqs))} different"
    report(Row(fault="a slow reader", published=EVENTS, delivered=len(seqs), lost=0, doubled=0))


async def test_what_a_stalled_reader_missed_of_a_text_comes_merged_and_its_events_one_by_one(
    gateway: Gateway, base: str, settings: Settings, report: Report
) -> None:
    """Deltas are merged into one; no lifecycle event is ever dropped or merged."""
    async with (
        slow_reader(base, "alice") as slow,
        Client(base, "alice") as quick,
        Publisher(settings=settings) as publisher,
    ):
        await quick.first("live")
        async with publisher.run(user_id="alice", agent_name="writer") as run:
            for number in range(1, 301):
                await padded(run, number)
            await eventually(lambda: any(each.outbox.stalled for each in gateway.node.sockets))
            written = ""
            for number in range(60):
                piece = f"{number} ünï "
                written += piece
                await run.write(piece)
                async with run.tool("between", number=number) as call:
                    call.result = number  # each event sends the text before it out
            await quick.until(
                lambda frames: sum(f["type"] == "tool_completed" for f in frames) > 59
            )
            await slow.until(lambda: any(f["type"] == "agent_delta" for f in slow.frames))
            run.response = None
        await slow.until(lambda: slow.frames[-1]["type"] == "agent_completed")
        end = await quick.completed(run.id)
    deltas = {
        name: [f["payload"] for f in frames if f["type"] == "agent_delta"]
        for name, frames in (("slow", slow.frames), ("quick", quick.frames))
    }
    assert len(deltas["quick"]) == 60, f"{len(deltas['quick'])} deltas to who reads"
    assert [(d["offset"], d["text"]) for d in deltas["slow"]] == [(0, written)], deltas["slow"]
    assert end["payload"]["response"] == written
    ids = [f["id"] for f in slow.frames if "id" in f]
    wanted = [f["id"] for f in quick.logged()]
    assert ids == wanted, f"{len(ids)} of {len(wanted)} events"
    report(Row(fault="60 deltas to a stalled reader", published=60, delivered=1, lost=0, doubled=0))


async def test_a_heartbeat_does_not_cut_off_who_could_not_be_heard_until_now(
    gateway: Gateway, base: str, settings: Settings
) -> None:
    """It cannot answer a ping that lies behind what it has not read."""
    async with (
        slow_reader(base, "alice") as slow,
        Publisher(settings=settings) as publisher,
        publisher.run(user_id="alice", agent_name="large") as run,
    ):
        (websocket,) = gateway.node.sockets
        number = 0
        while not websocket.outbox.stalled:
            number += 1
            await padded(run, number)
        assert isinstance(websocket, WebSocket)
        websocket.heard = False  # as the last beat left it: the ping is behind all this
        await slow.until(lambda: not websocket.outbox.stalled)
        websocket.beat()
        assert not websocket._transport.is_closing(), "cut off as soon as it could be heard again"
