"""The JSON Schema of every frame (protocol sections 2 and 6), from the tables that the code obeys.

``docs/reference/frames.schema.json`` belongs to this module: ``python docs/generate.py`` writes it.
Open where the protocol is (further fields are allowed), strict where it promises something. What
JSON Schema cannot say stands in a description: ids are limited in bytes, nesting in levels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from broker.channels import MAX_ID_BYTES, Level, Mode, Scope
from broker.events import (
    AGENT_COMPLETED,
    AGENT_DELTA,
    AGENT_THINKING,
    INPUT_REQUIRED,
    LIFECYCLE,
    MAX_NAME_CHARACTERS,
    NAMES,
    PAYLOADS,
    STATUSES,
    STOP_REQUESTED,
    SUCCEEDED,
    TOOL_COMPLETED,
    TOOL_EXECUTING,
    USER_INPUT,
    USER_MESSAGE,
)
from gateway import resync
from gateway.connection import PROTOCOL
from gateway.session import LEGACY_TEXT_FIELDS, MAX_NESTING

Schema = dict[str, Any]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

_TYPES: Final[Mapping[type, str]] = {
    str: "string", int: "integer", float: "number", bool: "boolean", dict: "object", list: "array",
}  # fmt: skip


def ref(name: str) -> Schema:
    """A definition of this schema."""
    return {"$ref": f"#/$defs/{name}"}


def struct(always: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    """An object with these fields, and perhaps others."""
    made: Schema = {"type": "object", "properties": {**always, **(optional or {})}}
    if always:
        made["required"] = list(always)
    return made


def nullable(schema: Schema) -> Schema:
    """The same, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


STRING: Final[Schema] = {"type": "string"}
BOOLEAN: Final[Schema] = {"type": "boolean"}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
POSITIVE: Final[Schema] = {"type": "integer", "minimum": 1}
OBJECT: Final[Schema] = {"type": "object"}
ID, CURSOR, TIMESTAMP, PROBLEM = ref("id"), ref("cursor"), ref("timestamp"), ref("run_problem")

CONTENT: Final[Schema] = {
    "anyOf": [{"type": "string", "minLength": 1}, {"type": "object", "minProperties": 1}],
    "description": f"Nested at most {MAX_NESTING} levels deep.",
}

SCALARS: Final[Mapping[str, Schema]] = {
    "id": {
        "type": "string",
        "minLength": 1,
        "maxLength": MAX_ID_BYTES,
        "pattern": r"^[^\u0000-\u001f\u007f-\u009f]+$",
        "description": f"1 to {MAX_ID_BYTES} bytes of UTF-8 without control characters.",
    },
    "cursor": {
        "type": "string",
        "pattern": "^[0-9]+-[0-9]+$",
        "description": "To a client an opaque string.",
    },
    "timestamp": {
        "type": "string",
        "format": "date-time",
        "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z$",
        "description": "UTC with milliseconds.",
    },
    "traceparent": {
        "type": "string",
        "pattern": "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$",
        "description": "W3C Trace Context.",
    },
    "run_problem": struct({"code": STRING, "message": STRING}),
}
"""What fields are made of."""

NARROWER: Final[Mapping[tuple[str, str], Schema]] = {
    (AGENT_THINKING, "progress"): {"minimum": 0, "maximum": 1},
    (TOOL_EXECUTING, "status"): {"const": "running"},
    (AGENT_COMPLETED, "complete"): {"const": True},
    (AGENT_COMPLETED, "status"): {"enum": list(STATUSES)},
    (INPUT_REQUIRED, "request_id"): SCALARS["id"],
    (AGENT_COMPLETED, "missing"): {"items": {"enum": list(LIFECYCLE)}, "uniqueItems": True},
}
"""``VALUES`` of ``broker.events``, where one field is concerned."""

RELATIONS: Final[Mapping[str, Schema]] = {
    TOOL_COMPLETED: {
        "if": {"properties": {"success": {"const": False}}},
        "then": {"properties": {"result": {"type": "null"}}},
    },
    AGENT_COMPLETED: {
        "if": {"properties": {"status": {"not": {"const": SUCCEEDED}}}},
        "then": {"properties": {"response": {"type": "null"}}},
    },
}
"""The same, where two are."""

ECHOES: Final[Mapping[str, Schema]] = {
    USER_MESSAGE: struct({"content": CONTENT, "message_id": ID, "metadata": OBJECT}),
    USER_INPUT: struct({"request_id": STRING, "content": {}}),
    STOP_REQUESTED: OBJECT,
}
"""What the user did, by its payload."""

