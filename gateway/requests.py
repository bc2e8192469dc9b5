"""A client's frames, and those that wait for their reply over all its connections."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from broker.channels import check_id
from broker.ids import RANDOM_BYTES, ulid
from gateway.client_errors import BadFrame, Rejected

CONTROL: Final = frozenset(
    {
        "connection_established", "live", "resync", "error", "token_expiring", "draining", "pong",
        "ok", "run_accepted",
    }
)  # fmt: skip
"""Every frame of the server that is no event (protocol section 6)."""

Frame = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Accepted:
    """A run that a message began; ``duplicate`` when an earlier sending of it had begun it."""

    id: str
    thread_id: str
    agent: str
    duplicate: bool


@dataclass(slots=True)
class Request:
    """One frame, as it is sent, and its future reply."""

    id: str
    text: str
    reply: asyncio.Future[Frame] = field(default_factory=asyncio.Future)


class Requests:
    """Open requests by id. The gateway answers each id once; sending one again is safe."""

    def __init__(self) -> None:
        self._open: dict[str, Request] = {}

    def open(
        self, kind: str, payload: Mapping[str, Any], key: str, *, max_bytes: int | None
    ) -> Request:
        """A new request, or the one that is open under this id.

        :raises Rejected: what a gateway's error would not name the call of, so that nobody would be
            told: an id that is none, or more than ``max_bytes`` (None = not known).
        """
        request = self._open.get(key)
        if request is None:
            text = frame_text(kind, payload, key)
            try:
                check_id(key)
            except ValueError as error:
                raise Rejected("bad_frame", f"id {error}") from None
            if max_bytes is not None and len(text.encode()) > max_bytes:
                raise Rejected("message_too_large", f"a message has at most {max_bytes} bytes")
            request = self._open[key] = Request(key, text)
        return request

    def texts(self) -> list[str]:
        """What a new connection has to send."""
        return [request.text for request in self._open.values()]

    def settle(self, frame: Frame) -> bool:
        """Whether the frame is the reply that a caller awaits; it has it then."""
        request = self._open.pop(frame.get("ref") or "", None)
        if request is None or request.reply.done():
            return False
        request.reply.set_result(frame)
        return True

    async def result(self, request: Request) -> dict[str, Any]:
        """The reply's payload.

        :raises Rejected: the reply is an error.
        """
        # Shielded: another caller may await the same message.
        reply = await asyncio.shield(request.reply)
        told = payload_of(reply)
        if reply["type"] == "error":
            raise Rejected(told["code"], told["message"], retryable=told.get("retryable", False))
        return told

    def close(self, request: Request) -> None:
        """Nobody awaits it any more; it is not sent again."""
        self._open.pop(request.id, None)

    def fail(self, error: Exception) -> None:
        """No reply can come any more."""
        for request in self._open.values():
            if not request.reply.done():
                request.reply.set_exception(error)


def frame_text(kind: str, payload: Mapping[str, Any], key: str) -> str:
    """A client's frame."""
    return orjson.dumps({"type": kind, "id": key, "payload": payload}).decode()


def payload_of(frame: Mapping[str, Any]) -> dict[str, Any]:
    """A server frame's payload; the legacy shape calls it ``data``."""
    payload = frame.get("payload", frame.get("data"))
    return payload if isinstance(payload, dict) else {}


def decode_frame(text: str) -> Frame:
    """A server frame.

    :raises BadFrame: it is no JSON object.
    """
    try:
        frame = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise BadFrame("not JSON") from None
    if not isinstance(frame, dict):
        raise BadFrame("not an object")
    return frame


def new_id() -> str:
    """An id for a message or another frame."""
    return ulid(time.time_ns() // 1_000_000, os.urandom(RANDOM_BYTES))
