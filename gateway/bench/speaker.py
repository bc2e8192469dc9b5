"""The publisher: one run per user, through the broker's verbs, as a worker's runs are."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from broker import events
from broker.channels import Owner, Scope
from broker.errors import BrokerUnavailable, Refused
from broker.events import encode
from broker.ids import RANDOM_BYTES, ulid
from broker.lifecycle import Lifecycle
from broker.publication import Publication
from broker.redis.broker import Broker
from broker.redis.records import AgentSpec, Claim, RunRequest
from gateway.bench.account import Mark
from gateway.bench.failure import BenchFailed
from gateway.bench.pacing import Pace

PADDING: Final = "x" * 60
"""Brings an event to some 300 bytes on the wire, as a short thought has them."""

AT_ONCE: Final = 128
"""Runs that are opened or ended at the same time."""

RETRY_SECONDS: Final = 5.0
"""How long an event is sent again while Redis is away; then there is nothing to measure."""

_RETRY_PAUSE: Final = 0.1
_SHORTEST_PAUSE: Final = 0.001
_RENEWALS: Final = 50
"""Parts in which leases are renewed, so that no pipeline is long enough to be measured."""


@dataclass(slots=True)
class Voice:
    """One user's run."""

    user: int
    claim: Claim
    lifecycle: Lifecycle
    number: int = 0
    """Events confirmed so far; also the run's ``seq``, for it has no others."""


@dataclass(frozen=True, slots=True)
class Said:
    """``confirmed`` events within ``seconds``."""

    confirmed: int
    seconds: float

    @property
    def rate(self) -> float:
        """Events per second."""
        return self.confirmed / self.seconds if self.seconds else 0.0