ERROR_CODES: Final = (
    "bad_json", "bad_frame", "unknown_type", "message_too_large", "unknown_agent", "run_not_found",
    "not_allowed", "rate_limited", "queue_full", "broker_unavailable", "internal",
)  # fmt: skip

RESYNC_REASONS: Final = resync.REASONS

CONTROL: Final[Mapping[str, Schema]] = {
    "connection_established": struct(
        {
            "connection_id": ID, "user_id": ID, "mode": {"enum": list(Mode)},
            "scope": {"enum": list(Scope)}, "cursor": CURSOR, "recovered": BOOLEAN,
            "server_time": TIMESTAMP, "heartbeat_seconds": {"type": "number"},
            "max_message_bytes": POSITIVE, "token_expires_at": TIMESTAMP,
            "protocol": {"const": PROTOCOL},
        },
        {
            "isolation_level": {"enum": list(Level)}, "secret": ID, "thread_id": ID,
            "resumed_from": CURSOR,
        },
    ),
    "live": struct({"cursor": CURSOR}),
    "resync": struct(
        {"reason": {"enum": list(RESYNC_REASONS)}, "from": CURSOR, "channel_cursor": CURSOR},
        {"run_id": ID},
    ),
    "token_expiring": struct({"expires_at": TIMESTAMP}),
    "draining": struct({"reconnect_after_ms": COUNT}),
    "closing": struct(
        {"code": {"type": "integer", "minimum": 1000, "maximum": 4999}, "reason": STRING}
    ),
}  # fmt: skip
"""Frames of the server's own accord, by their payload. ``closing``: event streams only."""

REPLIES: Final[Mapping[str, Schema]] = {
    "run_accepted": struct({"run_id": ID, "thread_id": ID, "agent": STRING, "duplicate": BOOLEAN}),
    "ok": struct({}, {"cursor": CURSOR, "expires_at": TIMESTAMP}),
    "pong": struct({"server_time": TIMESTAMP}),
    "error": struct(
        {"code": {"enum": list(ERROR_CODES)}, "message": STRING, "retryable": BOOLEAN},
        {"retry_after_ms": COUNT},
    ),
}
"""Answers to a client's frame, by their payload."""

MESSAGE: Final[Schema] = struct(
    {"content": CONTENT},
    {"thread_id": nullable(ID), "agent": nullable(ID), "metadata": nullable(OBJECT)},
)

CLIENT: Final[Mapping[str, Schema]] = {
    "user_message": MESSAGE,
    "stop_agent": struct({"run_id": ID}),
    "user_input": struct({"run_id": ID, "request_id": ID, "content": {}}),
    "attach": struct({"run_id": ID}, {"after": nullable(CURSOR)}),
    "detach": struct({"run_id": ID}),
    "auth_refresh": struct({"token": STRING}),
    "ping": OBJECT,
}
"""A client's frames, by their payload."""


def payload(event_type: str) -> Schema:
    """An event's payload, as ``check_payload`` of ``broker.events`` judges it."""
    rule = PAYLOADS[event_type]
    made = struct(
        {name: _field(event_type, name, types) for name, types in rule.always.items()},
        {name: nullable(_field(event_type, name, types)) for name, types in rule.optional.items()},
    )
    return {**made, **RELATIONS.get(event_type, {})}


def definitions() -> dict[str, Schema]:
    """Name → schema, of everything."""
    made: dict[str, Schema] = dict(SCALARS)
    for name in PAYLOADS:
        made[f"{name}_payload"] = payload(name)
        made[name] = _event(name, ref(f"{name}_payload"), seq=True)
    made |= {name: _event(name, fields, seq=False) for name, fields in ECHOES.items()}
    made[AGENT_DELTA] = _delta()
    made |= {name: _control(name, fields) for name, fields in CONTROL.items()}
    made |= {name: _reply(name, fields) for name, fields in REPLIES.items()}
    made |= {f"client_{name}": _client(name, fields) for name, fields in CLIENT.items()}
    made |= {f"legacy_{name}": _legacy_event(name) for name in LIFECYCLE}
    made |= {f"legacy_{name}": _legacy_shape(made[name]) for name in (*CONTROL, *REPLIES)}
    made |= {f"legacy_client_{name}": _legacy_client(name) for name in LEGACY_TEXT_FIELDS}
    made["event"] = _any(*PAYLOADS, *ECHOES)
    made["server_frame"] = _any(*PAYLOADS, *ECHOES, AGENT_DELTA, *CONTROL, *REPLIES)
    made["client_frame"] = _any(*(f"client_{name}" for name in CLIENT))
    made["legacy_server_frame"] = _any(
        *(f"legacy_{name}" for name in (*LIFECYCLE, *CONTROL, *REPLIES))
    )
    made["legacy_client_frame"] = _any(
        *(f"legacy_client_{name}" for name in LEGACY_TEXT_FIELDS),
        *(f"client_{name}" for name in CLIENT if name not in LEGACY_TEXT_FIELDS),
    )
    return made


