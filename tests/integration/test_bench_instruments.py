"""The instruments of the benchmarks: what they count is what happened."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.benchmarks.system.clients import MARKER, ZERO, Opening
from tests.benchmarks.system.feed import Feed, Pace
from tests.benchmarks.system.runs import packed
from tests.benchmarks.system.systems import Floor, JoiningFloor, RedisServer, Runcast, System, users
from tests.support.servers import Redis

pytestmark = [
    pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler"),
    pytest.mark.timeout(60),  # seconds: the programs are compiled, a gateway is started
]
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
        report = clients.received(200, seconds=20)
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
        report = clients.received(len(numbers), seconds=10)
    with pytest.raises(RuntimeError, match=complaint):
        report.require(3, system="the floor")


def test_an_event_that_two_reads_share_is_counted_once(floor: System) -> None:
    """Larger than what a socket takes at once, the marker anywhere in it."""
    channel, count = floor.folder.name, 40
    commands = [
        packed("PUBLISH", channel, "y" * (3000 * number) + f"{MARKER}{ZERO}.{number} " + "x" * 50)
        for number in range(1, count + 1)
    ]
    with floor.clients() as clients:
        clients.load([floor.opening(channel)])
        clients.open(1)
        feed = Feed(floor.folder / "large", commands, port=floor.redis.port)
        feed.send(count, ONE_BY_ONE)
        report = clients.received(count, seconds=10)
    report.require(count, system="the floor")


def test_a_refused_connection_is_told_with_the_servers_words(floor: System) -> None:
    with floor.clients() as clients:
        clients.load([Opening(b"GET /nowhere HTTP/1.1\r\n\r\n")])
        with pytest.raises(RuntimeError, match=r"0 of 1 connections are ready; 1 refused.*closed"):
            clients.open(1, seconds=5)


def test_a_command_that_redis_refuses_fails_the_feed(floor: System) -> None:
    feed = Feed(floor.folder / "wrong", [packed("NONSENSE")], port=floor.redis.port)
    with pytest.raises(RuntimeError, match="unknown command"):
        feed.send(1, ONE_BY_ONE)


def test_joined_writes_are_fewer(tmp_path: Path, redis: RedisServer) -> None:
    channel, count = tmp_path.name, 100
    reads = {}
    for kind in (Floor, JoiningFloor):
        system = kind(tmp_path / kind.__name__, redis)
        system.folder.mkdir()
        try:
            system.start()
            with system.clients() as clients:
                clients.load([system.opening(channel)])
                clients.open(1)
                clients.mark()
                publishes(system, channel, list(range(1, count + 1))).send(count, AT_ONCE)
                report = clients.received(count, seconds=10)
        finally:
            system.stop()
        report.require(count, system=system.name)
        reads[kind] = report["reads"]
    assert reads[JoiningFloor] < count / 4
