"""A WebSocket client's bytes (RFC 6455), as few steps per frame as Python allows.

The chat client of this package does far more for each frame than a bench can afford: it shares the
machine with what it measures.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

TEXT: Final = 0x1
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

_FINAL: Final = 0x80
_MASKED: Final = 0x80
_SIZE_16: Final = 126
_SIZE_64: Final = 127
_BLANK: Final = b"\r\n\r\n"

Frame = tuple[int, bytes]
"""Opcode and payload of a whole frame."""


class NotSpoken(ValueError):
    """The other end sent what a gateway never sends."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to the handshake; ``body`` is empty for an upgrade, ``rest`` what follows it."""

    status: int
    body: bytes
    rest: bytes


def handshake(*, host: str, target: str, token: str, key: str) -> bytes:
    """The request for an upgrade. ``key``: 16 random bytes in base64."""
    return (
        f"GET {target} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
        f"Authorization: Bearer {token}\r\n\r\n"
    ).encode()


def answer(data: bytes, *, ended: bool = False) -> Answer | None:
    """The answer, once all of it is there; ``ended``: nothing more will come."""
    head, blank, rest = data.partition(_BLANK)
    if not blank:
        if ended or (len(data) >= 5 and not data.startswith(b"HTTP/")):  # noqa: PLR2004 - the word's length
            raise NotSpoken("it does not answer in HTTP")
        return None
    lines = head.split(b"\r\n")
    words = lines[0].split(b" ", 2)
    if not lines[0].startswith(b"HTTP/") or len(words) < 2 or not words[1].isdigit():  # noqa: PLR2004
        raise NotSpoken("it does not answer in HTTP")
    status = int(words[1])
    if status == 101:  # noqa: PLR2004 - Switching Protocols
        return Answer(status, b"", rest)
    size = 0
    for line in lines[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length" and value.strip().isdigit():
            size = int(value)
    if len(rest) < size and not ended:
        return None
    return Answer(status, rest[:size], b"")


def split(data: bytes) -> tuple[list[Frame], bytes]:
    """The whole frames at the beginning, and the rest; a gateway's are final and unmasked."""
    frames: list[Frame] = []
    at, end = 0, len(data)
    while end - at >= 2:  # noqa: PLR2004 - the shortest header
        first, size = data[at], data[at + 1]
        begin = at + 2
        if not first & _FINAL or size & _MASKED:
            raise NotSpoken("a frame that is masked or in parts")
        if size >= _SIZE_16:
            form = ">H" if size == _SIZE_16 else ">Q"
            begin += struct.calcsize(form)
            if begin > end:
                break
            (size,) = struct.unpack_from(form, data, at + 2)
        if begin + size > end:
            break
        frames.append((first & 0xF, data[begin : begin + size]))
        at = begin + size
    return frames, data[at:]


def frame(opcode: int, payload: bytes, mask: bytes) -> bytes:
    """A client's control frame: masked, at most 125 bytes of payload."""
    masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    return bytes((_FINAL | opcode, _MASKED | len(payload))) + mask + masked


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a gateway's WebSocket is."""

    tls: bool
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """What the ``Host`` header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.tls] else f"{host}:{self.port}"

    @property
    def http(self) -> str:
        """The address of the same server for plain requests, without a path."""
        return f"{'https' if self.tls else 'http'}://{self.authority}"


_PORTS: Final = {False: 80, True: 443}


def target(url: str) -> Target:
    """``ws://host:port/ws``, ``wss://``, ``http://`` or ``https://``; ValueError for another."""
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss", "http", "https") or not parts.hostname:
        raise ValueError("it is no address like ws://host:port/ws")
    tls = parts.scheme in ("wss", "https")
    return Target(
        tls=tls,
        host=parts.hostname,
        port=parts.port or _PORTS[tls],
        path=parts.path if parts.path not in ("", "/") else "/ws",
    )
