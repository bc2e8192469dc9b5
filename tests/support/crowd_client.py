"""A process full of chat clients that keep what they got: ``python -m tests.support.crowd_client``.

Thousands of them, each a few callbacks on a socket: nothing is parsed that need not be before the
end. Each comes back as the protocol wants it, with its cursor, after the told delay or with full
jitter. Tokens come on standard input, one line of JSON ``{user: token}``; then each line that comes
in is answered with how they are; at the end of the input all that they got is written to a file.
"""

import argparse
import asyncio
import base64
import json
import os
import random
import struct
import sys
import time
from pathlib import Path
from typing import Any, Final

import uvloop

FIRST_SECONDS: Final = 0.25
MOST_SECONDS: Final = 15.0
CONNECT_SECONDS: Final = 20.0
CONNECTING_AT_ONCE: Final = 50

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


class Connection(asyncio.Protocol):
    """One connection of a client. ``settled``: it is live, or lost; ``over``: it is lost."""

    def __init__(self, client: "CrowdClient", after: str | None) -> None:
        self.client, self.after = client, after
        self.opened = time.monotonic()
        self.frames: list[str] = []
        self.live_at: float | None = None
        self.draining_at: float | None = None
        self.code: int | None = None
        self.status: int | None = None
        self.settled, self.over = asyncio.Event(), asyncio.Event()
        self._rest = b""
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        path = "/ws" + (f"?after={self.after}" if self.after is not None else "")
        transport.write(
            f"GET {path} HTTP/1.1\r\nHost: {self.client.host}:{self.client.port}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\n"
            f"Authorization: Bearer {self.client.token}\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        data = self._rest + data if self._rest else data
        at = 0
        if self.status is None:
            at = data.find(b"\r\n\r\n") + 4
            if at < 4:
                self._rest = data
                return
            self.status = int(data[9:12])
        if self.status != 101:
            self._transport.close()
            return
        self._rest = data[self._read(data, at) :]

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.over.set()
        self.settled.set()

    def lose(self) -> None:
        """It did not come to be."""
        if self._transport is not None:
            self._transport.abort()
        self.over.set()

    def to_json(self) -> dict[str, Any]:
        kept = ("after", "opened", "live_at", "draining_at", "code", "status", "frames")
        return {name: getattr(self, name) for name in kept}

    def _read(self, data: bytes, at: int) -> int:
        """Take the whole frames from there on; where the rest begins."""
        while len(data) - at >= 2:
            size, begin = data[at + 1], at + 2
            if size > 125:
                begin += 2 if size == 126 else 8
                size = int.from_bytes(data[at + 2 : begin])
            if len(data) < begin + size:
                break
            self._take(data[at] & 15, data[begin : begin + size])
            at = begin + size
        return at

    def _take(self, opcode: int, payload: bytes) -> None:
        if opcode == TEXT:
            self.frames.append(payload.decode())
            if b'"type":"live"' in payload:
                self.live_at = time.monotonic()
                self.settled.set()
            elif b'"type":"draining"' in payload:
                self.draining_at = time.monotonic()
            elif b'"type":"agent_completed"' in payload:
                self.client.ended += 1
        elif opcode == PING:
            self._transport.write(masked(PONG, payload))
        elif opcode == CLOSE:
            (self.code,) = struct.unpack_from("!H", payload)
            self._transport.write(masked(CLOSE, payload[:2]))
            self._transport.close()


class CrowdClient:
    """Stays connected, and keeps every connection that it had."""

    def __init__(self, host: str, port: int, user: str, token: str) -> None:
        self.host, self.port, self.user, self.token = host, port, user, token
        self.connections: list[Connection] = []
        self.ended = 0
        self._rng = random.Random(user)

    @property
    def live(self) -> bool:
        last = self.connections[-1] if self.connections else None
        return last is not None and last.live_at is not None and not last.over.is_set()

    async def keep(self, gate: asyncio.Semaphore) -> None:
        """For ever; ``gate``: so many connect for the first time at once."""
        failures, cursor = 0, None
        async with gate:
            lost = await self._connect(cursor)
        while True:
            await lost.over.wait()
            failures = 0 if lost.live_at is not None else failures + 1
            cursor, told = after(lost)
            if told is None:
                told = self._rng.random() * min(MOST_SECONDS, FIRST_SECONDS * 2.0**failures)
            await asyncio.sleep(told)
            lost = await self._connect(cursor)

    async def _connect(self, cursor: str | None) -> Connection:
        """Returns when it is live, or lost."""
        connection = Connection(self, cursor)
        self.connections.append(connection)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await loop.create_connection(lambda: connection, self.host, self.port)
                await connection.settled.wait()
        except (OSError, TimeoutError):
            connection.lose()
        return connection


def after(connection: Connection) -> tuple[str | None, float | None]:
    """Where this connection's client is, and after how many seconds it was told to come back."""
    cursor, told = connection.after, None
    for text in connection.frames:
        frame = json.loads(text)
        payload = frame.get("payload", {})
        match frame["type"]:
            case "connection_established" | "live" if cursor is None:
                cursor = payload["cursor"]
            case "resync":
                cursor = payload["from"]
            case "draining":
                told = payload["reconnect_after_ms"] / 1000
            case _ if "id" in frame:
                cursor = frame["id"]
    return cursor, told


def masked(opcode: int, payload: bytes) -> bytes:
    """A client's short frame; the mask of zeros is one that RFC 6455 allows."""
    return bytes([0x80 | opcode, 0x80 | len(payload), 0, 0, 0, 0]) + payload


async def serve(host: str, port: int, kept: Path) -> None:
    reader = asyncio.StreamReader(limit=1 << 26)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    tokens = json.loads(await reader.readline())
    clients = [CrowdClient(host, port, user, token) for user, token in tokens.items()]
    gate = asyncio.Semaphore(CONNECTING_AT_ONCE)
    keepers = [asyncio.create_task(client.keep(gate)) for client in clients]
    while await reader.readline():
        live = sum(client.live for client in clients)
        ended = sum(client.ended > 0 for client in clients)
        broken = [repr(keeper.exception()) for keeper in keepers if keeper.done()]
        told = {"live": live, "ended": ended, "broken": broken[:3]}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
    with kept.open("w") as file:
        for client in clients:
            got = [connection.to_json() for connection in client.connections]
            told = {"user": client.user, "live": client.live, "connections": got}
            file.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("file", type=Path)
    asked = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(asked.host, asked.port, asked.file))
