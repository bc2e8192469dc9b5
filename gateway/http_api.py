"""Health, configuration and figures over HTTP (protocol section 7). Every one is measured."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import orjson
import structlog
from aiohttp import web
from multidict import MultiMapping
from redis.exceptions import ResponseError

from broker.channels import Level, Mode
from broker.errors import BrokerUnavailable
from broker.events import timestamp
from gateway.node import Node
from gateway.proxies import UNKNOWN, Client, Proxies
from gateway.stats import Latency, runs_view, summed
from gateway.websocket import PROTOCOL

log = structlog.get_logger(__name__)

PING_SECONDS: Final = 1.0

NODE: Final = web.AppKey("node", Node)
OPEN_STATS: Final = web.AppKey("open_stats", bool)
"""Whether ``/ws/stats`` is open to anyone on this machine (the demo)."""
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


def problem(status: int, code: str, detail: str) -> web.Response:
    """A refusal (RFC 9457) with our ``code``."""
    headers = {"Cache-Control": "no-store"}
    if status == web.HTTPUnauthorized.status_code:
        headers["WWW-Authenticate"] = "Bearer"
    if status in (429, 503):
        headers["Retry-After"] = "1"
    if status == web.HTTPUpgradeRequired.status_code:
        headers["Upgrade"] = "websocket"
    return web.Response(
        body=orjson.dumps(
            {"type": "about:blank", "title": _title(status), "status": status, "code": code,
             "detail": detail}
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
    places = ["authorization", "subprotocol"]
    if settings.allow_query_token:
        places.append("query")
    return json_response(
        {
            "protocol": PROTOCOL,
            "version": product_version(),
            "modes": [mode.value for mode in Mode],
            "isolation_levels": [level.value for level in Level],
            "endpoints": {"websocket": "/ws", "health": "/ws/health", "stats": "/ws/stats"},
            "authentication": {
                "required": True,
                "token_places": places,
                "algorithms": list(node.verifier.algorithms),
            },
            "limits": {
                "max_message_bytes": settings.max_message_bytes,
                "max_event_bytes": settings.max_event_bytes,
                "max_connections_per_user": settings.max_connections_per_user,
                "messages_per_minute": settings.messages_per_minute,
            },
            "history": {
                "events": settings.history_events,
                "ttl_seconds": settings.history_ttl_seconds,
            },
            "heartbeat_seconds": settings.heartbeat_seconds,
            "default_agent": settings.default_agent,
        }
    )


async def stats(request: web.Request) -> web.Response:
    """Counters of this gateway and of the whole fleet; operators only, and no user ids."""
    node = request.app[NODE]
    transport, proxies = request.transport, request.app[PROXIES]
    client = None if transport is None else client_of(proxies, transport, request.headers)
    if not (request.app[OPEN_STATS] and client is not None and client.local):
        if "Authorization" not in request.headers:
            return problem(401, "unauthorized", "An operator token is required.")
        if not await node.verifier.is_operator(request.headers, time.time()):
            return problem(403, "operator_required", "An operator token is required.")
    try:
        reports = await node.reports()
        (states, published), ended = await asyncio.gather(
            node.broker.open_by_state(), node.broker.ended_by_agent()
        )
    except BrokerUnavailable:
        return problem(503, "broker_unavailable", "Redis cannot be reached; try again.")
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


def product_version() -> str:
    """The installed version; that of a checkout is ``0+checkout``."""
    try:
        return version("runcast")
    except PackageNotFoundError:
        return "0+checkout"


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
    return {"redis": redis, "pubsub": pubsub, "sweeper": swept}


def _title(status: int) -> str:
    return {
        400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found",
        405: "Method Not Allowed", 426: "Upgrade Required", 429: "Too Many Requests",
        503: "Service Unavailable",
    }.get(status, "Error")  # fmt: skip
