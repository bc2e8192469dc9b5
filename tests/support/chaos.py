"""A whole system under faults: Redis, gateways, workers, users, load, and a judge at the end.

::

    async with chaos(report, gateways=2, workers=1) as scene:
        await scene.populate(users=3)
        async with scene.load(per_second=20):
            …the fault…
        await scene.settle()
        scene.judge(fault="gateway killed", recovery_seconds=scene.recovery(since))
"""

import asyncio
import contextlib
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from agents_sdk import Publisher
from broker.config import load_settings
from tests.support.chaos_client import ChaosClient
from tests.support.chaos_log import read_logs
from tests.support.chaos_members import DEFAULTS, RETENTION, Stage, until
from tests.support.chaos_report import Report, Row
from tests.support.clients import PATIENCE_SECONDS
from tests.support.fault_proxy import FaultProxy
from tests.support.history import (
    Entry,
    Excuses,
    History,
    Kind,
    Place,
    Reader,
    RunRecord,
    check,
    cursor,
    describe,
)
from tests.support.journal import Journal, Notes, keep_emitting
from tests.support.servers import Redis, running_redis

USERS: Final = ("alice", "bob", "a:b", "a", "ünï {x} 100%")
"""Among them ids that would meet in a key if they were not encoded."""

QUICK_SECONDS: Final = 12.0
"""What begins anew at once is there again by then, on a machine that stands still for a while too;
what waits for a lease, a look or a time-out of a default installation is not."""

THREAD: Final = "b:t"
"""The same for all users: nothing but the user tells their threads apart."""


__all__ = ["QUICK_SECONDS", "THREAD", "USERS", "Scene", "chaos", "until"]


