"""Live messages as Redis sends them, and listening in between."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest

from broker.redis.connection import RedisConnection

KIND = b"message"
PREFIX = b">3\r\n$7\r\nmessage\r\n$"


def push(channel: bytes, message: bytes, kind: bytes = KIND) -> bytes:
    """One of them (RESP3)."""
    parts = (kind, channel, message)
    return b">3\r\n" + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def pushes(data: bytes, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Each whole one at the front, and the message in it."""
    while data.startswith(prefix):
        at = len(prefix)
        for _ in ("channel", "message"):
            size, end, _ = data[at:].partition(b"\r\n")
            start = at + len(size) + 2
            at = start + int(size or b"0") + 3  # over the end of this word, to the next one's size
            if not end or len(data) < at - 1:
                return
        yield data[: at - 1], data[start : at - 3]
        data = data[at - 1 :]


def listen_in(
    connection: RedisConnection,
    monkeypatch: pytest.MonkeyPatch,
    hear: Callable[[bytes, Callable[[], object]], object],
) -> None:
    """``hear(message, deliver)`` instead of each live message; ``deliver()`` lets it go its way."""
    on_read, on_message = connection._on_read, connection._on_message
    assert on_message is not None

    def one(channel: bytes, message: bytes) -> None:
        hear(message, partial(on_message, channel, message))

    def all_of(data: bytes, at: int, prefix: bytes) -> tuple[int, int]:
        assert on_read is not None
        for whole, message in pushes(data[at:], prefix):
            hear(message, partial(on_read, whole, 0, prefix))
            at += len(whole)
        return on_read(data, at, prefix)

    monkeypatch.setattr(connection, "_on_message", one)
    if on_read is not None:
        monkeypatch.setattr(connection, "_on_read", all_of)
