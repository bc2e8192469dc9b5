"""A WebSocket client that reads its socket only when, and as fast as, the test wants."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlencode

from tests.support.servers import READY_SECONDS, token
from tests.support.wire import CLOSE, PING, PONG, TEXT, frame, handshake

RECEIVE_BYTES: Final = 16 * 1024
"""The kernel's receive buffer: small, so that little is taken by whoever does not read."""

Frame = dict[str, Any]


class SlowReader:
    """``frames`` is what was read so far; thoughts are cut to their first word."""

    def __init__(self, port: int, user: str, query: dict[str, str]) -> None:
        self.user, self.frames = user, list[Frame]()
        self.close_code: int | None = None
        self.taken = 0
        self._target = f"/ws?{urlencode(query)}"
        self._port = port
        self._data = bytearray()

    async def connect(self) -> None:
        """Up to ``live``."""
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        self._socket.settimeout(0)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self._socket, ("127.0.0.1", self._port))
        bearer = f"Authorization: Bearer {token(self.user)}"
        await loop.sock_sendall(self._socket, handshake(self._port, self._target, (bearer,)))
        while b"\r\n\r\n" not in self._data:
            self._data += await loop.sock_recv(self._socket, RECEIVE_BYTES)
        head, _, rest = bytes(self._data).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101"), head
        self._data = bytearray(rest)
        await self._parse()
        await self.until(lambda: any(frame["type"] == "live" for frame in self.frames))

    async def take(self, most: int) -> int:
        """Read once, at most so many bytes; 0 when the connection has ended."""
        try:
            data = await asyncio.get_running_loop().sock_recv(self._socket, most)
        except ConnectionError:
            return 0
        self.taken += len(data)
        self._data += data
        await self._parse()
        return len(data)

    async def until(self, condition: Callable[[], bool], *, seconds: float = READY_SECONDS) -> None:
        """Read as fast as possible until it holds."""
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    assert await self.take(256 * 1024), f"{self.user}: closed {self.close_code}"
        except TimeoutError:
            got = [(frame["type"], frame.get("seq")) for frame in self.frames[-5:]]
            raise AssertionError(
                f"{self.user}: not within {seconds:g} s; {len(self.frames)} frames, the last: {got}"
            ) from None

    def gone(self) -> None:
        self._socket.close()

    async def _parse(self) -> None:
        data = self._data
        while len(data) >= 2:
            size, at = data[1] & 0x7F, 2
            if size == 126 and len(data) >= 4:
                size, at = struct.unpack("!H", data[2:4])[0], 4
            elif size == 127 and len(data) >= 10:
                size, at = struct.unpack("!Q", data[2:10])[0], 10
            elif size > 125:
                return
            if len(data) < at + size:
                return
            opcode, payload = data[0] & 0xF, bytes(data[at : at + size])
            del data[: at + size]
            if opcode == TEXT:
                self.frames.append(_cut(json.loads(payload)))
            elif opcode == PING:
                loop = asyncio.get_running_loop()
                await loop.sock_sendall(self._socket, frame(PONG, payload))
            elif opcode == CLOSE:
                self.close_code = struct.unpack("!H", payload[:2])[0]


def first_word(text: str) -> str:
    return text.partition(" ")[0]


def _cut(frame: Frame) -> Frame:
    if frame["type"] == "agent_thinking":
        frame["payload"]["thoughts"] = first_word(frame["payload"]["thoughts"])
    return frame


@asynccontextmanager
async def slow_reader(base: str, user: str, **query: str) -> AsyncIterator[SlowReader]:
    """Connected and live; what it does next is the test's."""
    reader = SlowReader(int(base.rpartition(":")[2]), user, query)
    try:
        await reader.connect()
        yield reader
    finally:
        reader.gone()
