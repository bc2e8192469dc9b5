"""Real servers for tests: each on a free loopback port, ready when returned, gone at the end."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import psutil

from broker.embedded import find_server
from gateway.tokens import issue_token
from tests.support.ports import free_port

IN_CONTAINERS: Final = os.environ.get("REDIS") == "container"
"""Whether the servers of Redis are containers, and not programs of this machine."""
if IN_CONTAINERS:
    from tests.support.redis_container import SERVER, Container

SECRET = "a secret of the tests, long enough for HS256 and for HS512 as well: 64 bytes"
OPERATOR_KEY = "an operator key of the tests"
WORKER_KEY = "a worker key of the tests, of 32 bytes or more"
READY_SECONDS = 100.0
"""For what others keep both cores from: a program has taken over a minute to start. Like every
deadline of the tests it only ends a hang."""


def wait_until(condition: Callable[[], bool], *, seconds: float = READY_SECONDS, what: str) -> None:
    """Look until the condition holds; fail with ``what`` when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} within {seconds:g} s")
        time.sleep(0.01)


def token(
    user: str = "alice", *, ttl_seconds: float = 600, issued_ago: float = 0, **claims: object
) -> str:
    """A valid token of the tests' own key, that is so for ``ttl_seconds`` from now."""
    return issue_token(
        secret=SECRET,
        alg="HS256",
        user=user,
        ttl_seconds=ttl_seconds + issued_ago,
        now=time.time() - issued_ago,
        **claims,  # type: ignore[arg-type]  # the claims of issue_token, by name
    )


class Program(Protocol):
    """As much of :class:`subprocess.Popen` as the tests use."""

    args: Any
    pid: int
    returncode: int | Any

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, number: int, /) -> None: ...
    def kill(self) -> None: ...


@dataclass
class Process:
    """A child process, or the one of a container, and what it printed."""

    popen: Program
    log: Path

    def end(self, number: int = signal.SIGTERM, *, seconds: float = READY_SECONDS) -> int:
        """Send a signal and wait; killed when it does not end in time."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGCONT)
            self.popen.send_signal(number)
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
            raise TimeoutError(f"pid {self.popen.pid} did not end: {self.printed()}") from None

    def ended(self, *, seconds: float = READY_SECONDS) -> int:
        """Its exit status, once it has ended by itself."""
        return self.popen.wait(seconds)

    def printed(self) -> str:
        return self.log.read_text(errors="replace")

    def runs(self) -> bool:
        """True; :raises RuntimeError: it has ended."""
        if self.popen.poll() is not None:
            raise RuntimeError(f"{self.popen.args!r} ended: {self.printed()}")
        return True

    def serves(self, port: int) -> bool:
        """Whether it is this process that takes connections on the port, and not another one."""
        return any(
            place.status == psutil.CONN_LISTEN and place.laddr.port == port
            for place in psutil.Process(self.popen.pid).net_connections()
        )


@dataclass
class Redis:
    """A redis-server that can be stopped, killed and started again on the same port and data."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: Process | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.process = spawn_redis(
            [
                str(server_program()), "--port", str(self.port), "--bind", "127.0.0.1",
                "--save", "", "--appendonly", "yes", "--appendfsync", "always",
                "--dir", str(self.folder),
            ],
            self.folder / "redis.log",
        )  # fmt: skip
        self.until_up()

    def until_up(self) -> None:
        """Return when this server, and no other one on its port, answers."""
        wait_until(
            lambda: self.running.runs() and self.answers() and self.running.serves(self.port),
            what=f"redis-server answers on port {self.port}",
        )

    @property
    def running(self) -> Process:
        assert self.process is not None, "not started"
        return self.process

    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def kill(self) -> None:
        self.running.end(signal.SIGKILL)


def spawn(command: list[str], log: Path, env: Mapping[str, str] | None = None) -> Process:
    """Start a process that writes to ``log``, without the RUNCAST_ settings of this one."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RUNCAST_")}
    with log.open("ab") as output:
        popen = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**clean, **(env or {})},
            cwd=Path(__file__).parents[2],
        )
    return Process(popen, log)


def server_program() -> Path:
    """The server that tests use unless they choose one."""
    return Path(SERVER) if IN_CONTAINERS else find_server()


def spawn_redis(command: list[str], log: Path) -> Process:
    """Start a server of Redis where ``REDIS`` says; in a container it is that of the image."""
    if IN_CONTAINERS:
        return Process(Container([SERVER, *command[1:]], log), log)
    return spawn(command, log)


@dataclass
class Fleet:
    """Gateways and workers as processes, started by the command line, on one Redis."""

    folder: Path
    redis: Redis
    settings: dict[str, str] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)

    @property
    def env(self) -> dict[str, str]:
        return {
            "RUNCAST_REDIS_URL": self.redis.url,
            "RUNCAST_JWT_SECRET": SECRET,
            "RUNCAST_OPERATOR_KEY": OPERATOR_KEY,
            "RUNCAST_WORKER_KEY": WORKER_KEY,
            "RUNCAST_MAX_CONNECTIONS_PER_USER": "1000",
            "RUNCAST_MESSAGES_PER_MINUTE": "100000",
            "RUNCAST_CONNECTS_PER_SECOND": "100000",
            "RUNCAST_MAX_RUNS_PER_USER": "100000",
            "RUNCAST_MAX_QUEUED_RUNS_PER_USER": "100000",
            **self.settings,
        }

    def runcast(self, *arguments: str, name: str) -> Process:
        command = [sys.executable, "-m", "gateway", *arguments]
        process = spawn(command, self.folder / f"{name}-{len(self.processes)}.log", self.env)
        self.processes.append(process)
        return process

    def gateway(self) -> str:
        """A gateway's address, once it is ready."""
        return self.gateway_process()[0]

    def gateway_process(self, *, port: int | None = None) -> tuple[str, Process]:
        port = port or free_port()
        process = self.runcast("gateway", "--port", str(port), name="gateway")
        wait_until(
            lambda: process.runs() and is_ready(port) and process.serves(port),
            what="the gateway is ready",
        )
        return f"http://127.0.0.1:{port}", process

    def worker_process(self, module: str = "tests.support.agents:worker") -> Process:
        """A worker that may still be starting, or failing to."""
        return self.runcast("worker", module, name="worker")

    def worker(self, module: str = "tests.support.agents:worker") -> Process:
        """A worker, once its agents are announced."""
        process = self.worker_process(module)
        wait_until(
            lambda: process.runs() and " serves " in process.printed(), what="the worker serves"
        )
        return process

    def stop(self) -> None:
        for process in reversed(self.processes):
            with contextlib.suppress(TimeoutError):
                process.end(signal.SIGKILL)


def is_ready(port: int, host: str = "127.0.0.1") -> bool:
    """Whether the gateway on this port says so."""
    try:
        with urllib.request.urlopen(f"http://{host}:{port}/readyz", timeout=10) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@contextlib.contextmanager
def running_redis() -> Iterator[Redis]:
    """A redis-server of one test's or one test process's own."""
    with tempfile.TemporaryDirectory(prefix="runcast-test-") as folder:
        redis = Redis(Path(folder))
        redis.start()
        try:
            yield redis
        finally:
            redis.kill()


@contextlib.contextmanager
def running_fleet(redis: Redis, **settings: str) -> Iterator[Fleet]:
    """A fleet without members yet; what it starts is ended with it."""
    with tempfile.TemporaryDirectory(prefix="runcast-test-") as folder:
        fleet = Fleet(Path(folder), redis, settings)
        try:
            yield fleet
        finally:
            fleet.stop()
