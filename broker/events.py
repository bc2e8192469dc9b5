"""The event envelope and the payload rules (protocol section 2).

One schema for everybody: the SDK checks an event here before it is encoded, and encodes it here,
once. The encoded body has every field but ``id``, which Redis gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import orjson

from broker.channels import check_id
from broker.errors import InvalidEvent

AGENT_STARTED: Final = "agent_started"
AGENT_THINKING: Final = "agent_thinking"
TOOL_EXECUTING: Final = "tool_executing"
TOOL_COMPLETED: Final = "tool_completed"
AGENT_COMPLETED: Final = "agent_completed"
LIFECYCLE: Final = (AGENT_STARTED, AGENT_THINKING, TOOL_EXECUTING, TOOL_COMPLETED, AGENT_COMPLETED)
"""The five, in the order in which a run sends them first."""

CALLS: Final = frozenset({TOOL_EXECUTING, TOOL_COMPLETED})
"""What opens and closes a call."""

AGENT_DELTA: Final = "agent_delta"
MAX_DELTA_CHARACTERS: Final = 16_384
"""Longest delta. Even if every character is escaped in JSON, the frame stays under 100 KB."""
INPUT_REQUIRED: Final = "input_required"
USER_MESSAGE: Final = "user_message"
USER_INPUT: Final = "user_input"
STOP_REQUESTED: Final = "stop_requested"

SUCCEEDED: Final = "succeeded"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"
ABANDONED: Final = "abandoned"
STATUSES: Final = (SUCCEEDED, FAILED, CANCELLED, ABANDONED)

_NUMBER: Final[tuple[type, ...]] = (int, float)


@dataclass(frozen=True, slots=True)
class PayloadRule:
    """Field → accepted Python types. ``bool`` is no number; ``object`` is any JSON."""

    always: Mapping[str, tuple[type, ...]]
    optional: Mapping[str, tuple[type, ...]]


PAYLOADS: Final[Mapping[str, PayloadRule]] = {
    AGENT_STARTED: PayloadRule(
        {"message": (str,)},
        {"input": (object,), "metadata": (dict,)},
    ),
    AGENT_THINKING: PayloadRule(
        {"thoughts": (str,)},
        {"step": (int,), "progress": _NUMBER},
    ),
    TOOL_EXECUTING: PayloadRule(
        {"tool": (str,), "call_id": (str,), "status": (str,)},
        {"parameters": (object,), "purpose": (str,)},
    ),
    TOOL_COMPLETED: PayloadRule(
        {"tool": (str,), "call_id": (str,), "success": (bool,), "result": (object,),
         "duration_ms": _NUMBER},
        {"error": (dict,)},
    ),
    AGENT_COMPLETED: PayloadRule(
        {"response": (object,), "complete": (bool,), "status": (str,), "duration_ms": _NUMBER,
         "missing": (list,)},
        {"error": (dict,), "usage": (dict,)},
    ),
    INPUT_REQUIRED: PayloadRule(
        {"request_id": (str,), "prompt": (str,), "expires_at": (str,)},
        {"schema": (dict,)},
    ),
}  # fmt: skip
"""Each event type's payload. Further fields are allowed: clients ignore what they don't know."""

Condition = tuple[str, Callable[[Mapping[str, Any]], bool], str]
"""A field, what must be true of the payload, and what is said when it is not."""


def _can_be_answered(payload: Mapping[str, Any]) -> bool:
    """Whether a client's ``user_input`` may name it: ids are checked there."""
    try:
        check_id(payload["request_id"])
    except ValueError:
        return False
    return True


VALUES: Final[Mapping[str, tuple[Condition, ...]]] = {
    AGENT_THINKING: (
        (
            "progress",
            lambda payload: payload.get("progress") is None or 0 <= payload["progress"] <= 1,
            "must be between 0 and 1",
        ),
    ),
    TOOL_EXECUTING: (
        ("status", lambda payload: payload["status"] == "running", 'must be "running"'),
    ),
    TOOL_COMPLETED: (
        (
            "result",
            lambda payload: payload["success"] or payload["result"] is None,
            "must be null when success is false",
        ),
    ),
    AGENT_COMPLETED: (
        ("complete", lambda payload: payload["complete"] is True, "must be true"),
        (
            "status",
            lambda payload: payload["status"] in STATUSES,
            f"must be one of {', '.join(STATUSES)}",
        ),
        (
            "response",
            lambda payload: payload["status"] == SUCCEEDED or payload["response"] is None,
            "must be null unless the run succeeded",
        ),
    ),
    INPUT_REQUIRED: (
        ("request_id", _can_be_answered, "must have 1 to 256 bytes without control characters"),
    ),
}
"""Event → conditions beyond the types."""

COMMON_VALUES: Final[tuple[Condition, ...]] = (
    (
        "duration_ms",
        lambda payload: 0 <= payload["duration_ms"] < math.inf,
        "must not be negative, infinite or NaN",
    ),
    (
        "error",
        lambda payload: all(isinstance(payload["error"].get(k), str) for k in ("code", "message")),
        "must have the strings code and message",
    ),
)
"""Conditions on fields that several events have."""

NAMES: Final = frozenset({"tool", "call_id"})
MAX_NAME_CHARACTERS: Final = 512
"""Names come back in the event that closes what they opened, and that one must always fit."""


