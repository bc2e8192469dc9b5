"""Bytes on a socket, as a hostile client writes them: raw HTTP requests and WebSocket frames."""

import asyncio
import base64
import os
import struct
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Final

TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

READ_SECONDS: Final = 30.0
PATIENCE_SECONDS: Final = 0.25
"""How long half a request is left unfinished before its client goes."""


class End(Enum):
    """When the client says that nothing more comes."""

    NEVER = "the server has to end it"
    CLOSED = "after the server's close frame"
    UPGRADED = "after the head of the response"
    PATIENT = "after the head of the response, or when none comes"


@dataclass(frozen=True)
class Answer:
    """What the server wrote until it closed, split at the end of the first head."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class ServerFrame:
    """One frame of the server; ``code`` of a close frame, 0 when it has none."""

    opcode: int
    payload: bytes

    @property
    def code(self) -> int:
        return int(struct.unpack("!H", self.payload[:2])[0]) if self.payload else 0


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    masked: bool = True,
    size: int | None = None,
) -> bytes:
    """A client's frame. ``size``: the length told, when it is not the true one."""
    told = len(payload) if size is None else size
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    bit = 0x80 if masked else 0
    if told < 126:
        head = bytes((first, bit | told))
    elif told < 65536:
        head = struct.pack("!BBH", first, bit | 126, told)
    else:
        head = struct.pack("!BBQ", first, bit | 127, told)
    if not masked:
        return head + payload
    mask = os.urandom(4)
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


def handshake(port: int, target: str = "/ws", headers: tuple[str, ...] = ()) -> bytes:
    """A complete request for a WebSocket."""
    key = base64.b64encode(os.urandom(16)).decode()
    lines = (
        f"GET {target} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Upgrade: websocket",
        "Connection: Upgrade", f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", *headers,
    )  # fmt: skip
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")


def server_frames(data: bytes) -> list[ServerFrame]:
    """The server's frames; ``ValueError`` when RFC 6455 does not allow them."""
    frames = []
    at = 0
    while at < len(data):
        first, second = data[at], data[at + 1]
        at += 2
        size = second & 0x7F
        if second & 0x80 or first & 0x70:
            raise ValueError(f"masked or reserved bits: {first:#x} {second:#x}")
        if size == 126:
            size = struct.unpack("!H", data[at : at + 2])[0]
            at += 2
        elif size == 127:
            size = struct.unpack("!Q", data[at : at + 8])[0]
            at += 8
        payload = data[at : at + size]
        at += size
        if len(payload) < size:
            raise ValueError("the last frame is cut off")
        opcode = first & 0xF
        if not first & 0x80 or opcode not in (TEXT, CLOSE, PING, PONG):
            raise ValueError(f"a frame that this server never sends: {first:#x}")
        if opcode == TEXT:
            payload.decode()
        if opcode == CLOSE and len(payload) > 1:
            payload[2:].decode()
        if opcode == CLOSE and (len(payload) == 1 or len(payload) > 125):
            raise ValueError(f"a close frame of {len(payload)} bytes")
        frames.append(ServerFrame(opcode, payload))
    return frames


async def exchange(port: int, *pieces: bytes, end: End = End.NEVER) -> Answer:
    """Write the pieces one by one and read until the server closes.

    ``AssertionError`` when it does not within :data:`READ_SECONDS`.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = b""
    try:
        async with asyncio.timeout(READ_SECONDS):
            with suppress(ConnectionError):
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)  # a write of its own, not a wait
                if end is End.UPGRADED:
                    data = await reader.readuntil(b"\r\n\r\n")
                if end is End.PATIENT:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(PATIENCE_SECONDS):
                            data = await reader.readuntil(b"\r\n\r\n")
                if end in (End.UPGRADED, End.PATIENT):
                    writer.write_eof()
                while more := await reader.read(65536):
                    data += more
                    if end is End.CLOSED and _closed(data):
                        end = End.NEVER
                        writer.write_eof()
    except asyncio.IncompleteReadError as error:
        data = error.partial
    except TimeoutError:
        raise AssertionError(
            f"the server left the socket open; it sent {data[:300]!r} for {pieces!r:.500}"
        ) from None
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
    return answer(data)


def _closed(data: bytes) -> bool:
    try:
        return any(each.opcode == CLOSE for each in server_frames(answer(data).body))
    except (ValueError, IndexError, struct.error):
        return False  # not all of it yet


def answer(data: bytes) -> Answer:
    """A response; status 0 when there is none."""
    if data.startswith(b"HTTP/1.1 100 "):
        data = data.partition(b"\r\n\r\n")[2]
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split(" ", 2)
    status = int(words[1]) if words[0].startswith("HTTP/") else 0
    headers = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(":") for line in lines[1:])
    }
    return Answer(status, headers, body)
