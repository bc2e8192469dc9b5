"""What is measured: each system as a process of its own, how to connect to it and to feed it."""

import os
import signal
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar, Final

from broker.channels import Keys, Owner, Scope
from broker.embedded import find_server
from tests.benchmarks.system.clients import Clients, Dialect, Opening, running_clients, upgrade
from tests.benchmarks.system.feed import Feed
from tests.benchmarks.system.native import built
from tests.benchmarks.system.processes import Meter, family
from tests.benchmarks.system.runs import EVENT_BYTES, Runs, body, opened_runs, packed
from tests.support.ports import free_port
from tests.support.servers import SECRET, Process, is_ready, spawn, token, wait_until

PEERS: Final = Path(__file__).parents[1] / "peers"
UPGRADED: Final = "\r\n\r\n"


@dataclass
class RedisServer:
    """A redis-server as it comes, but for the snapshots on disk."""

    process: Process
    port: int

    @property
    def pid(self) -> int:
        return self.process.popen.pid

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"


@contextmanager
def running_redis(folder: Path) -> Iterator[RedisServer]:
    """A Redis of one measurement's own."""
    port = free_port()
    command = [str(find_server()), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    process = spawn([*command, "--dir", str(folder), "--appendonly", "no"], folder / "redis.log")
    try:
        wait_until(lambda: "eady to accept" in process.printed(), what="redis-server is ready")
        yield RedisServer(process, port)
    finally:
        process.popen.kill()
        process.popen.wait()


@dataclass
class System(ABC):
    """A server that brings events of a Redis to WebSocket clients.

    ``pids`` are the processes that deliver; Redis is not among them.
    """

    name: ClassVar[str]
    dialect: ClassVar[Dialect]
    replies: ClassVar[bool] = True
    """Whether each command of the feed is answered."""
    folder: Path
    redis: RedisServer
    port: int = 0
    feed_port: int = 0
    process: Process | None = None
    settings: dict[str, str] = field(default_factory=dict)
    numbers: Counter[str] = field(default_factory=Counter)

    @abstractmethod
    def start(self) -> None:
        """Come up and set ``port`` and ``process``."""

    @abstractmethod
    def opening(self, user: str) -> Opening:
        """How a client connects to hear the user's events."""

    @abstractmethod
    def commands(self, users: Sequence[str], count: int, *, size: int) -> Iterator[bytes]:
        """Events to the users in turn, as what is sent to Redis."""

    def events(self, users: Sequence[str], count: int, *, size: int) -> Iterator[tuple[str, bytes]]:
        """User and event, user after user; each user's events are numbered from 1."""
        for index in range(count):
            user = users[index % len(users)]
            self.numbers[user] += 1
            yield user, body(self.numbers[user], size=size, epoch_ms=0)

    @property
    def pids(self) -> list[int]:
        assert self.process is not None
        return family(self.process.popen.pid)

    def feed(self, users: Sequence[str], count: int, *, size: int = EVENT_BYTES) -> Feed:
        """The commands, packed into a file."""
        path = self.folder / f"feed-{len(list(self.folder.glob('feed-*')))}"
        commands = self.commands(users, count, size=size)
        port = self.feed_port or self.redis.port
        return Feed(path, commands, port=port, replies=self.replies)

    def meter(self) -> Meter:
        return Meter(self.pids)

    def redis_meter(self) -> Meter:
        return Meter([self.redis.pid])

    @contextmanager
    def clients(self) -> Iterator[Clients]:
        with running_clients(self.port, self.dialect, self.folder) as clients:
            yield clients

    def stop(self) -> None:
        """All of its processes at once: a child left alone would drain first, beside the next."""
        if self.process is not None:
            for pid in self.pids if self.process.popen.poll() is None else ():
                os.kill(pid, signal.SIGKILL)
            self.process.popen.wait()

    def _spawn_with_port(self, command: Sequence[object]) -> None:
        """For programs that print their port as the first line."""
        process = spawn([str(word) for word in command], self.folder / f"{self.name}.log")
        self.process = process

        def printed() -> bool:
            if process.popen.poll() is not None:
                raise RuntimeError(f"{self.name} ended: {process.printed()}")
            return "\n" in process.printed()

        wait_until(printed, what=f"{self.name} is ready")
        self.port = int(process.printed().splitlines()[0])


class _Forwarder(System):
    """Systems that forward plain pub/sub."""

    dialect = Dialect(ready=UPGRADED)

    def opening(self, user: str) -> Opening:
        return upgrade(f"/ws/{user}")

    def commands(self, users: Sequence[str], count: int, *, size: int) -> Iterator[bytes]:
        for user, event in self.events(users, count, size=size):
            yield packed("PUBLISH", user, event)


class Floor(_Forwarder):
    name = "floor"

    def start(self) -> None:
        self._spawn_with_port([built("floor"), self.redis.port])


class JoiningFloor(_Forwarder):
    name = "floor, joined writes"

    def start(self) -> None:
        self._spawn_with_port([built("floor"), self.redis.port, "--join"])


class PlainAiohttp(_Forwarder):
    name = "aiohttp + redis-py"

    def start(self) -> None:
        self._spawn_with_port([sys.executable, PEERS / "plain_aiohttp.py", self.redis.url])


class HiredisForwarder(_Forwarder):
    name = "aiohttp + hiredis, no guarantees"

    def start(self) -> None:
        self._spawn_with_port([sys.executable, PEERS / "hiredis_forwarder.py", self.redis.port])


class Runcast(System):
    name = "Runcast"
    dialect = Dialect(ready='"type":"live"')
    processes = 1
    runs: Runs

    def start(self) -> None:
        port = free_port()
        command = [sys.executable, "-m", "gateway", "gateway", "--port", str(port)]
        command += ["--processes", str(self.processes)]
        env = {
            "RUNCAST_REDIS_URL": self.redis.url,
            "RUNCAST_JWT_SECRET": SECRET,
            "RUNCAST_MAX_CONNECTIONS_PER_USER": "20000",
            **self.settings,
        }
        process = self.process = spawn(command, self.folder / "gateway.log", env)

        def ready() -> bool:
            if process.popen.poll() is not None:
                raise RuntimeError(f"the gateway ended: {process.printed()}")
            return "Serving at" in process.printed() and is_ready(port)

        wait_until(ready, what="the gateway is ready")
        self.port = port

    def opening(self, user: str) -> Opening:
        return self.opening_with(token(user))

    def opening_with(self, bearer: str, query: str = "") -> Opening:
        """With a token of the caller's, and query parameters."""
        return upgrade(f"/ws{query}", f"Authorization: Bearer {bearer}")

    def commands(self, users: Sequence[str], count: int, *, size: int) -> Iterator[bytes]:
        if not hasattr(self, "runs"):
            self.runs = opened_runs(self.redis.url, users)
        return self.runs.commands(users, count, size=size)


class FedFloor(Runcast):
    """The floor on Runcast's live channels: what the same messages cost without a gateway."""

    name = "floor, fed by the script"
    dialect = Floor.dialect

    def start(self) -> None:
        self._spawn_with_port([built("floor"), self.redis.port])

    def opening(self, user: str) -> Opening:
        live = Keys().channel(Owner("", user), Scope.USER).live
        return upgrade(f"/ws/{live.decode()}")


class TwoProcesses(Runcast):
    name = "Runcast --processes 2"
    processes = 2


@contextmanager
def running(kind: type[System], **settings: str) -> Iterator[System]:
    """One system on a fresh Redis."""
    with TemporaryDirectory(prefix="runcast-bench-") as name, running_redis(Path(name)) as redis:
        system = kind(Path(name), redis, settings=settings)
        try:
            system.start()
            yield system
        finally:
            system.stop()


def users(count: int) -> list[str]:
    """Names of users."""
    return [f"user-{index}" for index in range(count)]
