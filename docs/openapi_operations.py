"""The operations of the gateway's HTTP paths (protocol sections 3 and 7).

It is long because it is one table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from broker.channels import Level, Mode
from docs.openapi_answers import NUMBER
from docs.schema_asyncapi import query
from docs.schema_frames import (
    CONTENT,
    CURSOR,
    ID,
    MESSAGE,
    OBJECT,
    POSITIVE,
    REPLIES,
    STRING,
    Schema,
    nullable,
    ref,
    struct,
)
from gateway.admin import LONGEST_REASON
from gateway.admin import PREFIX as ADMIN
from gateway.agui_api import NAMES
from gateway.agui_api import PREFIX as AGUI
from gateway.ai_sdk_api import ABORTS
from gateway.ai_sdk_api import PLACE as CHAT_PLACE
from gateway.ai_sdk_api import PREFIX as AI_SDK
from gateway.dialects.agui_request import MOST_ANSWERS
from gateway.dialects.ai_sdk_request import TRIGGERS
from gateway.event_batch import MAX_EVENTS, SCOPES
from gateway.handshake import CREDENTIALS, STREAM_PATH
from gateway.history import MOST
from gateway.run_admin import MOST_RUNS, PLACE
from gateway.tickets import TICKET_SECONDS
from gateway.user_api import PREFIX

SENT: Final = struct({"data": STRING}, {"id": STRING, "event": STRING})
"""Each of the events of a stream (HTML standard, section 9.2)."""

WEBSOCKET: Final = "/ws"
CONNECTIONS: Final = "connections"
USERS: Final = "users"
OPERATORS: Final = "operators"
WORKERS: Final = "workers"
ANYONE: Final = "anyone"

Refused = Mapping[int, tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """``answers``: status → content type → schema. ``refused``: status → codes of the problem."""

    tag: str
    security: tuple[str, ...] = ()
    query: Mapping[str, Schema] = field(default_factory=dict)
    headers: tuple[Schema, ...] = ()
    body: Schema | None = None
    answers: Mapping[int, Mapping[str, Schema]]
    refused: Refused = field(default_factory=dict)
    then: tuple[str, ...] = ()
    """Paths that take what is answered as the run's id."""


def json(schema: Schema) -> Mapping[str, Schema]:
    """A JSON answer."""
    return {"application/json": schema}


def together(*parts: Refused) -> Refused:
    """Status → all codes that any of the parts has for it."""
    found: dict[int, tuple[str, ...]] = {}
    for part in parts:
        for status, codes in part.items():
            found[status] = tuple(dict.fromkeys((*found.get(status, ()), *codes)))
    return dict(sorted(found.items()))


def closed(optional: Mapping[str, Schema], always: Mapping[str, Schema] | None = None) -> Schema:
    """A request's body: no other fields."""
    return {**struct(always or {}, optional), "additionalProperties": False}


LIMIT: Final[Schema] = {"type": "integer", "minimum": 1, "maximum": MOST}

_CALL: Final[Refused] = {
    400: ("bad_request",), 503: ("broker_unavailable", "keys_unavailable"), 500: ("internal",),
}  # fmt: skip
_USER: Final[Refused] = {
    **_CALL, 401: ("unauthorized",), 403: ("user_token_required", "origin_not_allowed"),
}  # fmt: skip
_OPERATOR: Final[Refused] = {
    **_CALL, 401: ("unauthorized",), 403: ("operator_required", "not_allowed"),
}  # fmt: skip
_BODY: Final[Refused] = {400: ("bad_body", "unknown_field"), 413: ("message_too_large",)}
_PLACE: Final[Refused] = {
    400: (
        "invalid_mode", "invalid_isolation_level", "invalid_connection_scope", "invalid_events",
        "unknown_parameter", "parameter_not_allowed", "repeated_parameter", "secret_required",
        "run_id_required", "invalid_user_id", "invalid_thread_id", "invalid_run_id",
        "invalid_connection", "invalid_secret",
    ),
    403: ("user_mismatch", "mode_not_allowed", "connection_unknown", "run_not_found"),
}  # fmt: skip
_SEATED: Final[Refused] = {
    400: ("gone",), 429: ("too_many_connects", "too_many_connections"), 503: ("draining",),
}  # fmt: skip
_STREAMED: Final[Refused] = together(_SEATED, {400: ("http_1_1_required",)})
_CONNECT: Final[Refused] = together(
    _USER,
    _PLACE,
    _SEATED,
    {400: ("mode_contradicts_path",), 401: ("query_token_not_allowed",)},
)
_RUN_OF: Final[Refused] = {400: ("bad_frame",), 404: ("run_not_found", "not_found")}