@dataclass(kw_only=True)
class Scene(Stage):
    """What a chaos test holds; made by :func:`chaos`."""

    report: Report
    log_urls: tuple[str, ...]
    clients: list[ChaosClient] = field(default_factory=list)
    runs: dict[str, RunRecord] = field(default_factory=dict)  # that no client began
    sockets: AsyncExitStack = field(default_factory=AsyncExitStack)
    entrance: str | None = None
    """Where clients come in, if not at the gateways themselves."""
    others: list[Reader] = field(default_factory=list)
    """Clients that were driven elsewhere, for the judge."""

    def __post_init__(self) -> None:
        self._journal, self._notes = Journal(self.folder), Notes(self.folder)

    # --- users and load

    async def connect(
        self, user: str = USERS[0], *, live: bool = True, **options: Any
    ) -> ChaosClient:
        """One more client, by default at all gateways in turn, and live when this returns."""
        bases = options.pop("bases", None) or self.bases()
        if options.get("mode") == "factory":
            options.setdefault("thread", THREAD)
        client = ChaosClient(bases, user, seed=len(self.clients), **options)
        self.clients.append(await self.sockets.enter_async_context(client))
        if live:
            await client.until_live()
        return client

    def bases(self, first: int = 0) -> list[str]:
        """Where a client comes in, in turn."""
        if self.entrance is not None:
            return [self.entrance]
        count = len(self.gateways)
        return [self.gateways[(first + step) % count].base for step in range(count)]

    async def populate(self, users: int = 3, **options: Any) -> list[ChaosClient]:
        """Each user in every mode; of main both with and without a thread.

        ``options`` as for :meth:`connect`.
        """
        clients = []
        for number, user in enumerate(USERS[:users]):
            for at, (mode, thread) in enumerate(
                [("main", None), ("main", THREAD), ("factory", THREAD), ("isolated", None)]
            ):
                clients.append(
                    await self.connect(
                        user,
                        mode=mode,
                        thread=thread,
                        bases=self.bases(number + at),
                        live=False,
                        **options,
                        name=f"{user}/{mode}{'/' + thread if thread else ''}",
                    )
                )
        for client in clients:
            await client.until_live()
        return clients

    @asynccontextmanager
    async def load(
        self,
        *,
        per_second: float = 20.0,
        count: int = 20,
        agent: str = "notes",
        clients: Iterable[ChaosClient] | None = None,
    ) -> AsyncIterator[None]:
        """Each client has one run after the other, of ``count`` events each, while inside.

        Entered when every client has heard its first.

        Leaving waits until the runs under way have ended, and every client was told so.
        """
        over = asyncio.Event()
        who = list(clients or self.clients)
        begun = [asyncio.Event() for _ in who]

        async def keep_asking(client: ChaosClient, first: asyncio.Event) -> None:
            content = {"count": count, "per_second": per_second}
            while not over.is_set():
                run_id = await client.ask(content, agent=agent)
                if not first.is_set():
                    await client.until_heard(run_id)
                    first.set()
                await client.until_ended(run_id)

        async with asyncio.TaskGroup() as group:
            for client, first in zip(who, begun, strict=True):
                group.create_task(keep_asking(client, first))
            for first in begun:
                await first.wait()
            yield
            over.set()

    @asynccontextmanager
    async def publisher(
        self, network: FaultProxy, *, publish_timeout_seconds: float = 30.0
    ) -> AsyncIterator[Publisher]:
        """The SDK in this process, on a network that the test breaks."""
        settings = load_settings(
            redis_url=self.settings.get("RUNCAST_REDIS_URL", network.url),
            prefix=self.prefix,
            history_events=RETENTION,
            lease_seconds=int(self.settings["RUNCAST_LEASE_SECONDS"]),
        )
        async with Publisher(
            settings=settings, publish_timeout_seconds=publish_timeout_seconds
        ) as publisher:
            yield publisher

    async def publish(
        self,
        publisher: Publisher,
        user: str,
        *,
        thread: str | None = None,
        count: int = 20,
        per_second: float = 50.0,
    ) -> str:
        """One run to the user's channel, or to the thread's; each event noted. Its id."""
        async with publisher.run(
            user_id=user,
            agent_name="publisher",
            thread_id=thread or "published",
            scope="thread" if thread else "user",
        ) as run:
            place = Place("thread", user, thread) if thread else Place("user", user)
            self.runs[run.id] = RunRecord(run.id, place, run.thread_id)
            await keep_emitting(run, self._journal, count=count, per_second=per_second)
        return run.id

    # --- judging

    @property
    def prefix(self) -> str:
        return self.settings.get("RUNCAST_PREFIX", "rc")

    def logs(self) -> dict[Place, list[Entry]]:
        return read_logs(self.log_urls, self.prefix)

    async def recovered(
        self,
        since: float,
        clients: Iterable[ChaosClient] | None = None,
        *,
        seconds: float = PATIENCE_SECONDS,
    ) -> float:
        """Wait until each of the clients has an event that was begun after ``since`` (monotonic).

        The seconds from ``since`` until the slowest of them had its first.
        """
        waiting = set(self.clients if clients is None else clients)
        slowest, deadline = since, time.monotonic() + seconds
        while waiting:
            begun = self._notes.read().begun
            for client in list(waiting):
                for moment, frame in client.received(since):
                    if begun.get(frame["payload"].get("thoughts", ""), 0.0) > since:
                        slowest = max(slowest, moment)
                        waiting.discard(client)
                        break
            names = [client.name for client in waiting]
            assert time.monotonic() < deadline, f"no event within {seconds:g} s for {names}"
            await asyncio.sleep(0.05)
        return slowest - since

    def rate(self, since: float, until: float) -> float:
        """How many emissions were begun per second between these moments (monotonic)."""
        begun = self._notes.read().begun.values()
        return sum(since <= moment < until for moment in begun) / (until - since)

    async def settle(
        self, *, seconds: float = PATIENCE_SECONDS, gone_seconds: float | None = None
    ) -> None:
        """Wait until all runs have ended and every client that should be connected has all.

        ``gone_seconds``: how long to wait for runs of which no log has anything: they may be gone
        with it. Returns at the deadline as well: :meth:`judge` then names what is missing.
        """
        began = time.monotonic()
        while (passed := time.monotonic() - began) < seconds:
            logs = await asyncio.to_thread(self.logs)
            gone = gone_seconds is not None and passed > gone_seconds
            if not list(self._unsettled(logs, gone=gone)):
                return
            await asyncio.sleep(0.2)

    def _unsettled(self, logs: dict[Place, list[Entry]], *, gone: bool) -> Iterator[str]:
        begun = {e.run_id for log in logs.values() for e in log}
        ended = {e.run_id for log in logs.values() for e in log if e.type == "agent_completed"}
        for run_id, run in self._all_runs(logs).items():
            if run.accepted and run_id not in ended and (run_id in begun or not gone):
                yield f"run {run_id} has not ended"
        for client in self.clients:
            if not client.expected:
                continue
            thread = client.thread if client.mode == "main" else None
            place = client.place
            wanted = (
                [e.id for e in logs.get(place, ()) if thread in (None, e.thread)] if place else []
            )
            behind = wanted and cursor(client.cursor or "0-0") < cursor(wanted[-1])
            if not client.live or behind:
                yield f"{client.name} is not level"

    def _all_runs(self, logs: dict[Place, list[Entry]]) -> dict[str, RunRecord]:
        """Those that somebody was told of, and what else is in the logs (sub-agents, requests
        whose acknowledgement was lost)."""
        runs = dict(self.runs)
        for client in self.clients:
            for run_id, (place, thread) in client.accepted.items():
                runs[run_id] = RunRecord(run_id, place, thread)
        for place, log in logs.items():
            for entry in log:
                runs.setdefault(
                    entry.run_id, RunRecord(entry.run_id, place, entry.thread, accepted=False)
                )
        return runs

    def history(self, *, rolled_back: bool = False) -> History:
        """Everything that happened so far."""
        logs = self.logs()
        retention = int(self.settings["RUNCAST_HISTORY_EVENTS"])
        return History(
            runs=self._all_runs(logs),
            emissions=self._notes.read().emissions,
            readers=[
                *(reader for client in self.clients for reader in client.readers()),
                *self.others,
            ],
            logs=logs,
            excuses=Excuses(rolled_back=rolled_back, retention=retention),
        )

    def judge(
        self,
        *,
        fault: str,
        recovery_seconds: float | None = None,
        rolled_back: bool = False,
        tracebacks: bool = False,
    ) -> History:
        """Assert that every promise was kept, and add a row to the report.

        ``rolled_back``: the fault took acknowledged events from the log. ``tracebacks``: a program
        may print some.
        """
        history = self.history(rolled_back=rolled_back)
        violations = check(history)
        counts = Counter(violation.kind for violation in violations)
        row = Row(
            fault=fault,
            published=sum(emission.id is not None for emission in history.emissions),
            delivered=sum(
                "id" in frame
                for reader in history.readers
                for epoch in reader.epochs
                for frame in epoch.frames
            ),
            lost=counts[Kind.LOST] + counts[Kind.NOT_IN_LOG],
            doubled=counts[Kind.DOUBLED] + counts[Kind.UNKNOWN_TWICE],
            leaked=counts[Kind.LEAKED],
            recovery_seconds=recovery_seconds,
        )
        self.report(row)
        away = [client.name for client in self.clients if client.expected and not client.live]
        assert not violations, f"{fault}: {describe(violations)}"
        assert not away, f"{fault}: not back in the end: {away}"
        assert row.published, f"{fault}: nothing was published, so nothing was proven"
        assert row.delivered, f"{fault}: nothing was delivered, so nothing was proven"
        for fleet in self.fleets:
            for process in fleet.processes:
                printed = process.printed()
                assert tracebacks or "Traceback" not in printed, f"{fault}:\n{printed}"
        return history

    async def end(self) -> None:
        await self.sockets.aclose()
        self._journal.close()
        self.strike()


@asynccontextmanager
async def chaos(
    report: Report,
    *,
    gateways: int = 2,
    workers: int = 1,
    doors: bool = False,
    redis: Redis | None = None,
    log_urls: Iterable[str] | None = None,
    **settings: str,
) -> AsyncIterator[Scene]:
    """A system of its own, ready when entered, gone when left.

    ``doors``: a fault proxy between clients and each gateway. ``redis``: a server that the test
    brought (it also stops it). ``settings``: ``RUNCAST_…`` of all members; with a
    ``RUNCAST_REDIS_URL`` they go there without proxies, and ``log_urls`` names the servers in which
    the logs are found in the end.
    """
    with contextlib.ExitStack() as stack:
        server = redis or stack.enter_context(running_redis())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="runcast-chaos-")))
        urls = tuple(log_urls or (server.url,))
        scene = Scene(
            redis=server,
            report=report,
            folder=folder,
            log_urls=urls,
            settings={**DEFAULTS, **settings},
        )
        try:
            for _ in range(gateways):
                scene.add_gateway(door=doors)
            for _ in range(workers):
                scene.add_worker()
            await scene.all_ready()
            yield scene
        finally:
            await scene.end()
