"""The driver of ``native/load.c``: thousands of clients in one process."""

import json
import struct
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.system.native import built

MARKER: Final = "@t="
"""Stands before the time of publishing, 19 digits of nanoseconds, in every measured event."""
ZERO: Final = "0" * 19
OPEN_SECONDS: Final = 180.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How a server is spoken to: what its stream holds when a client is connected."""

    ready: str
    frames: bool = True


@dataclass(frozen=True, slots=True)
class Opening:
    """The bytes that open a connection, and those that follow the first answer."""

    first: bytes
    second: bytes = b""


class Histogram:
    """Values and how often each came; the values are the middles of narrow buckets."""

    def __init__(self, pairs: Iterable[tuple[float, int]]) -> None:
        self.pairs = sorted((value, count) for value, count in pairs)
        self.total = sum(count for _, count in self.pairs)

    def quantile(self, share: float) -> float:
        """The value that ``share`` of all do not exceed; 0 without any."""
        left = share * self.total
        for value, count in self.pairs:
            left -= count
            if left <= 0:
                return value
        return self.pairs[-1][0] if self.pairs else 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """What the clients have received since the mark."""

    fields: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def require(self, count: int, *, system: str) -> None:
        """RuntimeError unless exactly ``count`` events came, each channel's in order and once."""
        wrong = {name: self[name] for name in ("gaps", "repeats", "gone", "refused") if self[name]}
        if self["received"] != count or wrong:
            told = f"{self['received']} of {count} events came; {wrong or 'nothing else wrong'}"
            raise RuntimeError(f"{system}: {told} {self['refusal']}")

    @property
    def latency_ns(self) -> Histogram:
        return Histogram(map(tuple, self.fields["latency_ns"]))

    @property
    def connect_ns(self) -> Histogram:
        return Histogram(map(tuple, self.fields["connect_ns"]))


class Clients:
    """Commands to the running program; see its source for what they do."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self.process = process
        self._folder = folder
        self._files = 0
        self.opened = self.closed = 0

    def load(self, openings: Iterable[Opening]) -> int:
        """Add openings; how many there are now."""
        self._files += 1
        path = self._folder / f"openings-{self.process.pid}-{self._files}"
        with path.open("wb") as file:
            for opening in openings:
                for part in (opening.first, opening.second):
                    file.write(struct.pack("<I", len(part)) + part)
        self._tell(f"file {path}")
        count: int = self._answer()["openings"]
        path.unlink()
        return count

    def open(self, count: int, *, rate: float = 0.0, seconds: float = OPEN_SECONDS) -> Report:
        """Open the next connections; RuntimeError with the first refusal when not all are ready."""
        self._tell(f"open {count} {rate} {int(seconds * 1000)}")
        self.opened += count
        report = Report(self._answer())
        expected = self.opened - self.closed
        if report["ready"] != expected or report["refused"]:
            told = f"{report['refused']} refused, first with: {report['refusal']!r}"
            raise RuntimeError(f"{report['ready']} of {expected} connections are ready; {told}")
        return report

    def begin(self, count: int, *, rate: float) -> None:
        """The same without waiting."""
        self._tell(f"begin {count} {rate}")
        self.opened += count

    def close(self, first: int, count: int) -> None:
        """Close connections by their place in the order of opening."""
        self._tell(f"close {first} {count}")
        self._answer()
        self.closed += count

    def mark(self) -> None:
        """Begin to count anew."""
        self._tell("mark")

    def received(self, count: int, *, seconds: float) -> Report:
        """The report once ``count`` events have come, or the time is over."""
        self._tell(f"await {count} {int(seconds * 1000)}")
        return Report(self._answer())

    def report(self) -> Report:
        """What has come so far."""
        self._tell("report")
        return Report(self._answer())

    def _tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the clients' process ended")
        fields: dict[str, Any] = json.loads(line)
        return fields


@contextmanager
def running_clients(port: int, dialect: Dialect, folder: Path) -> Iterator[Clients]:
    """A process of clients for the server on ``port``."""
    command = [str(built("load")), "127.0.0.1", str(port), dialect.ready, MARKER]
    process = subprocess.Popen(
        [*command, "--frames"] if dialect.frames else command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Clients(process, folder)
    finally:
        process.kill()
        process.communicate()


def upgrade(path: str, *headers: str) -> Opening:
    """A WebSocket handshake."""
    lines = [
        f"GET {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        *headers,
    ]
    return Opening(("\r\n".join(lines) + "\r\n\r\n").encode())
