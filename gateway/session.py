"""One client's side of the conversation: its frames, read and checked (protocol section 6).

Pure: text and the time in, commands out. The socket carries the commands out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import orjson

from broker import cursor
from broker.channels import Mode, check_id
from broker.cursor import Cursor

MAX_BAD_FRAMES: Final = 20
"""Bad frames within :data:`MISUSE_SECONDS` that close the connection with 4400."""

MISUSE_SECONDS: Final = 60.0

MAX_NESTING: Final = 128
"""Levels of what a client sends to an agent: it is written again inside an event, and not every
JSON library reads and writes more than some hundred."""

LEGACY_TEXT_FIELDS: Final = {
    "user_message": ("content", "text", "message"),
    "chat": ("content", "text", "message"),
    "start_agent": ("query", "content", "message"),
    "agent_request": ("message", "content", "query"),
}
"""V2 type → where its text may be, in payload or at the top; only in legacy mode."""


class FrameError(Exception):
    """A frame that is answered with ``error``; ``bad`` ones count towards 4400.

    ``retry_after_ms``: when the same may succeed, where that is known.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        ref: str | None = None,
        retryable: bool = False,
        bad: bool = True,
        retry_after_ms: int | None = None,
    ) -> None:
        self.code, self.message, self.ref = code, message, ref
        self.retry_after_ms = retry_after_ms
        self.retryable, self.bad = retryable, bad
        super().__init__(f"{code}: {message}")

    @property
    def payload(self) -> dict[str, Any]:
        """Of the ``error`` frame (protocol section 6)."""
        told: dict[str, Any] = {
            "code": self.code,
            "message": self.message,
            "retryable": self.retryable,
        }
        if self.retry_after_ms is not None:
            told["retry_after_ms"] = self.retry_after_ms
        return told


@dataclass(frozen=True, slots=True)
class Command:
    """A valid frame of a client; ``ref`` is its ``id``."""

    ref: str | None


@dataclass(frozen=True, slots=True)
class SendMessage(Command):
    """Start a run. The frame's ``id`` is the message id: the same again gives the same run."""

    content: Any
    thread_id: str | None
    agent: str | None
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class StopAgent(Command):
    """End a run."""

    run_id: str


@dataclass(frozen=True, slots=True)
class UserInput(Command):
    """Answer an ``input_required``."""

    run_id: str
    request_id: str
    content: Any


@dataclass(frozen=True, slots=True)
class Attach(Command):
    """Read a run's channel too (factory strict)."""

    run_id: str
    after: Cursor | None
    bad_cursor: bool


@dataclass(frozen=True, slots=True)
class Detach(Command):
    """Read it no more."""

    run_id: str


@dataclass(frozen=True, slots=True)
class AuthRefresh(Command):
    """A new token for the same subject."""

    token: str


@dataclass(frozen=True, slots=True)
class Ping(Command):
    """A question whether the gateway is there."""

    payload: dict[str, Any]


class Session:
    """Reads one connection's frames, and counts what was wrong with them."""

    ref_field: ClassVar[str] = "id"
    """Where a frame has what its reply is told by."""

    __slots__ = ("_bad", "_legacy", "_max_message_bytes")

    def __init__(self, mode: Mode = Mode.MAIN, *, max_message_bytes: int) -> None:
        self._legacy = mode is Mode.LEGACY
        self._max_message_bytes = max_message_bytes
        self._bad: deque[float] | None = None

    def receive(self, text: bytes) -> Command:
        """The command in a text message, or :class:`FrameError`."""
        frame = self.read(text)
        ref = frame.get("id")
        if ref is not None:
            ref = _checked(frame, "id", ref=None)
        kind = frame.get("type")
        if not isinstance(kind, str):
            raise FrameError("bad_frame", "type must be a string", ref=ref)
        payload = frame.get("payload", {})
        if not isinstance(payload, dict):
            raise FrameError("bad_frame", "payload must be an object", ref=ref)
        if self._legacy and kind in LEGACY_TEXT_FIELDS:
            kind, payload = "user_message", _from_legacy(kind, frame, payload)
        return _command(kind, ref, payload)

    def read(self, text: bytes) -> dict[str, Any]:
        """The JSON object that every frame is."""
        if len(text) > self._max_message_bytes:
            raise FrameError(
                "message_too_large",
                f"a message has at most {self._max_message_bytes} bytes",
                ref=_id_of(text, self.ref_field),
            )
        try:
            frame = orjson.loads(text)
        except orjson.JSONDecodeError:
            raise FrameError("bad_json", "a frame is one JSON object in UTF-8") from None
        if not isinstance(frame, dict):
            raise FrameError("bad_frame", "a frame is a JSON object")
        return frame

    def misused(self, now: float) -> bool:
        """Count a bad frame; true when it was one too many."""
        if self._bad is None:
            self._bad = deque(maxlen=MAX_BAD_FRAMES)
        self._bad.append(now)
        return len(self._bad) == MAX_BAD_FRAMES and now - self._bad[0] < MISUSE_SECONDS