_RUN_PATHS: Final = tuple(f"{PREFIX}/runs/{{id}}{verb}" for verb in ("", "/stop", "/input"))

_REASON: Final = {"reason": nullable({"type": "string", "maxLength": LONGEST_REASON})}
_TENANT: Final = {**_REASON, "tenant": nullable(ID)}
_BEARER: Final = ("token",)
_OF_PLACE: Final = {
    "mode": nullable({"enum": list(Mode)}), "isolation_level": nullable({"enum": list(Level)}),
    "connection": nullable(ID), "secret": nullable(ID),
}  # fmt: skip
_AGUI_PLACE: Final = {"mode": {"enum": [Mode.MAIN, Mode.FACTORY]},
                      "isolation_level": {"enum": list(Level)}}  # fmt: skip
_RESUMES: Final = {"name": "Last-Event-ID", "in": "header", "schema": STRING,
                   "description": "Goes on after that, and begins no run."}  # fmt: skip
_IN_QUERY: Final = {
    name: schema for name, schema in query(None)["properties"].items() if name not in CREDENTIALS
}
_OF_CHAT: Final = {name: _IN_QUERY[name] for name in CHAT_PLACE}
_CHAT: Final[Refused] = together(_USER, _PLACE, {404: ("not_found",)})


def _reading(name: str, refused: Refused, **parameters: Schema) -> Operation:
    return Operation(
        tag=USERS, security=_BEARER, query=parameters, answers={200: json(ref(name))},
        refused=refused,
    )  # fmt: skip


def _looking(name: str, **parameters: Schema) -> Operation:
    return _operating(name, {400: ("invalid_page",)} if parameters else {}, **parameters)


def _operating(name: str, refused: Refused, **parameters: Schema) -> Operation:
    return Operation(
        tag=OPERATORS, security=("operator",), query=parameters, answers={200: json(ref(name))},
        refused=together(_OPERATOR, refused),
    )  # fmt: skip


def _ordering(name: str, body: Schema, refused: Refused) -> Operation:
    return Operation(
        tag=OPERATORS, security=("operator",), body=body, answers={202: json(ref(name))},
        refused=together(_OPERATOR, _BODY, {400: ("invalid_reason",)}, refused),
    )  # fmt: skip


def _open(*answers: tuple[int, Mapping[str, Schema]]) -> Operation:
    return Operation(tag=ANYONE, answers=dict(answers))


