"""Hours in minutes: users who come, ask, lose their connection and go, in rounds that are judged.

A round has users of its own. When it ends, all its runs have ended and everybody who is connected
is level; then it is judged by its logs, and its users leave. So the logs of a round may expire
while the next ones run, and neither the judge's work nor its memory grows with the soak's length.
"""

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any, Final

import psutil
import redis as redis_py

from tests.support.chaos import Scene
from tests.support.chaos_client import ChaosClient
from tests.support.history import Frame, Kind, Reader, Violation, check

REQUESTS: Final[tuple[tuple[str, Any, set[str]], ...]] = (
    # agent, what it is asked, how its run may end
    ("notes", {"count": 10, "per_second": 20}, {"succeeded"}),
    ("five", {"calls": 3}, {"succeeded"}),
    ("parallel_tools", "x", {"succeeded"}),
    ("parent", "x", {"succeeded"}),
    ("writer", {"text": "streamed, ünï, " * 20}, {"succeeded"}),
    ("raises", "x", {"failed"}),
    ("hangs", "x", {"failed"}),
    ("waits", "x", {"cancelled"}),
    ("lazy", "x", {"succeeded"}),
    ("strict", "x", {"failed"}),
)

MODES: Final = (("main", None), ("main", "b:t"), ("factory", "b:t"), ("isolated", None))


@dataclass
class Totals:
    """Over all rounds."""

    rounds: int = 0
    published: int = 0
    delivered: int = 0
    cuts: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)
    wrong_ends: list[str] = field(default_factory=list)

    def count(self, *kinds: Kind) -> int:
        return sum(each.kind in kinds for each in self.violations)


class Soak:
    """``lost_worker``: set while a worker is away, so that its runs may be abandoned."""

    def __init__(self, scene: Scene, *, seed: int) -> None:
        self.scene, self.totals = scene, Totals()
        self.lost_worker = False
        self._rng = random.Random(seed)
        self._number = 0

    async def round(self, seconds: float, *, clients: int = 16) -> None:
        """One round of about this long, judged."""
        scene, totals = self.scene, self.totals
        totals.rounds += 1
        may_be_lost = self.lost_worker
        users = [f"user {totals.rounds} {letter}" for letter in ("a", "a:b", "ü{}")]
        async with asyncio.TaskGroup() as group:
            over = time.monotonic() + seconds
            for number in range(clients):
                user = users[number % len(users)]
                group.create_task(self._be(user, MODES[number % len(MODES)], over))
            group.create_task(self._cut(over))
        may_be_lost = may_be_lost or self.lost_worker
        await scene.settle()
        logs = {place: log for place, log in scene.logs().items() if place.user in users}
        history = scene.history()
        runs = {run_id: run for run_id, run in history.runs.items() if run.place.user in users}
        emissions = [each for each in history.emissions if each.run_id in runs]
        readers = [_only_noted(reader) for reader in history.readers]
        mine = replace(history, runs=runs, emissions=emissions, logs=logs, readers=readers)
        totals.violations += check(mine)
        totals.published += sum(map(len, logs.values()))
        totals.delivered += sum(1 for client in scene.clients for _ in client.received())
        for client in scene.clients:
            for end in client.ended.values():
                self._judge_end(end, may_be_lost=may_be_lost)
            await client.__aexit__(None, None, None)
        scene.clients.clear()

    def _judge_end(self, end: Any, *, may_be_lost: bool) -> None:
        agent, status = end["agent_name"], end["payload"]["status"]
        self.totals.statuses[status] += 1
        legal = {"child": {"succeeded"}} | {name: ends for name, _, ends in REQUESTS}
        excused = may_be_lost and status in ("abandoned", "cancelled")
        if status not in legal[agent] and not excused:
            self.totals.wrong_ends.append(f"{agent}: {end}")

    async def _be(self, user: str, mode: tuple[str, str | None], over: float) -> None:
        """Somebody who comes, asks for this and that, and goes; then the next one."""
        stays = self._rng.random() < 0.5
        while time.monotonic() < over:
            self._number += 1  # its name is in its message ids: the same id is the same message
            client = await self.scene.connect(
                user,
                mode=mode[0],
                thread=mode[1],
                bases=self._bases(),
                name=f"{user} #{self._number}",
                heartbeat_seconds=3.0,
            )
            for _ in range(self._rng.randrange(1, 5)):
                if time.monotonic() > over:
                    break
                await self._ask(client)
            if not stays:
                await client.leave()

    async def _ask(self, client: ChaosClient) -> None:
        agent, content, _ = self._rng.choice(REQUESTS)
        run_id = await client.ask(content, agent=agent)
        if agent == "waits":
            await client.request("stop_agent", {"run_id": run_id})
        await client.until_ended(run_id)

    def _bases(self) -> list[str]:
        bases = [gateway.base for gateway in self.scene.gateways]
        self._rng.shuffle(bases)
        return bases

    async def _cut(self, over: float) -> None:
        """Connections are lost all the time: on the clients' side, and on the gateways'."""
        while time.monotonic() < over:
            await asyncio.sleep(0.1 + self._rng.random() * 0.3)
            there = [client for client in self.scene.clients if client.live]
            if there and self._rng.random() < 0.8:
                await self._rng.choice(there).drop()
                self.totals.cuts += 1
            elif self._rng.random() < 0.2:
                door = self._rng.choice(self.scene.gateways).door
                assert door is not None
                self.totals.cuts += door.cut()


def _only_noted(reader: Reader) -> Reader:
    """Thoughts tell emissions apart; those of agents that think the same each time do not."""
    epochs = [replace(epoch, frames=list(map(_marked, epoch.frames))) for epoch in reader.epochs]
    return replace(reader, epochs=epochs)


def _marked(frame: Frame) -> Frame:
    if frame["type"] != "agent_thinking" or frame["agent_name"] == "notes":
        return frame
    return {**frame, "payload": {}}


@dataclass
class Samples:
    """What one process used, over time."""

    process: psutil.Process
    rss: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    def take(self) -> None:
        self.rss.append(self.process.memory_info().rss)
        self.files.append(self.process.num_fds())

    @property
    def growth(self) -> float:
        """The second half's largest memory by the first half's."""
        half = len(self.rss) // 2
        return max(self.rss[half:]) / max(self.rss[:half])


def subscribed(scene: Scene) -> list[bytes]:
    """The live channels that somebody listens to: the gateways' feeds."""
    with redis_py.Redis.from_url(scene.redis.url) as client:
        return [channel for channel in client.pubsub_channels() if b":live:" in channel]


def keys(scene: Scene) -> list[bytes]:
    with redis_py.Redis.from_url(scene.redis.url) as client:
        return list(client.scan_iter(count=1000))
