"""The measures, each a duty of the same audience and the same speaker.

What a measure answers is what ``--json`` tells of it; the words for it are in ``report``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any, Final, Protocol

from gateway.bench.account import Faults
from gateway.bench.audience import Audience, Heard
from gateway.bench.failure import BenchFailed
from gateway.bench.installation import Installation
from gateway.bench.pacing import Ramp
from gateway.bench.plan import Plan
from gateway.bench.processes import cores, machine_cpu_seconds
from gateway.bench.speaker import Said, Speaker
from gateway.bench.verdict import Stopped, Usage, bottleneck

Result = dict[str, Any]

CANARY_SECONDS: Final = 5.0
"""For the first event to arrive: Redis may be slow, but not so slow."""

SETTLE_SECONDS: Final = 6.0
"""A gateway notices within 2 s that it missed a last message; what comes later is lost."""

STEP_DRAIN_SECONDS: Final = 0.5
"""After a step of the search, everything has arrived by then, or the rate does not hold."""

WORST_P99_MS: Final = 100.0
"""A rate holds while 99 of 100 events are received within this."""

KEPT_UP: Final = 0.95
"""Of the rate asked for, that was published."""

FIRST_RATE: Final = 500.0
ARENA_BYTES: Final = 1 << 20
"""Python takes memory in pieces of this size, so a difference is right to one of them."""


class Progress(Protocol):
    """Whoever shows how far it is."""

    def begin(self, measure: str, seconds: float) -> None:
        """A measure begins, and will take about so long."""

    def note(self, words: str) -> None:
        """What it is doing now."""


class Measures:
    """The measures of one bench, over one audience and one speaker."""

    def __init__(
        self,
        plan: Plan,
        installation: Installation,
        audience: Audience,
        speaker: Speaker,
        progress: Progress,
    ) -> None:
        self._plan, self._installation = plan, installation
        self._audience, self._speaker, self._progress = audience, speaker, progress
        self._users = list(range(plan.connections))
        self._known = plan.connections + 1  # with the one who has many tabs
        self.results: dict[str, Result] = {}
        self.faults = Faults()

    async def run(self) -> None:
        """All that the plan names, in order, into ``results``.

        :raises BenchFailed: it cannot go on.
        """
        verbs: dict[str, Callable[[], Awaitable[Result]]] = {
            "latency": self._latency,
            "throughput": self._throughput,
            "fanout": self._fan_out,
            "resume": self._resume,
        }
        await self._warm_up()
        await self._connect()
        for measure in self._plan.only:
            if measure in verbs:
                self._progress.begin(measure, self._plan.seconds_for(measure))
                await self._speaker.open({u: self._audience.user_id(u) for u in self._users})
                await self._level(SETTLE_SECONDS)
                await self._audience.take()
                result = await verbs[measure]()
                await self._finish({measure: result})

    async def _finish(self, results: dict[str, Result]) -> None:
        """Close the accounts, and keep those of the results that were asked for."""
        faults = await self._audience.close(self._published)
        self.faults += faults
        for name, result in results.items():
            if name in self._plan.only:
                self.results[name] = {**result, "faults": asdict(faults)}

    @property
    def _published(self) -> list[int]:
        return self._speaker.published(self._known)

    async def _level(self, seconds: float) -> int:
        return await self._audience.level(self._published, seconds=seconds)

    # --- connect and memory

    async def _warm_up(self) -> None:
        """The first connections, and one event through everything: it is the gateway's Redis."""
        self._progress.begin("connect", self._plan.seconds_for("connect"))
        await self._audience.join(self._users[: self._plan.warm_up])
        await self._speaker.open({0: self._audience.user_id(0)})
        if await self._level(CANARY_SECONDS):
            raise BenchFailed(
                why="The gateway does not deliver what is published in this Redis",
                todo="Give the bench the gateway's own RUNCAST_REDIS_URL, RUNCAST_PREFIX and "
                "RUNCAST_PARTITIONS; `runcast check` tries them.",
            )

    async def _connect(self) -> None:
        warm = self._plan.warm_up
        before = self._installation.gateway_bytes()
        begun = time.monotonic()
        took = await self._audience.join(self._users[warm:])
        seconds = time.monotonic() - begun
        made = self._plan.connections - warm
        connected = {
            "connections": self._plan.connections,
            "per_second": round(made / seconds, 1),
            "to_live_ms": took.summary(),
        }
        self._progress.begin("memory", self._plan.seconds_for("memory"))
        await asyncio.sleep(min(1.0, self._plan.seconds / 20))  # for what a connect leaves behind
        await self._finish({"connect": connected, "memory": self._memory(before, made)})

    def _memory(self, before: int | None, made: int) -> Result:
        after = self._installation.gateway_bytes()
        if before is None or after is None:
            why = self._installation.unknown or "its memory cannot be read"
            return {"per_connection_bytes": None, "why": why}
        return {
            "per_connection_bytes": max(0, round((after - before) / made)),
            "uncertain_bytes": round(ARENA_BYTES / made),
            "gateway_bytes": after,
            "connections": self._plan.connections,
        }

    # --- latency, throughput, fan-out

    async def _latency(self) -> Result:
        seconds, rate = self._plan.seconds_for("latency"), self._plan.rate
        self._progress.note(f"{rate:,.0f} events/s to {len(self._users):,} users")
        said, heard, usage = await self._step(rate, seconds, SETTLE_SECONDS)
        return {
            "asked_per_second": rate,
            "published_per_second": round(said.rate, 1),
            "publish_to_receive_ms": heard.took.summary(),
            "cores_used": usage.shares(),
        }

    async def _throughput(self) -> Result:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._plan.seconds_for("throughput")
        ramp = Ramp(first=FIRST_RATE, most=self._plan.most_rate)
        best: tuple[Said, Heard, Usage] | None = None
        limit: Usage | None = None
        tried: list[Result] = []
        while ramp.target is not None and loop.time() < until:
            rate = ramp.target
            self._progress.note(f"trying {rate:,.0f} events/s")
            step = said, heard, usage = await self._step(
                rate, self._plan.step_seconds, STEP_DRAIN_SECONDS
            )
            owed = await self._level(0)
            p99 = heard.took.percentile(99) or heard.took.longest or 0.0
            held = said.rate >= rate * KEPT_UP and not owed and p99 <= WORST_P99_MS
            figures = {"published": round(said.rate), "late": owed, "p99_ms": p99, "held": held}
            tried.append({"asked": round(rate), **figures})
            ramp.judge(held=held)
            best, limit = (step, limit) if held else (best, usage)
            if owed:
                await self._level(SETTLE_SECONDS)
                await self._audience.take()
        if best is None:
            why = f"not even {tried[-1]['asked']:,} events/s held"
            return {"deliveries_per_second": None, "tried": tried, "why": why}
        stopped: Stopped = "failed" if limit else "capped" if ramp.capped else "time"
        return {**_sustained(*best, limit, stopped), "tried": tried}

    async def _fan_out(self) -> Result:
        user = self._plan.connections
        tabs = self._plan.tabs(self._installation.config["limits"]["max_connections_per_user"])
        await self._audience.join([user], size=tabs)
        await self._speaker.open({user: self._audience.user_id(user)})
        await self._level(SETTLE_SECONDS)
        await self._audience.take()
        rate = self._plan.fan_out_rate
        self._progress.note(f"{rate:,.0f} events/s to {tabs} tabs of one user")
        said = await self._speaker.say_at(
            rate, self._plan.seconds_for("fanout"), self._speaker.voices([user])
        )
        await self._level(SETTLE_SECONDS)
        heard = await self._audience.take()
        return {
            "tabs": tabs,
            "published_per_second": round(said.rate, 1),
            "deliveries_per_second": round(said.rate * tabs),
            "publish_to_receive_ms": heard.took.summary(),
            "publish_to_last_tab_ms": heard.to_all.summary() if tabs > 1 else heard.took.summary(),
        }

    async def _step(
        self, rate: float, seconds: float, drain_seconds: float
    ) -> tuple[Said, Heard, Usage]:
        """Publish at a rate and wait until it has arrived; what it took."""
        begun, before = time.monotonic(), await self._taken()
        said = await self._speaker.say_at(rate, seconds, self._speaker.voices(self._users))
        await self._level(drain_seconds)
        elapsed = time.monotonic() - begun
        heard = await self._audience.take()
        after = await self._taken(heard.cpu)
        gateways = None
        if before[0] is not None and after[0] is not None:
            gateways = [b - a for a, b in zip(before[0], after[0], strict=True)]
        usage = Usage(
            seconds=elapsed,
            gateways=gateways,
            redis=_less(after[1], before[1]),
            publisher=after[2] - before[2],
            clients=[b - a for a, b in zip(before[3], after[3], strict=True)],
            machine=_less(after[4], before[4]),
            cores=cores(),
        )
        return said, heard, usage

    async def _taken(
        self, clients: tuple[float, ...] | None = None
    ) -> tuple[tuple[float, ...] | None, float | None, float, tuple[float, ...], float | None]:
        """CPU seconds so far: gateway processes, Redis, publisher, client processes, machine."""
        if clients is None:
            clients = (await self._audience.take()).cpu
        return (
            self._installation.gateway_cpu(),
            await self._installation.redis_cpu(),
            time.process_time(),
            clients,
            machine_cpu_seconds(),
        )

    # --- resume

    async def _resume(self) -> Result:
        clients = self._users[: self._plan.resuming]
        behind = self._plan.behind(self._installation.settings.history_events)
        await self._audience.drop(clients)
        self._progress.note(f"{len(clients):,} clients are away, {behind} events each")
        voices = self._speaker.voices(clients)
        await self._speaker.say_each(behind, voices, rate=self._plan.catch_up_rate)
        begun = time.monotonic()
        self._progress.note(f"{len(clients):,} clients come back")
        took = await self._audience.resume(clients, self._published)
        seconds = time.monotonic() - begun
        return {
            "clients": len(clients),
            "behind_events": behind,
            "all_level_seconds": round(seconds, 3),
            "per_second": round(len(clients) / seconds, 1),
            "to_level_ms": took.summary(),
        }


def _sustained(
    said: Said, heard: Heard, usage: Usage, limit: Usage | None, stopped: Stopped
) -> Result:
    """``usage`` at the largest rate that held; ``limit``, at the last one that did not."""
    verdict = bottleneck(limit or usage, stopped=stopped)
    return {
        "deliveries_per_second": round(said.rate),
        "publish_to_receive_ms": heard.took.summary(),
        "gateway_cpu_us_per_delivery": _per(usage.gateway, heard.took.total),
        "redis_cpu_us_per_event": _per(usage.redis, said.confirmed),
        "bottleneck": verdict.part,
        "why": verdict.why,
        "cores_used": (limit or usage).shares(),
    }


def _less(later: float | None, earlier: float | None) -> float | None:
    return later - earlier if later is not None and earlier is not None else None


def _per(seconds: float | None, count: int) -> float | None:
    """Microseconds of CPU for each."""
    return round(seconds / count * 1e6, 1) if seconds is not None and count else None
