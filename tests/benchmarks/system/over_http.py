"""Events over HTTP: what a gateway's CPU costs each, alone in a request and by the hundred."""

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import aiohttp

from tests.benchmarks.system.measuring import Found, Scenario
from tests.benchmarks.system.processes import Meter
from tests.benchmarks.system.systems import running_redis
from tests.support.servers import WORKER_KEY, Redis, running_fleet

SIZES: Final = (1, 10, 100)
"""Events of one request."""

AT_ONCE: Final = 8
"""Runs whose workers send at the same time, each one request after the other."""


async def speak(http: aiohttp.ClientSession, url: str, run_id: str, size: int, count: int) -> None:
    """A run of ``count`` requests, every answer checked."""
    body: dict[str, Any] = {"run_id": run_id, "user_id": run_id}
    started = {"seq": 1, "type": "agent_started", "payload": {"message": "measured"}}
    opening = {"open": {"agent_name": "measured"}, "events": [started]}
    async with http.post(url, json=body | opening) as response:
        fence = (await response.json())["fence"]
    seq = 2
    for _ in range(count):
        events = [
            {"seq": seq + at, "type": "agent_thinking", "payload": {"thoughts": "x" * 64}}
            for at in range(size)
        ]
        async with http.post(url, json=body | {"fence": fence, "events": events}) as response:
            told = await response.json()
        seq += size
        if response.status != 200 or told["next_seq"] != seq:
            raise RuntimeError(f"answered {response.status}: {told}")


async def all_speak(url: str, name: str, size: int, count: int) -> None:
    headers = {"Authorization": f"Bearer {WORKER_KEY}"}
    async with aiohttp.ClientSession(headers=headers) as http:
        await asyncio.gather(
            *(speak(http, url, f"{name}-{size}-{at}", size, count) for at in range(AT_ONCE))
        )


def run(*, quick: bool) -> dict[str, Found]:
    """Size of a request → events a gateway's core takes."""
    found: Found = {}
    with TemporaryDirectory(prefix="runcast-bench-") as name, running_redis(Path(name)) as redis:
        served = Redis(Path(name), port=int(redis.url.rpartition(":")[2].partition("/")[0]))
        with running_fleet(served) as fleet:
            base, process = fleet.gateway_process()
            url, meter_of = f"{base}/api/v1/events", [process.popen.pid]
            for size in SIZES:
                count = 5 if quick else 6_000 // (size + 10)
                asyncio.run(all_speak(url, "warm", size, 5))
                meter = Meter(meter_of)
                asyncio.run(all_speak(url, "run", size, count))
                events = AT_ONCE * count * size
                found[str(size)] = {"gateway_us": meter.used_ns() / events / 1000, "events": events}
    return {"Runcast": found}


SCENARIO: Final = Scenario(name="over_http", what="events of workers over HTTP", run=run)