def message(ref: object, payload: dict[str, Any]) -> SendMessage:
    """A ``user_message``'s payload, under this message id; :class:`FrameError` when it is none."""
    named = None if ref is None else _checked({"id": ref}, "id", ref=None)
    return _message(named, payload)


def user_input(run_id: str, payload: dict[str, Any]) -> UserInput:
    """A ``user_input``'s payload, for this run; :class:`FrameError` when it is none."""
    return _input(None, {**payload, "run_id": run_id})


def _command(kind: str, ref: str | None, payload: dict[str, Any]) -> Command:
    read = COMMANDS.get(kind)
    if read is None:
        raise FrameError("unknown_type", f"valid are {', '.join(COMMANDS)}", ref=ref)
    return read(ref, payload)


def _ping(ref: str | None, payload: dict[str, Any]) -> Ping:
    return Ping(ref, payload)


def _refresh(ref: str | None, payload: dict[str, Any]) -> AuthRefresh:
    token = payload.get("token")
    if not isinstance(token, str):
        raise FrameError("bad_frame", "token must be a string", ref=ref)
    return AuthRefresh(ref, token)


def _stop(ref: str | None, payload: dict[str, Any]) -> StopAgent:
    return StopAgent(ref, _checked(payload, "run_id", ref=ref))


def _detach(ref: str | None, payload: dict[str, Any]) -> Detach:
    return Detach(ref, _checked(payload, "run_id", ref=ref))


def _input(ref: str | None, payload: dict[str, Any]) -> UserInput:
    run_id = _checked(payload, "run_id", ref=ref)
    request_id = _checked(payload, "request_id", ref=ref)
    if "content" not in payload:
        raise FrameError("bad_frame", "content is required", ref=ref)
    if too_deep(payload["content"]):
        raise FrameError("bad_frame", f"nested deeper than {MAX_NESTING} levels", ref=ref)
    return UserInput(ref, run_id, request_id, payload["content"])


def _attach(ref: str | None, payload: dict[str, Any]) -> Attach:
    run_id = _checked(payload, "run_id", ref=ref)
    after = payload.get("after")
    if after is None:
        return Attach(ref, run_id, None, bad_cursor=False)
    try:
        return Attach(ref, run_id, cursor.parse(after), bad_cursor=False)
    except (ValueError, TypeError):
        return Attach(ref, run_id, None, bad_cursor=True)


def _message(ref: str | None, payload: dict[str, Any]) -> SendMessage:
    content = payload.get("content")
    if not isinstance(content, str | dict) or not content:
        raise FrameError("bad_frame", "content must be a non-empty string or object", ref=ref)
    metadata = payload.get("metadata")
    if metadata is None:
        metadata = {}
    if not isinstance(metadata, dict):
        raise FrameError("bad_frame", "metadata must be an object", ref=ref)
    if too_deep(content) or too_deep(metadata):
        raise FrameError("bad_frame", f"nested deeper than {MAX_NESTING} levels", ref=ref)
    optional = {
        name: _checked(payload, name, ref=ref) if payload.get(name) is not None else None
        for name in ("thread_id", "agent")
    }
    return SendMessage(ref, content, optional["thread_id"], optional["agent"], metadata)


def too_deep(value: Any) -> bool:
    """Whether a value of a client's is nested deeper than :data:`MAX_NESTING` levels."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_NESTING):
        if not level:
            return False
        level = [
            part
            for each in level
            for part in (each.values() if isinstance(each, dict) else each)
            if isinstance(part, dict | list)
        ]
    return bool(level)


def _id_of(text: bytes, field: str) -> str | None:
    """The id of a frame that is not read any further: somebody waits for its reply."""
    try:
        return check_id(orjson.loads(text)[field])
    except (ValueError, LookupError, TypeError):
        return None


def _checked(fields: dict[str, Any], name: str, *, ref: str | None) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise FrameError("bad_frame", f"{name} must be a string", ref=ref)
    try:
        return check_id(value)
    except ValueError as error:
        raise FrameError("bad_frame", f"{name} {error}", ref=ref) from None


def _from_legacy(kind: str, frame: dict[str, Any], payload: dict[str, Any]) -> dict[str, Any]:
    fields = {**frame, **payload}
    for name in LEGACY_TEXT_FIELDS[kind]:
        if fields.get(name):
            return {
                "content": fields[name],
                "thread_id": fields.get("thread_id"),
                "agent": fields.get("agent"),
                "metadata": fields.get("metadata"),
            }
    return {}


COMMANDS: Final[Mapping[str, Callable[[str | None, dict[str, Any]], Command]]] = {
    "user_message": _message,
    "stop_agent": _stop,
    "user_input": _input,
    "attach": _attach,
    "detach": _detach,
    "auth_refresh": _refresh,
    "ping": _ping,
}
"""Frame type → how its payload is read."""