OPERATIONS: Final[Mapping[str, Operation]] = {
    WEBSOCKET: Operation(
        tag=CONNECTIONS, security=("token", "ticket"), answers={101: {}},
        refused=together(_CONNECT, {426: ("upgrade_required",)}),
    ),
    STREAM_PATH: Operation(
        tag=CONNECTIONS, security=("token", "ticket"),
        headers=({"name": "Last-Event-ID", "in": "header", "schema": STRING,
                  "description": "Counts as after, and more than it."},),
        answers={200: {"text/event-stream": SENT}},
        refused=together(_CONNECT, _STREAMED),
    ),
    "/ws/health": _open((200, json(ref("health"))), (503, json(ref("health")))),
    "/ws/config": _open((200, json(ref("config")))),
    "/livez": _open((200, json(struct({"status": {"const": "alive"}})))),
    "/readyz": _open(
        (200, json(struct({"status": {"const": "ready"}}))),
        (503, json(struct({"status": {"enum": ["draining", "not ready"]}}))),
    ),
    "/": _open((200, {"text/html": STRING})),
    "/console": _open((200, {"text/html": STRING})),
    "/static/{name}": Operation(
        tag=ANYONE, answers={200: {"*/*": {}}}, refused={404: ("not_found",)}
    ),
    "/ws/stats": _looking("stats"),
    "/metrics": Operation(
        tag=OPERATORS, security=("metrics", "operator"), answers={200: {"text/plain": STRING}},
        refused=_OPERATOR,
    ),
    "/ws/ticket": Operation(
        tag=USERS, security=_BEARER,
        body=closed({"modes": nullable({"type": "array", "items": {"enum": list(Mode)}})}),
        answers={201: json(struct(
            {"ticket": STRING, "expires_in_seconds": {"const": TICKET_SECONDS}}))},
        refused=together(_USER, _BODY, {400: ("invalid_modes",)}),
    ),
    f"{PREFIX}/messages": Operation(
        tag=USERS, security=_BEARER, headers=(_RESUMES,),
        body=closed({"id": nullable(ID), **MESSAGE["properties"], **_OF_PLACE},
                    {"content": CONTENT}),
        answers={
            200: {"text/event-stream": SENT},  # for who accepts that: the run itself
            202: json(REPLIES["run_accepted"]),
        },
        refused=together(_USER, _BODY, _PLACE, _STREAMED, {
            400: ("bad_frame", "id_required"), 403: ("not_allowed",),
            404: ("unknown_agent", "run_not_found"),
            429: ("rate_limited", "queue_full"),
        }),
        then=_RUN_PATHS,
    ),
    f"{PREFIX}/runs/{{id}}": _reading("run", together(_USER, _RUN_OF)),
    f"{PREFIX}/runs/{{id}}/stop": Operation(
        tag=USERS, security=_BEARER, body=closed({}),
        answers={202: json(struct({"run_id": ID}))}, refused=together(_USER, _BODY, _RUN_OF),
    ),
    f"{PREFIX}/runs/{{id}}/input": Operation(
        tag=USERS, security=_BEARER, body=closed({}, {"request_id": ID, "content": {}}),
        answers={202: json(struct({"run_id": ID}))},
        refused=together(_USER, _BODY, _RUN_OF, {403: ("not_allowed",)}),
    ),
    f"{PREFIX}/history": _reading(
        "history",
        together(_USER, _PLACE, {
            400: ("invalid_after", "invalid_limit", "thread_id_required"), 404: ("run_not_found",),
        }),
        limit=LIMIT, **_IN_QUERY,
    ),
    f"{PREFIX}/threads": _reading(
        "threads", together(_USER, {400: ("invalid_limit",)}), limit=LIMIT
    ),
    f"{PREFIX}/threads/{{id}}": _reading(
        "thread", together(_USER, _PLACE, {404: ("not_found",)}),
        mode={"enum": [Mode.MAIN, Mode.FACTORY]},
    ),
    f"{PREFIX}/events": Operation(
        tag=WORKERS, security=("worker",),
        body=closed(
            {
                "tenant": nullable(ID), "fence": nullable({"type": "integer"}),
                "open": nullable(closed(
                    {
                        "thread_id": nullable(ID), "scope": nullable({"enum": list(SCOPES)}),
                        "content": {}, "metadata": nullable(OBJECT), "parent_run_id": nullable(ID),
                        "worker": nullable(ID),
                    },
                    {"agent_name": ID},
                )),
                "events": nullable({"type": "array", "maxItems": MAX_EVENTS, "items": closed(
                    {"seq": nullable(POSITIVE), "payload": OBJECT}, {"type": STRING})}),
            },
            {"run_id": ID, "user_id": ID},
        ),
        answers={200: json(ref("published")), 201: json(ref("published"))},
        refused=together(_CALL, _BODY, {
            400: ("bad_event", "invalid_run_id", "invalid_user_id", "invalid_tenant",
                  "invalid_agent_name", "invalid_thread_id", "invalid_scope",
                  "invalid_parent_run_id", "invalid_worker"),
            401: ("unauthorized",), 403: ("worker_key_required",), 404: ("run_not_found",),
            409: ("lifecycle_violation", "seq_gap", "offset_gap", "run_exists", "fenced",
                  "run_closed"),
            413: ("too_large", "too_many_events"),
        }),
    ),
    f"{AI_SDK}/{{agent}}": Operation(
        tag=USERS, security=_BEARER, query=_OF_CHAT,
        body=struct(
            {"id": ID, "messages": {"type": "array", "items": {"type": "object"}, "minItems": 1}},
            {"trigger": {"enum": list(TRIGGERS)}, "messageId": STRING},
        ),
        answers={200: {"text/event-stream": SENT}},
        refused=together(_CHAT, _STREAMED, {
            400: ("bad_body", "bad_frame"), 403: ("not_allowed",),
            404: ("unknown_agent", "run_not_found"), 413: ("message_too_large",),
            429: ("rate_limited", "queue_full"),
        }),
    ),
    f"{AI_SDK}/{{agent}}/ws": Operation(
        tag=USERS, security=("token", "ticket"),
        query={**_OF_CHAT, "abort": {"enum": list(ABORTS)}}, answers={101: {}},
        refused=together(_CHAT, _SEATED, {
            400: ("invalid_abort",), 401: ("query_token_not_allowed",), 426: ("upgrade_required",),
        }),
    ),
    f"{AI_SDK}/{{agent}}/{{id}}/stream": Operation(
        tag=USERS, security=_BEARER, query={**_OF_CHAT, "run_id": ID},
        answers={200: {"text/event-stream": SENT}, 204: {}},
        refused=together(_CHAT, _STREAMED, {
            403: ("not_allowed",), 404: ("run_not_found", "not_found"),
        }),
    ),
    f"{AI_SDK}/{{agent}}/{{id}}/stop": Operation(
        tag=USERS, security=_BEARER, query=_OF_CHAT, body=closed({}),
        answers={202: json(struct({"run_ids": {"type": "array", "items": ID}}))},
        refused=together(_CHAT, _BODY, {404: ("run_not_found", "not_found")}),
    ),
    f"{AGUI}/{{agent}}": Operation(
        tag=USERS, security=_BEARER, query=_AGUI_PLACE, headers=(_RESUMES,),
        body=struct(
            {"threadId": ID, "runId": ID,
             "messages": {"type": "array", "items": struct({"role": STRING})}},
            {"resume": {"type": "array", "maxItems": MOST_ANSWERS, "items": struct(
                {"interruptId": STRING, "status": {"enum": ["resolved", "cancelled"]}})},
             "parentRunId": nullable(ID)},
        ),
        answers={200: {"text/event-stream": SENT}},
        refused=together(_USER, _BODY, _PLACE, _STREAMED, {
            400: ("bad_frame",), 403: ("not_allowed",), 404: ("unknown_agent", "run_not_found"),
            429: ("rate_limited", "queue_full"),
        }),
    ),
    f"GET {AGUI}/{{agent}}": Operation(
        tag=USERS, security=_BEARER, headers=(_RESUMES,),
        query={"threadId": ID, "runId": ID, **_AGUI_PLACE,
               **{name: STRING for name in NAMES if name not in ("threadId", "runId")}},
        answers={200: {
            **json(struct({"messages": {"type": "array"}, "activeRun": {}, "interrupts": {}})),
            "text/event-stream": SENT,  # with runId
        }},
        refused=together(_USER, _PLACE, _STREAMED, {
            400: ("thread_id_required",), 403: ("not_allowed",),
            404: ("run_not_found", "not_found"),
        }),
    ),
    f"{ADMIN}/nodes": _looking("nodes"),
    f"{ADMIN}/agents": _looking("agents"),
    f"{ADMIN}/workers": _looking("workers"),
    f"{ADMIN}/connections/slow": _looking("slow"),
    f"{ADMIN}/runs": _operating(
        "runs", {400: ("invalid_page", "invalid_run_id")},
        after={"type": "string", "pattern": f"^{PLACE}$"},
        limit={"type": "integer", "minimum": 1, "maximum": MOST_RUNS}, run_id=ID,
    ),
    f"{ADMIN}/users/{{user_id}}/runs/{{run_id}}": _operating(
        "run_seen", {400: ("invalid_after", "invalid_user_id", "invalid_tenant"),
                     404: ("run_not_found", "not_found")},
        tenant=ID, after=CURSOR,
    ),
    f"{ADMIN}/users/{{user_id}}/runs/{{run_id}}/stop": _ordering(
        "run_order", closed(_TENANT),
        {400: ("invalid_user_id", "invalid_tenant"), 404: ("run_not_found", "not_found")},
    ),
    f"{ADMIN}/limits": _looking("limits"),
    f"{ADMIN}/audit": _looking("audit", before=CURSOR, limit={"type": "integer"}),
    f"{ADMIN}/users/{{user_id}}/disconnect": _ordering(
        "order", closed(_TENANT),
        {400: ("invalid_user_id", "invalid_tenant"), 404: ("not_found",)},
    ),
    f"{ADMIN}/revocations": _ordering(
        "revocation",
        {**closed({**_TENANT, "user_id": nullable(ID), "jti": nullable(ID),
                   "issued_before": nullable(NUMBER)}),
         "oneOf": [
             struct({"user_id": ID}, {"jti": {"type": "null"}}),
             struct({"jti": ID}, {"user_id": {"type": "null"}, "issued_before": False}),
         ]},
        {400: ("invalid_user_id", "invalid_jti", "invalid_tenant", "invalid_issued_before")},
    ),
    f"{ADMIN}/nodes/{{node_id}}/drain": _ordering(
        "order", closed(_REASON), {404: ("node_not_found", "not_found")}
    ),
}  # fmt: skip
"""Path → what it is; all WebSocket paths are that of ``/ws``. Where a path's ``GET`` is something
else than its ``POST``, it has its method in its name."""
