"""Gateways and workers of a chaos test: real processes, each on a breakable network of its own."""

import asyncio
import inspect
import json
import signal
import time
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.support.clients import PATIENCE_SECONDS
from tests.support.fault_proxy import FaultProxy
from tests.support.journal import FOLDER
from tests.support.ports import free_port
from tests.support.servers import OPERATOR_KEY, READY_SECONDS, Fleet, Process, Redis, is_ready

RETENTION: Final = 100_000

# Leases and heartbeats longer than a busy machine stands still: what is not the fault must not end.
DEFAULTS: Final = {
    "RUNCAST_HISTORY_EVENTS": str(RETENTION),
    "RUNCAST_LEASE_SECONDS": "10",
    "RUNCAST_STOP_DEADLINE_SECONDS": "2",
    "RUNCAST_DRAIN_SECONDS": "2",
    "RUNCAST_HEARTBEAT_SECONDS": "10",
}


@dataclass
class Member:
    """A gateway or a worker. ``network``: its own way to Redis."""

    name: str
    fleet: Fleet
    network: FaultProxy
    process: Process
    port: int = 0
    door: FaultProxy | None = None
    """A gateway's: the way of clients to it."""
    host: str = "127.0.0.1"

    @property
    def base(self) -> str:
        """The gateway's address, through its door if it has one."""
        return self.door.base if self.door is not None else f"http://{self.host}:{self.port}"

    def kill(self) -> float:
        """SIGKILL; when (monotonic clock)."""
        self.process.popen.send_signal(signal.SIGKILL)
        moment = time.monotonic()
        self.process.popen.wait()
        return moment

    def pause(self) -> None:
        self.process.popen.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.popen.send_signal(signal.SIGCONT)

    def start(self) -> None:
        """Once more, in the same place; it may not be ready yet."""
        self.process = start(self.fleet, self.port, self.host)

    def stats(self) -> dict[str, Any]:
        """A gateway's own counters, as an operator sees them."""
        request = urllib.request.Request(
            f"http://{self.host}:{self.port}/ws/stats",
            headers={"Authorization": f"Bearer {OPERATOR_KEY}"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            body: dict[str, Any] = json.load(response)
        gateway: dict[str, Any] = body["gateway"]
        return gateway

    def is_ready(self) -> bool:
        """
        :raises RuntimeError: its process has ended.
        """
        self.process.runs()
        if not self.port:
            return " serves " in self.process.printed()
        return is_ready(self.port, self.host) and self.process.serves(self.port)


def start(fleet: Fleet, port: int, host: str) -> Process:
    if port:
        return fleet.runcast("gateway", "--host", host, "--port", str(port), name="gateway")
    return fleet.worker_process()


@dataclass(kw_only=True)
class Stage:
    """Redis, and the processes around it."""

    redis: Redis
    folder: Path
    settings: dict[str, str]
    gateways: list[Member] = field(default_factory=list)
    workers: list[Member] = field(default_factory=list)
    fleets: list[Fleet] = field(default_factory=list)
    proxies: ExitStack = field(default_factory=ExitStack)

    def add_gateway(self, *, door: bool = False, **settings: str) -> Member:
        """Start one more; :meth:`all_ready` waits for it."""
        member = self._member(f"gateway {len(self.gateways)}", free_port(), settings)
        if door:
            place = ("127.0.0.1", member.port)
            member.door = self.proxies.enter_context(FaultProxy(place, resp=False))
        self.gateways.append(member)
        return member

    def add_gateway_at(self, host: str, port: int) -> Member:
        """The same, in this place."""
        member = self._member(f"gateway {len(self.gateways)}", port, {}, host=host)
        self.gateways.append(member)
        return member

    def add_worker(self, **settings: str) -> Member:
        member = self._member(f"worker {len(self.workers)}", 0, settings)
        self.workers.append(member)
        return member

    def proxy(self) -> FaultProxy:
        """One more way to Redis, gone at the end."""
        return self.proxies.enter_context(FaultProxy(("127.0.0.1", self.redis.port)))

    def _member(
        self, name: str, port: int, settings: dict[str, str], *, host: str = "127.0.0.1"
    ) -> Member:
        network = self.proxy()
        url = self.settings.get("RUNCAST_REDIS_URL", network.url)
        env = {**self.settings, **settings, "RUNCAST_REDIS_URL": url, FOLDER: str(self.folder)}
        folder = self.folder / f"fleet-{len(self.fleets)}"
        folder.mkdir()
        fleet = Fleet(folder, self.redis, env)
        self.fleets.append(fleet)
        return Member(name, fleet, network, start(fleet, port, host), port, host=host)

    async def all_ready(self, *, seconds: float = READY_SECONDS) -> None:
        for member in (*self.gateways, *self.workers):
            if member.process.popen.poll() is None:
                await until(member.is_ready, seconds=seconds, what=f"{member.name} ready")

    def strike(self) -> None:
        """End everything."""
        for fleet in self.fleets:
            for process in fleet.processes:
                if process.popen.poll() is None:
                    process.popen.kill()
                    process.popen.wait()
        self.proxies.close()


async def until(condition: Any, *, seconds: float = PATIENCE_SECONDS, what: str) -> None:
    """Look until it holds; ``AssertionError`` with ``what`` when it does not in time."""
    deadline = time.monotonic() + seconds
    while True:
        held = condition()
        if await held if inspect.isawaitable(held) else held:
            return
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        await asyncio.sleep(0.02)
