"""Health, configuration and figures over HTTP (protocol section 7). Every one is measured."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final

import orjson
import structlog
from aiohttp import web
from multidict import MultiMapping
from redis.exceptions import ResponseError

from broker.channels import Level, Mode
from broker.errors import BrokerUnavailable
from broker.events import timestamp
from broker.limits import LIMITS
from gateway.connection import PROTOCOL
from gateway.node import Node
from gateway.operators import operator_of
from gateway.proxies import UNKNOWN, Client, Proxies
from gateway.stats import TENANT_FIGURES, Latency, runs_view, summed, summed_by_tenant
from gateway.upgrade import VERSION
from gateway.version import product_version

log = structlog.get_logger(__name__)

PING_SECONDS: Final = 1.0

NODE: Final = web.AppKey("node", Node)
OPEN_STATS: Final = web.AppKey("open_stats", bool)
"""Whether figures are open to anyone on this machine (the demo)."""
PROXIES: Final = web.AppKey("proxies", Proxies)


def client_of(
    proxies: Proxies, transport: asyncio.BaseTransport, headers: MultiMapping[str]
) -> Client:
    """Who sent the request with these headers, as far as proxies that are trusted tell."""
    peer = transport.get_extra_info("peername")
    secure = transport.get_extra_info("ssl_object") is not None
    return proxies.client(str(peer[0]) if peer else UNKNOWN, headers, secure=secure)


def json_response(body: Mapping[str, Any], *, status: int = 200) -> web.Response:
    """A JSON body that nobody caches."""
    return web.Response(
        body=orjson.dumps(body),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    retry_after_seconds: int = 1,
    more: Mapping[str, object] | None = None,
) -> web.Response:
    """A refusal (RFC 9457) with our ``code``; 429 and 503 say after how long to come again."""
    headers = {"Cache-Control": "no-store"}
    if status == web.HTTPUnauthorized.status_code:
        headers["WWW-Authenticate"] = "Bearer"
    if status in (429, 503):
        headers["Retry-After"] = str(retry_after_seconds)
    if status == web.HTTPUpgradeRequired.status_code:
        headers |= {"Upgrade": "websocket", "Sec-WebSocket-Version": VERSION}
    return web.Response(
        body=orjson.dumps(
            {"type": "about:blank", "title": _title(status), "status": status, "code": code,
             "detail": detail, **(more or {})}
        ),
        status=status,
        content_type="application/problem+json",
        headers=headers,
    )  # fmt: skip


async def health(request: web.Request) -> web.Response:
    """200 while clients are served well enough, 503 otherwise, with the checks that say so."""
    node = request.app[NODE]
    checks = await _checks(node)
    if node.draining:
        status = "draining"
    elif not (checks["redis"]["ok"] and checks["pubsub"]["ok"]):
        status = "unhealthy"
    elif not all(check["ok"] for check in checks.values()):
        status = "degraded"
    else:
        status = "healthy"
    body = {
        "status": status,
        "checks": checks,
        "version": product_version(),
        "uptime_seconds": round(time.monotonic() - node.started, 3),
        "timestamp": timestamp(time.time_ns() // 1_000_000),
    }
    return json_response(body, status=200 if status in ("healthy", "degraded") else 503)


async def livez(request: web.Request) -> web.Response:
    """The process answers: its event loop turns."""
    del request
    return json_response({"status": "alive"})


async def readyz(request: web.Request) -> web.Response:
    """503 while this gateway cannot hear Redis, or drains."""
    node = request.app[NODE]
    if node.ready:
        return json_response({"status": "ready"})
    return json_response({"status": "draining" if node.draining else "not ready"}, status=503)


async def config(request: web.Request) -> web.Response:
    """The settings in effect that a client needs; nothing secret."""
    node = request.app[NODE]
    settings = node.settings
    places = ["authorization", "subprotocol", "ticket"]
    if settings.allow_query_token:
        places.append("query")
    return json_response(
        {
            "protocol": PROTOCOL,
            "version": product_version(),
            "modes": [mode.value for mode in Mode],
            "isolation_levels": [level.value for level in Level],
            "endpoints": {
                "websocket": "/ws",
                "health": "/ws/health",
                "stats": "/ws/stats",
                "ticket": "/ws/ticket",
            },
            "authentication": {
                "required": True,
                "token_places": places,
                "algorithms": list(node.verifier.algorithms),
            },
            "limits": {
                "max_message_bytes": settings.max_message_bytes,
                "max_event_bytes": settings.max_event_bytes,
                **{limit.setting: getattr(settings, limit.setting) for limit in LIMITS.values()},
            },
            "history": {
                "events": settings.history_events,
                "ttl_seconds": settings.history_ttl_seconds,
            },
            "heartbeat_seconds": settings.heartbeat_seconds,
            "default_agent": settings.default_agent,
            "open_stats": is_open(request),
        }
    )


def is_open(request: web.Request) -> bool:
    """Whether who asks may see the figures without a key: on this machine, with the demo."""
    if not request.app[OPEN_STATS] or request.transport is None:
        return False
    return client_of(request.app[PROXIES], request.transport, request.headers).local


async def stats(request: web.Request) -> web.Response:
    """Counters of this gateway and of the whole fleet; operators only, and no user ids.

    An operator of a tenant, by his token, sees that tenant's alone.
    """
    node, tenant = request.app[NODE], ""
    if not is_open(request):
        tenant = (await operator_of(node, request.headers)).tenant or ""
    try:
        reports = list((await node.reports()).values())
        if tenant:
            here, fleet = _of_tenant(reports[:1], tenant), _of_tenant(reports, tenant)
            return json_response({"gateway": here, "fleet": {**fleet, "nodes": len(reports)}})
        (states, published), ended = await asyncio.gather(
            node.broker.open_by_state(), node.broker.ended_by_agent()
        )
    except ResponseError as error:
        log.warning("figures_unreadable", why=str(error))
        return problem(503, "broker_unavailable", "Redis refused to tell; see the gateway's log.")
    runs = runs_view(ended, states)
    fleet = _figures(reports, runs)
    fleet["events"]["published"] = published + sum(
        count for name, count in ended.items() if name.endswith("\npublished")
    )
    return json_response(
        {"gateway": _figures(reports[:1], runs), "fleet": {**fleet, "nodes": len(reports)}}
    )


def _figures(reports: list[dict[str, Any]], runs: dict[str, Any]) -> dict[str, Any]:
    by_mode = summed(report["by_mode"] for report in reports)
    latency = Latency()
    for report in reports:
        latency.merge({int(at): count for at, count in report["latency"].items()})
    return {
        "connections": {"total": sum(by_mode.values()), "by_mode": by_mode},
        "events": summed(report["events"] for report in reports),
        "runs": runs,
        "latency_ms": latency.percentiles(),
        "latency_buckets": latency.buckets(),
        "refused": summed(report["refused"] for report in reports),
        "webhooks": summed(report["webhooks"] for report in reports),
        "by_tenant": summed_by_tenant(report["by_tenant"] for report in reports),
        "uptime_seconds": max(report["uptime_seconds"] for report in reports),
    }


def _of_tenant(reports: list[dict[str, Any]], tenant: str) -> dict[str, Any]:
    by_tenant = summed_by_tenant(report["by_tenant"] for report in reports)
    return {
        "by_tenant": {tenant: by_tenant.get(tenant, dict.fromkeys(TENANT_FIGURES, 0))},
        "uptime_seconds": max(report["uptime_seconds"] for report in reports),
    }


async def _checks(node: Node) -> dict[str, dict[str, Any]]:
    begun = time.monotonic()
    sweeper = None
    try:
        async with asyncio.timeout(PING_SECONDS):
            sweeper = await node.client.execute("GET", node.keys.sweeper)
    except (BrokerUnavailable, ResponseError, TimeoutError) as error:
        redis = {"ok": False, "detail": str(error) or "no answer within a second"}
    else:
        round_trip = round((time.monotonic() - begun) * 1000, 3)
        redis = {"ok": True, "detail": "answers", "round_trip_ms": round_trip}
    probe_ms = node.probe.round_trip_ms
    hearing = node.relay.subscriber.hearing and probe_ms is not None
    pubsub: dict[str, Any] = {
        "ok": hearing,
        "detail": "hears its own probe" if hearing else "does not hear its own probe",
        "probe_ms": round(node.probe.round_trip_ms, 3)
        if node.probe.round_trip_ms is not None
        else None,
        "reconnects": node.relay.subscriber.reconnects,
    }
    swept: dict[str, Any] = {
        "ok": sweeper is not None,
        "detail": "some gateway sweeps" if sweeper is not None else "no gateway sweeps",
    }
    checks = {"redis": redis, "pubsub": pubsub, "sweeper": swept}
    keys = node.verifier.health()
    return checks if keys is None else {**checks, "keys": keys}


def _title(status: int) -> str:
    return {
        400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found",
        405: "Method Not Allowed", 409: "Conflict", 413: "Content Too Large",
        426: "Upgrade Required", 429: "Too Many Requests", 503: "Service Unavailable",
    }.get(status, "Error")  # fmt: skip
