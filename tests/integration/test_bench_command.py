"""``runcast bench`` as it is typed: real figures, faults that it must find, and nothing left."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from redis import Redis as Connection

from gateway.bench.account import read_mark
from gateway.bench.plan import MEASURES
from gateway.bench.wire import TEXT, split
from gateway.frames import ws_text
from tests.support.servers import SECRET, Fleet, Redis, running_fleet, wait_until

pytestmark = pytest.mark.timeout(300)
ROOT = Path(__file__).parents[2]
PREFIX = "benched"
SMALL = ("--connections", "6", "--seconds", "2", "--rate", "100")


class Bench:
    """One run of the command."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.out = self.err = ""

    async def ended(self) -> int:
        out, err = await self.process.communicate()
        self.out, self.err = out.decode(), err.decode()
        assert "Traceback" not in self.err, self.err
        assert self.process.returncode is not None
        return self.process.returncode

    @property
    def told(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.out)
        return told


async def bench(*arguments: str, **settings: str) -> Bench:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RUNCAST_")}
    return Bench(
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", "bench", *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=ROOT,
            env={**clean, "COLUMNS": "100", **settings},
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def fleet(redis_server: Redis) -> Iterator[Fleet]:
    with running_fleet(
        redis_server,
        RUNCAST_PREFIX=PREFIX,
        RUNCAST_MAX_CONNECTIONS_PER_USER="7",
        RUNCAST_JWT_AUDIENCE="chat",
        RUNCAST_JWT_ISSUER="login",
        RUNCAST_LEASE_SECONDS="2",  # shorter than a run of the bench: it must renew its own
    ) as running:
        yield running


@pytest.fixture(scope="module")
def address(fleet: Fleet) -> str:
    return fleet.gateway()


@pytest.fixture
def settings(fleet: Fleet, address: str) -> dict[str, str]:
    return {**fleet.env, "RUNCAST_URL": f"{address.replace('http', 'ws')}/ws"}


def left_behind(url: str, pattern: str = f"{PREFIX}:*bench-*") -> list[str]:
    """Keys of the bench's users, and counts of its runs."""
    with Connection.from_url(url, decode_responses=True) as redis:
        counts = redis.hgetall(f"{PREFIX}:{{nodes}}:runs")
        assert isinstance(counts, dict)
        return [*redis.scan_iter(pattern), *(field for field in counts if "bench" in field)]


async def nothing_left(url: str, pattern: str = f"{PREFIX}:*bench-*") -> None:
    """Wait for it: that its sockets are gone is told a moment later."""
    await asyncio.to_thread(
        wait_until,
        lambda: left_behind(url, pattern) == [],
        what=f"{left_behind(url, pattern)} goes",
    )


def published(url: str) -> list[int]:
    """Of each of the bench's users, how many events are in the log."""
    with Connection.from_url(url) as redis:
        return [int(redis.xlen(key)) for key in redis.scan_iter(f"{PREFIX}:*:log:*bench-*")]


async def measuring(url: str) -> None:
    """Return when all six users get events."""

    def heard_of_all() -> bool:
        counts = published(url)
        return len(counts) == 6 and min(counts) > 10

    await asyncio.to_thread(wait_until, heard_of_all, what="the bench publishes")


def no_faults(result: dict[str, Any]) -> bool:
    return set(result["faults"].values()) == {0}


class TestAnInstallation:
    async def test_every_measure_is_told_and_nothing_is_left(
        self, fleet: Fleet, settings: dict[str, str]
    ) -> None:
        run = await bench("--connections", "6", "--seconds", "5", "--json", **settings)
        assert await run.ended() == 0, run.err
        told = run.told
        assert told["ok"]
        assert list(told["measures"]) == list(MEASURES)
        assert all(map(no_faults, told["measures"].values()))
        measures = told["measures"]
        assert measures["connect"]["to_live_ms"]["count"] == 5
        assert measures["memory"]["gateway_bytes"] > 1 << 20
        assert measures["latency"]["publish_to_receive_ms"]["p50"] > 0
        throughput = measures["throughput"]
        assert throughput["tried"]
        if throughput["deliveries_per_second"] is None:  # on a machine that others keep busy
            assert throughput["why"].startswith("not even ")
        else:
            assert throughput["deliveries_per_second"] > 0
            assert throughput["redis_cpu_us_per_event"] > 0
        assert measures["fanout"]["tabs"] == 7  # what a user may have there
        assert measures["resume"]["clients"] == 6
        assert measures["resume"]["behind_events"] > 0
        gateway = fleet.processes[0].popen.pid
        assert told["gateway"] == f"process {gateway} on this machine"
        assert "Real load on ws://" in run.err
        await nothing_left(fleet.redis.url)

    async def test_it_is_not_driven_beyond_what_is_allowed(self, settings: dict[str, str]) -> None:
        arguments = ("--only", "throughput", "--most-rate", "40", "--json")
        run = await bench(*SMALL, *arguments, **settings)
        assert await run.ended() == 0, run.err
        throughput = run.told["measures"]["throughput"]
        asked = [step["asked"] for step in throughput["tried"]]
        assert max(asked) == asked[0] == 40
        if len(asked) == 1:  # on a machine that others keep busy even that may be too much
            assert "--most-rate" in throughput["why"]

    async def test_ctrl_c_leaves_nothing(self, fleet: Fleet, settings: dict[str, str]) -> None:
        """At a rate at which every run has an event under way all the time."""
        run = await bench("--connections", "6", "--only", "latency", "--rate", "9000", **settings)
        await measuring(fleet.redis.url)
        children = psutil.Process(run.process.pid).children(recursive=True)
        assert children
        run.process.send_signal(signal.SIGINT)
        assert await run.ended() == 130
        assert "Stopped" in run.err
        assert run.out == ""
        assert not psutil.wait_procs(children, timeout=30)[1]
        await nothing_left(fleet.redis.url)
        await nothing_left(fleet.redis.url, f"{PREFIX}:*:leases")


class TestItsOwnGateway:
    async def test_without_a_url_it_starts_one_and_ends_it(self, fleet: Fleet) -> None:
        run = await bench(*SMALL, RUNCAST_REDIS_URL=fleet.redis.url)
        assert await run.ended() == 0, run.err
        assert "a gateway of the bench's own" in run.out
        for title in ("Connect", "Memory", "Throughput", "Fan-out", "Resume"):
            assert f"\n{title}" in run.out
        assert "✔ No event was lost" in run.out
        left = left_behind(fleet.redis.url, "bench-*")
        assert all(key.endswith("sweeper") for key in left), left  # expires within 3 s

    async def test_not_even_a_redis_is_needed(self) -> None:
        run = await bench(*SMALL, "--only", "connect,latency", "--json")
        assert await run.ended() == 0, run.err
        assert list(run.told["measures"]) == ["connect", "latency"]


class Line:
    """What lies between the clients and a gateway, and tampers with events of some connections."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._held: dict[str, bytes] = {}
        self.serving: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._port)
        outward = asyncio.create_task(self._copy(reader, up_writer))
        self.serving.add(outward)
        try:
            head = await up_reader.readuntil(b"\r\n\r\n")
            writer.write(head)
            rest = b""
            while data := await up_reader.read(65536):
                if b" 101 " not in head:
                    writer.write(data)
                    continue
                frames, rest = split(rest + data)
                for opcode, payload in frames:
                    for text in self._tamper(payload) if opcode == TEXT else ():
                        writer.write(ws_text(text))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    def _tamper(self, payload: bytes) -> list[bytes]:
        """Of the third and fourth event: user 0 loses, 1 gets twice, 2 in disorder, 3 another's."""
        mark = read_mark(payload)
        if mark is None or mark.number not in (3, 4):
            return [payload]
        if (mark.user, mark.number) == (0, 3):
            self._held["foreign"] = payload
            return []
        if (mark.user, mark.number) == (1, 3):
            return [payload, payload]
        if (mark.user, mark.number) == (2, 3):
            self._held["later"] = payload
            return []
        if (mark.user, mark.number) == (2, 4):
            return [payload, self._held.pop("later")]
        if mark.user == 3 and "foreign" in self._held:
            return [self._held.pop("foreign"), payload]
        return [payload]


@asynccontextmanager
async def tampering(url: str) -> AsyncIterator[str]:
    port = urlsplit(url).port
    assert port is not None
    line = Line(port)
    async with await asyncio.start_server(line.serve, "127.0.0.1", 0) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws"
        await asyncio.gather(*line.serving)


class TestFaults:
    async def test_what_goes_wrong_on_the_way_is_told(self, settings: dict[str, str]) -> None:
        async with tampering(settings["RUNCAST_URL"]) as url:
            run = await bench(*SMALL, "--only", "latency", "--json", "--url", url, **settings)
            assert await run.ended() == 1, run.err
        wrong = {"lost": 1, "doubled": 1, "disordered": 1, "misdelivered": 1}
        assert not run.told["ok"]
        assert run.told["faults"] == {**wrong, "resyncs": 0, "closed": 0}
        assert run.told["measures"]["latency"]["faults"] == run.told["faults"]

    async def test_so_is_what_goes_wrong_after_a_resume(self, settings: dict[str, str]) -> None:
        async with tampering(settings["RUNCAST_URL"]) as url:
            run = await bench(*SMALL, "--only", "resume", "--url", url, **settings)
            assert await run.ended() == 1, run.err
        told = "1 lost, 1 doubled, 1 out of order, 1 misdelivered"
        assert f"✘ Promises were broken: {told}." in run.out
        assert f"resume: {told}" in run.out

    async def test_connections_that_the_gateway_closes_are_told(
        self, fleet: Fleet, settings: dict[str, str]
    ) -> None:
        address, gateway = fleet.gateway_process()
        url = f"{address.replace('http', 'ws')}/ws"
        arguments = ("--connections", "6", "--seconds", "5", "--only", "latency", "--json")
        run = await bench(*arguments, "--url", url, **settings)
        await measuring(fleet.redis.url)
        gateway.end(signal.SIGKILL)
        assert await run.ended() == 1, run.err
        assert run.told["faults"]["closed"] == 6
        assert run.told["faults"]["lost"] > 0
        assert run.told["close_codes"] == {"1006": 6}


@pytest.mark.parametrize(
    ("changed", "arguments", "says"),
    [
        ({"RUNCAST_JWT_SECRET": "x" * 64}, (), "HTTP 401.*RUNCAST_JWT_SECRET"),
        ({"RUNCAST_JWT_AUDIENCE": "others"}, (), "HTTP 401.*_AUDIENCE"),
        ({"RUNCAST_JWT_SECRET": ""}, (), "RUNCAST_JWT_SECRET.*leave --url out"),
        ({"RUNCAST_REDIS_URL": ""}, (), "RUNCAST_REDIS_URL.*without --url"),
        ({"RUNCAST_PREFIX": "another"}, (), "does not deliver.*RUNCAST_PREFIX"),
        ({}, ("--url", "ws://127.0.0.1:1/ws"), "ws://127.0.0.1:1/ws cannot be reached"),
    ],
    ids=["secret", "audience", "no secret", "no redis", "prefix", "no gateway"],
)
async def test_a_refusal_says_what_to_do(
    settings: dict[str, str], changed: dict[str, str], arguments: tuple[str, ...], says: str
) -> None:
    run = await bench(*SMALL, *arguments, **{**settings, **changed})
    assert await run.ended() == 1
    assert re.search(says, run.err, re.DOTALL), run.err
    assert run.out == ""


async def test_what_is_no_gateway_is_told(settings: dict[str, str], fleet: Fleet) -> None:
    run = await bench(*SMALL, "--url", f"ws://127.0.0.1:{fleet.redis.port}/ws", **settings)
    assert await run.ended() == 1
    assert "no gateway's" in run.err


async def test_an_unknown_measure_is_a_wrong_command_line() -> None:
    run = await bench("--only", "speed")
    assert await run.ended() == 2
    assert "there is no such measure" in run.err


async def test_too_many_connections_for_the_open_file_limit_are_refused_first() -> None:
    run = await bench("--connections", "900000000")
    assert await run.ended() == 1
    assert "Raise the hard limit" in run.err
    assert SECRET not in run.err