def document() -> Schema:
    """The whole schema: any frame of either direction."""
    directions = (
        "server_frame", "client_frame", "legacy_server_frame", "legacy_client_frame",
    )  # fmt: skip
    return {
        "$schema": DIALECT,
        "$id": f"urn:runcast:protocol:{PROTOCOL}:frames",
        "title": f"Runcast protocol {PROTOCOL}: frames",
        "description": "Made by docs/generate.py from the code's tables: do not edit. Clients "
        "ignore types that they do not know; fields may be added.",
        "anyOf": [ref(name) for name in directions],
        "$defs": definitions(),
    }


def embedded(into: str) -> Callable[[Any], Any]:
    """What rewrites this module's references for a document that has the definitions there."""

    def rewrite(part: Any) -> Any:
        if isinstance(part, dict):
            return {
                name: value.replace("#/$defs/", into)
                if name == "$ref" and isinstance(value, str)
                else rewrite(value)
                for name, value in part.items()
            }
        return [rewrite(each) for each in part] if isinstance(part, list) else part

    return rewrite


def _field(event_type: str, name: str, types: tuple[type, ...]) -> Schema:
    if types == (object,):
        return {}
    if name == "error":
        return PROBLEM
    made: Schema = {"type": "number" if float in types else _TYPES[types[0]]}
    if name == "duration_ms":
        made["minimum"] = 0
    if name in NAMES:
        made |= {"minLength": 1, "maxLength": MAX_NAME_CHARACTERS}
    return made | NARROWER.get((event_type, name), {})


def _event(name: str, fields: Schema, *, seq: bool) -> Schema:
    always = {
        "type": {"const": name}, "id": CURSOR, "user_id": ID, "thread_id": ID, "run_id": ID,
        "agent_name": STRING, "timestamp": TIMESTAMP, "payload": fields,
    }  # fmt: skip
    optional = {"parent_run_id": ID}
    if not seq:
        return struct(always, {**optional, "seq": False})  # type: ignore[dict-item]
    return struct(
        {**always, "seq": POSITIVE},
        {**optional, "attempt": {**POSITIVE, "minimum": 2}, "traceparent": ref("traceparent")},
    )


def _delta() -> Schema:
    fields = struct({"offset": COUNT, "next": COUNT, "text": STRING})
    return _without_id(
        {"type": {"const": AGENT_DELTA}, "run_id": ID, "thread_id": ID, "agent_name": STRING,
         "payload": fields}
    )  # fmt: skip


def _control(name: str, fields: Schema) -> Schema:
    return _without_id({"type": {"const": name}, "payload": fields})


def _reply(name: str, fields: Schema) -> Schema:
    to = nullable(ID) if name == "error" else ID
    return _without_id({"type": {"const": name}, "ref": to, "payload": fields})


def _without_id(always: Mapping[str, Schema]) -> Schema:
    return struct(always, {"id": False, "seq": False})  # type: ignore[dict-item]


def _client(name: str, fields: Schema) -> Schema:
    always = {"type": {"const": name}}
    if "required" in fields:
        return struct({**always, "payload": fields}, {"id": nullable(ID)})
    return struct(always, {"id": nullable(ID), "payload": fields})


def _legacy_event(name: str) -> Schema:
    return _without_id(
        {"type": {"const": name}, "data": ref(f"{name}_payload"), "timestamp": TIMESTAMP,
         "thread_id": ID, "run_id": ID}
    )  # fmt: skip


def _legacy_shape(frame: Schema) -> Schema:
    fields = dict(frame["properties"])
    fields["data"] = fields.pop("payload")
    always = [name for name in frame["required"] if name != "payload"]
    made = {**fields, "timestamp": TIMESTAMP}
    return {"type": "object", "properties": made, "required": [*always, "data", "timestamp"]}


def _legacy_client(name: str) -> Schema:
    texts = dict.fromkeys(LEGACY_TEXT_FIELDS[name], CONTENT)
    fields = {**MESSAGE["properties"], **texts}
    named = [struct({field: CONTENT}) for field in texts]
    anywhere = [*named, *(struct({"payload": each}) for each in named)]
    made = struct(
        {"type": {"const": name}}, {**fields, "id": nullable(ID), "payload": struct({}, fields)}
    )
    return {**made, "anyOf": anywhere}


def _any(*names: str) -> Schema:
    return {"oneOf": [ref(name) for name in names]}
