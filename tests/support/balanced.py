"""A fleet behind the load balancer of compose/haproxy: gateways come and go, and it finds them."""

import asyncio
import json
import os
import re
import signal
import sys
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.support.balancer import Balancer, balancer
from tests.support.chaos import Scene, chaos, until
from tests.support.chaos_members import Member
from tests.support.chaos_report import Report
from tests.support.clients import PATIENCE_SECONDS
from tests.support.history import Place, RunRecord
from tests.support.journal import FOLDER
from tests.support.pouring import THREAD
from tests.support.servers import Redis

FIRST_HOST: Final = 2
"""The gateways are at 127.0.0.2, 127.0.0.3 and so on: all of 127.0.0.0/8 is this machine."""

LONGEST_LINE: Final = 1 << 24


@dataclass(frozen=True)
class Drain:
    """Of one gateway: when it was told (monotonic), and how many connections it had then."""

    told: float
    sockets: int


@dataclass
class Balanced:
    """``scene`` is the fleet; its clients come in through ``balancer``."""

    scene: Scene
    balancer: Balancer

    @property
    def gateways(self) -> list[Member]:
        """Those that the name server tells of."""
        known = self.balancer.names.addresses
        return [each for each in self.scene.gateways if each.host in known]

    async def join(self, count: int = 1) -> list[Member]:
        """So many new gateways, ready; the load balancer gives them clients when this returns."""
        new = []
        for _ in range(count):
            host = f"127.0.0.{FIRST_HOST + len(self.scene.gateways)}"
            new.append(self.scene.add_gateway_at(host, self.balancer.gateway_port))
        await self.scene.all_ready()
        self.balancer.names.addresses += tuple(each.host for each in new)
        await until(self.all_up, what="the load balancer has found them")
        return new

    def all_up(self) -> bool:
        """Whether everybody whom the name server tells of gets new connections, and nobody else."""
        return self.balancer.up() == len(self.gateways)

    async def drain(self, gateway: Member) -> Drain:
        """SIGTERM, and its end; the name server knows of it until then. All of its clients are
        elsewhere when this returns."""
        there = await asyncio.to_thread(self.connections)
        began = time.monotonic()
        gateway.process.popen.send_signal(signal.SIGTERM)
        await until(lambda: gateway.process.popen.poll() is not None, what="the gateway ends")
        assert gateway.process.popen.returncode == 0, gateway.process.printed()
        self.forget(gateway)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while await asyncio.to_thread(self.connections) < there:
            assert time.monotonic() < deadline, f"not all of {there} clients came back"
            await asyncio.sleep(0.2)
        told = re.search(r"draining .*\bsockets=(\d+)", gateway.process.printed())
        assert told is not None, gateway.process.printed()
        return Drain(began, int(told[1]))

    def connections(self) -> int:
        """Of all gateways that the name server tells of."""
        return sum(each.stats()["connections"]["total"] for each in self.gateways)

    def forget(self, gateway: Member) -> None:
        """The name server does not know it any more."""
        names = self.balancer.names
        names.addresses = tuple(each for each in names.addresses if each != gateway.host)

    @asynccontextmanager
    async def pouring(self, users: Sequence[str], *, per_second: float) -> AsyncIterator[None]:
        """Events to these users at a steady rate altogether, from a process of its own; each has
        one run, which is open when this is entered and has ended when it is left."""
        command = ["-m", "tests.support.pouring", "--per-second", str(per_second), *users]
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, cwd=Path(__file__).parents[2], limit=LONGEST_LINE,
            env={**os.environ, **self.scene.fleets[0].env, FOLDER: str(self.scene.folder)},
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            for run_id, user in json.loads(await process.stdout.readline()).items():
                self.scene.runs[run_id] = RunRecord(run_id, Place("user", user), THREAD)
            yield
            process.stdin.close()
            assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


@asynccontextmanager
async def balanced(
    report: Report, *, gateways: int = 3, redis: Redis | None = None, **options: Any
) -> AsyncIterator[Balanced]:
    """As :func:`~tests.support.chaos.chaos`, with the load balancer before the gateways."""
    with balancer() as front:
        options.setdefault("RUNCAST_LEASE_SECONDS", "60")  # many runs have one process here
        async with chaos(
            report, gateways=0, redis=redis, RUNCAST_TRUSTED_PROXIES="127.0.0.1", **options
        ) as scene:
            scene.entrance = front.base
            fleet = Balanced(scene, front)
            await fleet.join(gateways)
            yield fleet


def most_within(moments: Sequence[float], seconds: float) -> int:
    """The most of them in any stretch of this length."""
    ordered = sorted(moments)
    return max(
        (bisect_left(ordered, each + seconds) - at for at, each in enumerate(ordered)), default=0
    )
