"""The instruments of the benchmarks: what they count is what happened."""

import re
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.benchmarks.system.clients import MARKER, ZERO, Dialect, Opening, running_clients
from tests.benchmarks.system.feed import Feed, Pace
from tests.benchmarks.system.runs import packed
from tests.benchmarks.system.systems import Floor, JoiningFloor, RedisServer, Runcast, System, users
from tests.support.servers import Redis, wait_until

pytestmark = [
    pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler"),
    pytest.mark.timeout(300),  # seconds: the programs are compiled, a gateway is started
]
SPOKEN = Dialect(ready="go", frames=False)
ONE_BY_ONE = Pace(window=1)
AT_ONCE = Pace(window=1000)


@pytest.fixture
def redis(redis_server: Redis) -> RedisServer:
    assert redis_server.process is not None
    return RedisServer(redis_server.process, redis_server.port)


@pytest.fixture(params=[Floor, JoiningFloor, Runcast])
def system(
    request: pytest.FixtureRequest, tmp_path: Path, redis: RedisServer, prefix: str
) -> Iterator[System]:
    system: System = request.param(tmp_path, redis)
    try:
        system.start()
        yield system
    finally:
        system.stop()


@pytest.fixture
def floor(tmp_path: Path, redis: RedisServer) -> Iterator[System]:
    system = Floor(tmp_path, redis)
    try:
        system.start()
        yield system
    finally:
        system.stop()


def test_every_event_is_counted_once_at_the_socket_that_it_is_for(system: System) -> None:
    names = [f"{system.folder.name}-{name}" for name in users(20)]
    with system.clients() as clients:
        feed = system.feed(names, 200)
        clients.load(system.opening(name) for name in names)
        clients.open(len(names))
        clients.mark()
        meter = system.meter()
        told = feed.send(200, AT_ONCE)
        report = clients.received(200, seconds=30)
    report.require(200, system=system.name)
    assert (told["sent"], told["errors"]) == (200, 0)
    assert (report["least"], report["most"]) == (10, 10)
    assert report.latency_ns.total == 200
    assert 0 < report.latency_ns.quantile(0.5) < 20e9
    assert meter.used_ns() > 0


def publishes(floor: System, channel: str, numbers: list[int]) -> Feed:
    commands = [packed("PUBLISH", channel, f"{MARKER}{ZERO}.{number} x") for number in numbers]
    path = floor.folder / f"numbers-{len(list(floor.folder.iterdir()))}"
    return Feed(path, commands, port=floor.redis.port)


@pytest.mark.parametrize(
    ("numbers", "complaint"),
    [
        ([1, 2, 4], "'gaps': 1"),
        ([1, 2, 2], "'repeats': 1"),
        ([1, 3, 2], "'gaps': 1, 'repeats': 1"),
        ([1, 2], "2 of 3 events came"),
        ([1, 2, 3, 4], "4 of 3 events came"),
    ],
)
def test_loss_repetition_and_disorder_are_seen(
    floor: System, numbers: list[int], complaint: str
) -> None:
    channel = floor.folder.name
    with floor.clients() as clients:
        clients.load([floor.opening(channel)])
        clients.open(1)
        publishes(floor, channel, numbers).send(len(numbers), ONE_BY_ONE)
        report = clients.received(len(numbers), seconds=30)
    with pytest.raises(RuntimeError, match=complaint):
        report.require(3, system="the floor")


@pytest.mark.parametrize("cut", [1, 2, 3, 9, 22, 23, 25])
def test_an_event_that_two_reads_share_is_counted_once(tmp_path: Path, cut: int) -> None:
    """Cut in the marker, in the time, in the number, or right behind it."""
    event = f"{MARKER}{time.time_ns()}.15 ".encode()
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        running_clients(server.getsockname()[1], SPOKEN, tmp_path) as clients,
    ):
        clients.load([Opening(b"hello")])
        clients.begin(1, rate=1000)
        with server.accept()[0] as peer:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            assert peer.recv(100) == b"hello"
            peer.sendall(b"go " + event[:cut])
            wait_until(lambda: clients.report()["bytes"] == 3 + cut, what="the first part is read")
            peer.sendall(event[cut:] + b"and on")
            wait_until(lambda: clients.report()["bytes"] == 9 + len(event), what="the rest is read")
        report = clients.report()
    assert (report["received"], report["gaps"], report["repeats"]) == (1, 0, 0)
    assert 0 < report.latency_ns.quantile(1.0) < 20e9


def test_a_refused_connection_is_told_with_the_servers_words(floor: System) -> None:
    with floor.clients() as clients:
        clients.load([Opening(b"GET /nowhere HTTP/1.1\r\n\r\n")])
        with pytest.raises(RuntimeError, match=r"0 of 1 connections are ready; 1 refused.*closed"):
            clients.open(1, seconds=30)


def test_a_command_that_redis_refuses_fails_the_feed(floor: System) -> None:
    feed = Feed(floor.folder / "wrong", [packed("NONSENSE")], port=floor.redis.port)
    with pytest.raises(RuntimeError, match="unknown command"):
        feed.send(1, ONE_BY_ONE)


def test_joined_writes_are_fewer(tmp_path: Path, redis: RedisServer) -> None:
    channel, count = tmp_path.name, 100
    writes = {}
    for kind in (Floor, JoiningFloor):
        system = kind(tmp_path / kind.__name__, redis)
        system.folder.mkdir()
        try:
            system.start()
            with system.clients() as clients:
                clients.load([system.opening(channel)])
                clients.open(1)
                publishes(system, channel, list(range(1, count + 1))).send(count, AT_ONCE)
                clients.received(count, seconds=30).require(count, system=system.name)
            assert system.process is not None
            assert system.process.end() == 0
            told = re.search(r"(\d+) writes, 0 dropped", system.process.printed())
        finally:
            system.stop()
        assert told is not None
        writes[kind] = int(told[1])
    assert writes[Floor] == 1 + count
    assert writes[JoiningFloor] < count / 4
