"""What the gateway's HTTP paths answer, by the names that bodies have in the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, get_args

from broker.channels import Level, Mode, Scope
from broker.events import LIFECYCLE, STATUSES
from broker.lifecycle import State
from broker.limits import LIMITS
from broker.redis.records import OnBusy
from docs.schema_frames import (
    BOOLEAN,
    COUNT,
    CURSOR,
    ID,
    OBJECT,
    POSITIVE,
    PROBLEM,
    RESYNC_REASONS,
    STRING,
    TIMESTAMP,
    Schema,
    nullable,
    ref,
    struct,
)
from gateway.connection import PROTOCOL
from gateway.history import MOST
from gateway.stats import TENANT_FIGURES

NUMBER: Final[Schema] = {"type": "number", "minimum": 0}
COUNTS: Final[Schema] = {"type": "object", "additionalProperties": COUNT}

_CHECK: Final = struct({"ok": BOOLEAN, "detail": STRING})
_RUN: Final = struct(
    {
        "run_id": ID, "thread_id": ID, "agent_name": STRING, "state": {"enum": list(State)},
        "status": {"enum": [*STATUSES, None]}, "attempt": COUNT, "created_at": nullable(TIMESTAMP),
        "started_at": nullable(TIMESTAMP), "completed_at": nullable(TIMESTAMP), "text": STRING,
    }
)  # fmt: skip
_LATENCY: Final = struct(dict.fromkeys(("p50", "p95", "p99"), nullable(NUMBER)))
_NODE: Final = struct({
    "node_id": STRING, "reported_at": TIMESTAMP, "uptime_seconds": NUMBER, "version": STRING,
    "ready": BOOLEAN, "draining": BOOLEAN,
    "connections": struct({"total": COUNT, "by_mode": COUNTS}),
    "events": COUNTS, "latency_ms": _LATENCY, "slow": COUNT, "unsent_bytes": COUNT,
})  # fmt: skip
_NODES: Final[Schema] = {"type": "array", "items": _NODE}
_RUN_SEEN: Final = struct({
    "run_id": STRING, "tenant": STRING, "user_id": STRING, "thread_id": STRING,
    "scope": {"enum": list(Scope)}, "agent_name": STRING, "state": {"enum": list(State)},
    "status": {"enum": [*STATUSES, None]}, "attempt": COUNT, "worker_id": nullable(STRING),
    "events": COUNT, "missing": {"type": "array", "items": {"enum": list(LIFECYCLE)}},
    "stop_requested": BOOLEAN, "held": BOOLEAN, "created_at": TIMESTAMP,
    "started_at": nullable(TIMESTAMP), "completed_at": nullable(TIMESTAMP),
})  # fmt: skip
_FIGURES: Final = struct(
    {"by_tenant": {"type": "object", "additionalProperties": struct(
        dict.fromkeys(TENANT_FIGURES, COUNT))}, "uptime_seconds": NUMBER},
    {
        "connections": struct({"total": COUNT, "by_mode": COUNTS}),
        "events": struct(dict.fromkeys(
            ("published", "delivered", "replayed", "repaired", "resyncs", "isolation_violations"),
            COUNT,
        )),
        "runs": struct({
            "by_state": COUNTS, "by_status": COUNTS,
            "by_agent": {"type": "object", "additionalProperties": struct(
                dict.fromkeys(("total", "incomplete", "abandoned"), COUNT))},
        }),
        "latency_ms": _LATENCY,
        "latency_buckets": {"type": "array", "items": {
            "type": "array", "items": NUMBER, "minItems": 2, "maxItems": 2}},
        "refused": COUNTS,
        "webhooks": COUNTS,
    },
)  # fmt: skip
_RESYNC: Final = struct({"reason": {"enum": list(RESYNC_REASONS)}, "from": CURSOR})
_SAID: Final = {
    "id": CURSOR, "run_id": ID, "agent_name": STRING, "timestamp": TIMESTAMP, "content": {},
}  # fmt: skip

SCHEMAS: Final[Mapping[str, Schema]] = {
    "problem": struct(
        {"type": STRING, "title": STRING, "status": {"type": "integer"}, "code": STRING,
         "detail": STRING},
        {"index": COUNT, "expected_seq": POSITIVE, "expected_offset": COUNT},
    ),
    "published": struct({
        "run_id": ID, "thread_id": ID, "fence": COUNT, "state": {"enum": list(State)},
        "next_seq": POSITIVE, "next_offset": COUNT, "stop_requested": BOOLEAN,
        "answers": OBJECT, "lease_seconds": NUMBER,
        "events": {"type": "array", "items": {"oneOf": [
            struct({"seq": POSITIVE, "id": nullable(CURSOR)}), struct({"next": POSITIVE})]}},
    }),
    "health": struct(
        {
            "status": {"enum": ["healthy", "degraded", "draining", "unhealthy"]},
            "checks": {**struct({"redis": _CHECK, "pubsub": _CHECK, "sweeper": _CHECK}),
                       "additionalProperties": _CHECK},
            "version": STRING, "uptime_seconds": NUMBER, "timestamp": TIMESTAMP,
        }
    ),
    "config": struct(
        {
            "protocol": {"const": PROTOCOL}, "version": STRING,
            "modes": {"type": "array", "items": {"enum": list(Mode)}},
            "isolation_levels": {"type": "array", "items": {"enum": list(Level)}},
            "endpoints": struct(
                dict.fromkeys(("websocket", "health", "stats", "ticket"), STRING)
            ),
            "authentication": struct({
                "required": {"const": True},
                "token_places": {"type": "array", "items": {
                    "enum": ["authorization", "subprotocol", "ticket", "query"]}},
                "algorithms": {"type": "array", "items": STRING, "minItems": 1},
            }),
            "limits": struct(dict.fromkeys(
                ("max_message_bytes", "max_event_bytes",
                 *(limit.setting for limit in LIMITS.values())), COUNT,
            )),
            "history": struct({"events": POSITIVE, "ttl_seconds": POSITIVE}),
            "heartbeat_seconds": NUMBER, "default_agent": {"type": ["string", "null"]},
            "open_stats": BOOLEAN,
        }
    ),
    "stats": struct({
        "gateway": _FIGURES,
        "fleet": {"allOf": [_FIGURES, struct({"nodes": POSITIVE})]},
    }),
    "run": _RUN,
    "history": struct(
        {"events": {"type": "array", "items": ref("event"), "maxItems": MOST}, "cursor": CURSOR,
         "more": BOOLEAN},
        {"resync": _RESYNC},
    ),
    "threads": struct({"threads": {"type": "array", "items": struct(
        {"thread_id": ID, "used_at": TIMESTAMP})}}),
    "thread": struct({
        "thread_id": ID, "cursor": CURSOR,
        "messages": {"type": "array", "items": {"oneOf": [
            struct({"role": {"const": "user"}, **_SAID, "message_id": ID}),
            struct({"role": {"const": "agent"}, **_SAID, "status": {"enum": list(STATUSES)}},
                   {"error": nullable(PROBLEM)}),
        ]}},
        "runs": {"type": "array", "items": {"allOf": [
            ref("run"), struct({"events": {"type": "array", "items": ref("event")}})]}},
    }),
    "nodes": struct({"nodes": _NODES, "gone": _NODES}),
    "agents": struct({"agents": {"type": "array", "items": struct({
        "name": STRING, "retries": COUNT, "require_all_events": BOOLEAN,
        "on_busy": {"enum": list(get_args(OnBusy))},
        "timeout_seconds": nullable(NUMBER), "waiting": COUNT,
        "oldest_waiting_seconds": nullable(NUMBER),
        **dict.fromkeys(("workers", "capacity", "running"), COUNT),
    })}}),
    "workers": struct({"workers": {"type": "array", "items": struct({
        "worker_id": STRING, "reported_at": TIMESTAMP, "silent": BOOLEAN, "concurrency": COUNT,
        "busy": COUNT, "running": COUNTS,
    })}}),
    "slow": struct({"connections": {"type": "array", "items": struct({
        "node_id": STRING, "connection_id": STRING, "tenant": STRING, "user_id": STRING,
        "mode": {"enum": list(Mode)}, "transport": STRING, "unsent_bytes": COUNT,
        "lagging": BOOLEAN, "since": TIMESTAMP,
    })}}),
    "runs": struct({
        "runs": {"type": "array", "items": _RUN_SEEN}, "after": nullable(STRING),
        "total": nullable(COUNT),
    }),
    "run_seen": struct({
        "run": _RUN_SEEN,
        "events": {"type": "array", "items": struct(
            {"type": STRING, "id": CURSOR, "at": TIMESTAMP})},
        "cursor": CURSOR, "more": BOOLEAN,
    }),
    "run_order": struct({"id": CURSOR, "at": TIMESTAMP, "run_id": ID}),
    "limits": struct({
        "user": struct(dict.fromkeys(LIMITS, COUNT)),
        "tenants": {"type": "object", "additionalProperties": {
            **struct({"user": COUNTS}), "additionalProperties": COUNT}},
    }),
    "audit": struct({
        "entries": {"type": "array", "items": struct({"id": CURSOR, "at": TIMESTAMP})},
        "before": nullable(CURSOR),
    }),
    "order": struct({"id": CURSOR, "at": TIMESTAMP}),
    "revocation": struct(
        {"id": CURSOR, "at": TIMESTAMP, "remembered_until": TIMESTAMP},
        {"issued_before": TIMESTAMP},
    ),
}  # fmt: skip
