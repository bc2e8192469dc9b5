"""One worker process under load: ``publisher.py REDIS_URL RUNS SECONDS``. Its last line is JSON.

Many runs publish through the SDK, each its next event as soon as the last one is confirmed; then
one run alone, and the same script without the SDK: by the broker's client, and by a bare socket.
"""

import asyncio
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Final

import uvloop

sys.path.insert(0, str(Path(__file__).parents[3]))

from agents_sdk import Publisher, Run
from tests.benchmarks.system.runs import EVENT_BYTES, connected_runs

TEXT: Final = "x" * (EVENT_BYTES - 170)
ALONE: Final = 3000
"""Publishes, one after the other, whose times are taken."""


async def many(redis_url: str, count: int, seconds: float) -> dict[str, Any]:
    """Confirmed events of ``count`` runs at once."""
    confirmed = 0
    until = 0.0

    async def speak(run: Run) -> None:
        nonlocal confirmed
        while time.perf_counter() < until:
            await run.think(TEXT)
            confirmed += 1

    async with Publisher(redis_url) as publisher:
        scopes = [
            publisher.run(user_id=f"user-{index}", agent_name="bench") for index in range(count)
        ]
        runs = await asyncio.gather(*(scope.__aenter__() for scope in scopes))
        began, cpu = time.perf_counter(), time.process_time()
        until = began + seconds
        await asyncio.gather(*map(speak, runs))
        took, used = time.perf_counter() - began, time.process_time() - cpu
        await asyncio.gather(*(scope.__aexit__(None, None, None) for scope in scopes))
    return {
        "runs": count,
        "confirmed": confirmed,
        "events_per_second": confirmed / took,
        "worker_us": used / confirmed * 1e6,
        "worker_cores": used / took,
        "events_per_worker_core": confirmed / used,
    }


async def alone(redis_url: str) -> dict[str, Any]:
    """Times of one publish when nobody else does anything, in turns: SDK, client, bare."""
    times: dict[str, list[int]] = {"sdk": [], "client": [], "bare": []}
    port = int(redis_url.rpartition(":")[2])
    clock = time.perf_counter_ns
    async with connected_runs(redis_url) as runs, Publisher(redis_url) as publisher:
        await runs.open(["client", "bare"])
        client = runs.broker
        reader, bare = await asyncio.open_connection("127.0.0.1", port)
        async with publisher.run(user_id="sdk", agent_name="bench") as run:
            for _ in range(ALONE):
                publication, command = runs.publication("client"), runs.command("bare")
                began = clock()
                await run.think(TEXT)
                times["sdk"].append(clock() - began)
                began = clock()
                await client.publish(runs.claims["client"], publication)
                times["client"].append(clock() - began)
                began = clock()
                bare.write(command)
                reply = await reader.read(4096)
                times["bare"].append(clock() - began)
                if not reply.startswith(b"$"):
                    raise RuntimeError(reply.decode())
        bare.close()
    return {f"{name}_us": statistics.median(each) / 1000 for name, each in times.items()}


async def measure() -> None:
    redis_url, count, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    print(json.dumps(await many(redis_url, count, seconds) | await alone(redis_url)))


if __name__ == "__main__":
    uvloop.run(measure())