def check_payload(event_type: str, payload: Mapping[str, Any]) -> None:
    """Raise :class:`InvalidEvent` unless ``payload`` obeys the rule of ``event_type``.

    Nothing is filled in: a required field that is absent is an error, never a default.
    """
    rule = PAYLOADS.get(event_type)
    if rule is None:
        known = ", ".join(PAYLOADS)
        raise InvalidEvent(event_type=event_type, field="type", why=f"is not one of {known}")
    for field, types in rule.always.items():
        if field not in payload:
            raise InvalidEvent(event_type=event_type, field=field, why="is required")
        value = payload[field]
        if type(value) not in types or field in NAMES:
            _check_type(event_type, field, value, types)
    for field, types in rule.optional.items():
        value = payload.get(field)
        if value is not None and type(value) not in types:
            _check_type(event_type, field, value, types)
    _check_values(event_type, payload)


def _check_type(event_type: str, field: str, value: object, types: tuple[type, ...]) -> None:
    wrong = not isinstance(value, types) or (isinstance(value, bool) and types in (_NUMBER, (int,)))
    if wrong:
        names = " or ".join(kind.__name__ for kind in types)
        raise InvalidEvent(event_type=event_type, field=field, why=f"must be {names}")
    if field in NAMES and not 0 < len(value) <= MAX_NAME_CHARACTERS:  # type: ignore[arg-type]  # str
        why = f"must have 1 to {MAX_NAME_CHARACTERS} characters"
        raise InvalidEvent(event_type=event_type, field=field, why=why)


def _check_values(event_type: str, payload: Mapping[str, Any]) -> None:
    for field, allowed, why in VALUES.get(event_type, ()):
        if not allowed(payload):
            raise InvalidEvent(event_type=event_type, field=field, why=why)
    for field, allowed, why in COMMON_VALUES:
        if payload.get(field) is not None and not allowed(payload):
            raise InvalidEvent(event_type=event_type, field=field, why=why)


def timestamp(epoch_ms: int) -> str:
    """Milliseconds since 1970 → ``2026-11-23T01:45:49.123Z``."""
    return f"{_to_the_second(epoch_ms // 1000)}.{epoch_ms % 1000:03d}Z"


@lru_cache(maxsize=1024)
def _to_the_second(epoch_s: int) -> str:
    return f"{datetime.fromtimestamp(epoch_s, UTC):%Y-%m-%dT%H:%M:%S}"


class Envelope:
    """What all events of one run have in common, encoded once."""

    __slots__ = ("_ids", "_origin")

    def __init__(
        self,
        *,
        user_id: str,
        thread_id: str,
        run_id: str,
        agent_name: str,
        parent_run_id: str | None = None,
        attempt: int = 1,
        traceparent: str | None = None,
    ) -> None:
        ids = {
            "user_id": user_id,
            "thread_id": thread_id,
            "run_id": run_id,
            "agent_name": agent_name,
        }
        origin: dict[str, Any] = {}
        if parent_run_id is not None:
            origin["parent_run_id"] = parent_run_id
        if attempt > 1:
            origin["attempt"] = attempt
        if traceparent is not None:
            origin["traceparent"] = traceparent
        self._ids = b"," + to_json("event", ids)[1:-1]
        self._origin = b"," + to_json("event", origin)[1:-1] if origin else b""

    def encode(
        self, event_type: str, payload: Mapping[str, Any], *, epoch_ms: int, seq: int | None = None
    ) -> bytes:
        """An event as :func:`encode` makes it."""
        number = b"" if seq is None else b',"seq":%d' % seq
        return b'{"type":"%b"%b%b%b,"timestamp":"%b","payload":%b}' % (
            event_type.encode(),
            self._ids,
            number,
            self._origin,
            timestamp(epoch_ms).encode(),
            to_json(event_type, payload),
        )


def encode(
    *,
    event_type: str,
    user_id: str,
    thread_id: str,
    run_id: str,
    agent_name: str,
    epoch_ms: int,
    payload: Mapping[str, Any],
    seq: int | None = None,
    parent_run_id: str | None = None,
    attempt: int = 1,
    traceparent: str | None = None,
) -> bytes:
    """The event as a JSON object without ``id``, ready for the log. The type is one of ours.

    Raises :class:`InvalidEvent` when the payload is not JSON (orjson's types; NaN becomes null).
    """
    envelope = Envelope(
        user_id=user_id,
        thread_id=thread_id,
        run_id=run_id,
        agent_name=agent_name,
        parent_run_id=parent_run_id,
        attempt=attempt,
        traceparent=traceparent,
    )
    return envelope.encode(event_type, payload, epoch_ms=epoch_ms, seq=seq)


def encode_delta(
    *, run_id: str, thread_id: str, agent_name: str, offset: int, text: str
) -> tuple[bytes, int]:
    """One ``agent_delta`` and its ``next``; ``offset`` and ``next`` count UTF-8 bytes."""
    following = offset + len(text.encode())
    body = to_json(
        AGENT_DELTA,
        {
            "type": AGENT_DELTA,
            "run_id": run_id,
            "thread_id": thread_id,
            "agent_name": agent_name,
            "payload": {"offset": offset, "next": following, "text": text},
        },
    )
    return body, following


def to_json(event_type: str, value: object) -> bytes:
    """Encode with orjson; what is not JSON is the caller's mistake, named."""
    try:
        return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY)
    except (TypeError, ValueError) as error:
        raise InvalidEvent(
            event_type=event_type, field="payload", why=f"is not JSON: {error}"
        ) from error