class Speaker:
    """Opens, fills and ends the bench's runs, and removes what they left."""

    def __init__(self, broker: Broker, *, name: str) -> None:
        self._broker, self._name = broker, name
        self._voices: dict[int, Voice] = {}
        self._renewing: asyncio.Task[None] | None = None

    def voices(self, users: Sequence[int]) -> list[Voice]:
        """The open runs of these users."""
        return [self._voices[user] for user in users]

    def published(self, users: int) -> list[int]:
        """User number → how many events are in the log of each."""
        voices = (self._voices.get(user) for user in range(users))
        return [voice.number if voice is not None else 0 for voice in voices]

    async def open(self, names: Mapping[int, str]) -> None:
        """Open a run for each of the users who has none, with its ``agent_started``."""
        new = {user: name for user, name in names.items() if user not in self._voices}
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(user: int, name: str) -> None:
            async with gate:
                owner = Owner("", name)
                request = RunRequest(
                    run_id=ulid(time.time_ns() // 1_000_000, os.urandom(RANDOM_BYTES)),
                    owner=owner,
                    channel=self._broker.keys.channel(owner, Scope.USER),
                    thread_id="bench",
                    agent=self._name,
                )
                spec = AgentSpec(name=self._name, on_busy="parallel")
                claim = await self._broker.open_run(request, spec, worker_id=self._name)
                voice = self._voices[user] = Voice(user, claim, Lifecycle())
                await self._publish(voice, events.AGENT_STARTED, "message", {})

        await _all([one(user, name) for user, name in new.items()])
        if self._renewing is None:
            self._renewing = asyncio.create_task(self._keep_leases(), name="leases of the bench")

    async def say_at(self, rate: float, seconds: float, voices: Sequence[Voice]) -> Said:
        """Publish evenly for that long; a run has one event under way, so a slow Redis slows it."""
        clock = asyncio.get_running_loop().time
        pace = Pace(rate, clock())
        until, sent = pace.begun + seconds, 0
        free = deque(voices)
        tasks: set[asyncio.Task[None]] = set()
        failed: list[BaseException] = []

        def done(task: asyncio.Task[None]) -> None:
            tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                failed.append(error)

        async def one(voice: Voice) -> None:
            await self._think(voice)
            free.append(voice)

        with _explained():
            try:
                while (now := clock()) < until and not failed:
                    for _ in range(min(pace.due(now) - sent, len(free))):
                        task = asyncio.create_task(one(free.popleft()))
                        tasks.add(task)
                        task.add_done_callback(done)
                        sent += 1
                    await asyncio.sleep(max(_SHORTEST_PAUSE, pace.next_at(sent) - clock()))
            finally:
                while tasks:
                    await asyncio.wait(tasks)
            if failed:
                raise failed[0]
        return Said(sent, max(clock() - pace.begun, 1e-9))

    async def say_each(self, times: int, voices: Sequence[Voice], *, rate: float) -> None:
        """Publish so many events for every one of these users, at that rate in all."""
        clock = asyncio.get_running_loop().time
        for _ in range(times):
            pace = Pace(rate, clock())
            for begin in range(0, len(voices), AT_ONCE):
                some = voices[begin : begin + AT_ONCE]
                await _all([self._think(voice) for voice in some])
                await asyncio.sleep(max(0.0, pace.next_at(begin + len(some)) - clock()))

    async def end(self) -> None:
        """End every run, with its ``agent_completed``, and renew no lease any more."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait({self._renewing})
            self._renewing = None
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(voice: Voice) -> None:
            async with gate:
                rest = {
                    "complete": True,
                    "status": events.SUCCEEDED,
                    "duration_ms": 0,
                    "missing": voice.lifecycle.missing,
                }
                await self._publish(voice, events.AGENT_COMPLETED, "response", rest)

        await _all([one(voice) for voice in self._voices.values()])

    async def remove(self) -> None:
        """Delete the keys of the ended runs, and the count of them among the fleet's."""
        keys, client = self._broker.keys, self._broker.client
        gone: list[bytes] = []
        for voice in self._voices.values():
            claim = voice.claim
            run, text = (make(claim.partition, claim.run_id) for make in (keys.run, keys.text))
            gone += [claim.channel.log, claim.channel.open, run, text]
            gone += [make(claim.owner) for make in (keys.runs, keys.threads)]
            gone.append(keys.bucket(claim.owner, "connects_per_second"))
        for begin in range(0, len(gone), AT_ONCE):
            await client.execute_many([("DEL", key) for key in gone[begin : begin + AT_ONCE]])
        words = ("total", "incomplete", "published", *events.STATUSES)
        fields = [f"{self._name}\n{word}" for word in words]
        await client.execute("HDEL", keys.run_counts, *fields)
        self._voices.clear()

    # --- inside

    async def _think(self, voice: Voice) -> None:
        await self._publish(voice, events.AGENT_THINKING, "thoughts", {})

    async def _publish(self, voice: Voice, kind: str, marked: str, rest: Mapping[str, Any]) -> None:
        """Send one event until it is confirmed; the second time it is the first one's."""
        number = voice.number + 1
        claim, lifecycle = voice.claim, voice.lifecycle
        mark = Mark(voice.user, number, time.monotonic_ns())
        payload = {marked: f"{mark}{PADDING}", **rest}
        lifecycle.advance(kind, payload)
        publication = Publication(
            seq=number,
            event_type=kind,
            body=encode(
                event_type=kind,
                user_id=claim.owner.user,
                thread_id=claim.thread_id,
                run_id=claim.run_id,
                agent_name=claim.agent,
                epoch_ms=time.time_ns() // 1_000_000,
                payload=payload,
                seq=number,
            ),
            state=lifecycle.state,
            sent=lifecycle.flags,
            status=rest.get("status"),
        )
        deadline = time.monotonic() + RETRY_SECONDS
        while True:
            try:
                await self._broker.publish(claim, publication)
                break
            except BrokerUnavailable:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(_RETRY_PAUSE)
        voice.number = number

    async def _keep_leases(self) -> None:
        pause = self._broker.limits.lease_seconds / 3 / _RENEWALS
        part = 0
        while True:
            claims = [voice.claim for voice in self._voices.values()][part::_RENEWALS]
            part = (part + 1) % _RENEWALS
            with suppress(BrokerUnavailable):  # the events tell; the next renewal comes in time
                await asyncio.gather(*map(self._broker.renew, claims))
            await asyncio.sleep(pause)


async def _all(publishing: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Carry all of them out. When cancelled, those under way come to their end first.

    An event that was sent has taken its number, whether somebody waited for it or not.
    """
    tasks = [asyncio.create_task(each) for each in publishing]
    if not tasks:
        return
    try:
        await asyncio.wait(tasks)
    finally:
        left = [task for task in tasks if not task.done()]
        if left:
            await asyncio.wait(left)
    with _explained():
        for task in tasks:
            task.result()


@contextmanager
def _explained() -> Iterator[None]:
    """A refusal by Redis' scripts as what it means to the one who measures."""
    try:
        yield
    except Refused as refused:
        raise BenchFailed(
            why=f"A run of the bench was taken from it: {refused}",
            todo="Its lease ended, so this machine is too busy: use a lower --rate or --most-rate.",
        ) from refused
