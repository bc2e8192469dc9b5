"""The operators' HTTP API (protocol section 7): who is there, and who has to go.

Every change is written into the audit log before it is confirmed; the gateways act by that log. An
operator whose token names a tenant sees and changes that tenant only.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import structlog
from aiohttp import web

from broker import cursor
from broker.events import timestamp
from broker.limits import EVERY_TENANT
from broker.redis.orders import Order, Verb
from gateway.bodies import read_object
from gateway.fleet import STALE_SECONDS
from gateway.handshake import BadRequest, named_id
from gateway.http_api import NODE, json_response
from gateway.node import Node
from gateway.operators import Operator, operator_of
from gateway.stats import Latency

log = structlog.get_logger(__name__)

PREFIX: Final = "/api/v1/admin"
MOST_ENTRIES: Final = 500
LONGEST_REASON: Final = 500


async def nodes(request: web.Request) -> web.Response:
    """``GET nodes``: every gateway that lives, with what it carries; and who fell silent."""
    node, _ = await asked(request, whole_fleet=True)
    live, gone = await asyncio.gather(node.reports(), node.fleet.gone())
    return json_response(
        {
            "nodes": [_shown(*each) for each in live.items()],
            "gone": [_shown(name.decode(errors="replace"), each) for name, each in gone.items()],
        }
    )


async def agents(request: web.Request) -> web.Response:
    """``GET agents``: every agent that workers have announced, its queue and who serves it."""
    node, _ = await asked(request, whole_fleet=True)
    known, told = await asyncio.gather(node.broker.agents(), node.broker.workers())
    queues = await node.broker.queues(list(known))
    now = time.time()
    serving = [each for each in told.values() if each.at > now - STALE_SECONDS]
    shown = []
    for name in sorted(known):
        queue, theirs = queues[name], [each for each in serving if name in each.running]
        age = None if queue.oldest_ms is None else round(max(0.0, now - queue.oldest_ms / 1000), 3)
        shown.append(
            {
                **asdict(known[name]),
                "waiting": queue.length,
                "oldest_waiting_seconds": age,
                "workers": len(theirs),
                "capacity": sum(each.concurrency for each in theirs),
                "running": sum(each.running[name] for each in theirs),
            }
        )
    return json_response({"agents": shown})


async def workers(request: web.Request) -> web.Response:
    """``GET workers``: what every worker said last; a silent one is lost, or without Redis."""
    node, _ = await asked(request, whole_fleet=True)
    fresh = time.time() - STALE_SECONDS
    shown = [
        {
            "worker_id": name,
            "reported_at": timestamp(int(each.at * 1000)),
            "silent": each.at <= fresh,
            "concurrency": each.concurrency,
            "busy": sum(each.running.values()),
            "running": each.running,
        }
        for name, each in sorted((await node.broker.workers()).items())
    ]
    return json_response({"workers": shown})


async def slow(request: web.Request) -> web.Response:
    """``GET connections/slow``: those that do not take what they are sent, the worst first.

    As the gateways reported them: a few seconds late, and of each the fifty worst.
    """
    node, operator = await asked(request)
    found = [
        {"node_id": node_id, **row, "since": timestamp(int(row["since"] * 1000))}
        for node_id, report in (await node.reports()).items()
        for row in report["slow"]["connections"]
        if operator.tenant in (None, row["tenant"])
    ]
    found.sort(key=lambda each: each["unsent_bytes"], reverse=True)
    return json_response({"connections": found})


async def limits(request: web.Request) -> web.Response:
    """``GET limits``: what a user may have, and what the tenants' rows say (an operator's own)."""
    node, operator = await asked(request)
    tenants = {
        name: {**row.shared, "user": dict(row.user)}
        for name, row in node.settings.tenant_limits.items()
        if operator.tenant is None or name in (operator.tenant, EVERY_TENANT)
    }
    return json_response({"user": asdict(node.admission.policy.of("", {})), "tenants": tenants})


async def audit(request: web.Request) -> web.Response:
    """``GET audit?before&limit``: what operators did, newest first."""
    node, operator = await asked(request)
    before, most = _page(request.query)
    given = await node.broker.newest_orders(before=before, most=most)
    shown = [
        each.view()
        for each in given
        if operator.tenant is None
        or (each.order is not None and each.order.tenant == operator.tenant)
    ]
    last = str(given[-1].id) if len(given) == most else None
    return json_response({"entries": shown, "before": last})


async def disconnect(request: web.Request) -> web.Response:
    """``POST users/{user_id}/disconnect``: close the user's sockets everywhere with 1001."""
    node, operator = await asked(request)
    fields = await read_object(request, "tenant", "reason")
    order = Order(
        verb=Verb.DISCONNECT,
        by=operator.name,
        tenant=tenant_of(operator, fields),
        user_id=named_id("user_id", request.match_info["user_id"]),
        reason=reason_of(fields),
    )
    return await given(node, order)


async def revoke(request: web.Request) -> web.Response:
    """``POST revocations``: a user's tokens up to a moment, or one token, count no more."""
    node, operator = await asked(request)
    fields = await read_object(request, "tenant", "reason", "user_id", "jti", "issued_before")
    user_id, jti = _id_in(fields, "user_id"), _id_in(fields, "jti")
    if (user_id is None) == (jti is None):
        raise BadRequest("bad_body", "name either user_id or jti")
    if jti is not None and "issued_before" in fields:
        raise BadRequest("bad_body", "issued_before belongs to user_id: a jti is one token")
    order = Order(
        verb=Verb.REVOKE,
        by=operator.name,
        tenant=tenant_of(operator, fields),
        user_id=user_id,
        jti=jti,
        issued_before_ms=None if jti is not None else _issued_before_ms(fields),
        reason=reason_of(fields),
    )
    settings = node.settings
    ttl_seconds = settings.jwt_max_age_seconds + settings.jwt_leeway_seconds + 1
    # First what keeps the token out, then what closes its sockets: clients come back at once.
    before_ms = await node.broker.revoke(order, ttl_seconds=ttl_seconds)
    until = timestamp(int((time.time() + ttl_seconds) * 1000))
    told = {"remembered_until": until}
    if user_id is not None:
        told["issued_before"] = timestamp(before_ms)
    return await given(node, order, **told)


async def drain(request: web.Request) -> web.Response:
    """``POST nodes/{node_id}/drain``: that gateway sends its clients away and takes no more."""
    node, operator = await asked(request, whole_fleet=True)
    fields = await read_object(request, "reason")
    node_id = request.match_info["node_id"]
    if node_id not in await node.reports():
        raise BadRequest("node_not_found", "GET nodes lists those that live", status=404)
    order = Order(verb=Verb.DRAIN, by=operator.name, node_id=node_id, reason=reason_of(fields))
    return await given(node, order)


ROUTES: Final = (
    ("GET", f"{PREFIX}/nodes", nodes),
    ("GET", f"{PREFIX}/agents", agents),
    ("GET", f"{PREFIX}/workers", workers),
    ("GET", f"{PREFIX}/connections/slow", slow),
    ("GET", f"{PREFIX}/limits", limits),
    ("GET", f"{PREFIX}/audit", audit),
    ("POST", f"{PREFIX}/users/{{user_id:[^/]+}}/disconnect", disconnect),
    ("POST", f"{PREFIX}/revocations", revoke),
    ("POST", f"{PREFIX}/nodes/{{node_id:[^/]+}}/drain", drain),
)
"""Method, path, handler."""


async def asked(request: web.Request, *, whole_fleet: bool = False) -> tuple[Node, Operator]:
    """The gateway that is asked, and who asks; refused as :func:`operator_of` does."""
    node = request.app[NODE]
    operator = await operator_of(node, request.headers)
    if whole_fleet and operator.tenant is not None:
        raise BadRequest("operator_required", "for an operator of the whole fleet", status=403)
    return node, operator


async def given(node: Node, order: Order, **told: Any) -> web.Response:
    """Put the order on record, and confirm it."""
    entry = await node.broker.give(order)
    log.info("order_given", verb=order.verb, by=order.by, id=str(entry))
    return json_response({"id": str(entry), "at": timestamp(entry.ms), **told}, status=202)


def tenant_of(operator: Operator, fields: Mapping[str, Any]) -> str:
    """The tenant that is meant: the operator's own, or the one that he names."""
    named = _id_in(fields, "tenant")
    if operator.tenant is None:
        return named or ""
    if named not in (None, operator.tenant):
        raise BadRequest("not_allowed", "an operator of another tenant", status=403)
    return operator.tenant


def _page(query: Mapping[str, str]) -> tuple[cursor.Cursor | None, int]:
    before = query.get("before")
    try:
        most = int(query.get("limit", "100"))
        return None if before is None else cursor.parse(before), max(1, min(most, MOST_ENTRIES))
    except ValueError:
        raise BadRequest("invalid_page", "before is an entry's id, limit a number") from None


def _shown(node_id: str, report: Mapping[str, Any]) -> dict[str, Any]:
    latency = Latency({int(at): count for at, count in report["latency"].items()})
    return {
        "node_id": node_id,
        "reported_at": timestamp(int(report["at"] * 1000)),
        "uptime_seconds": report["uptime_seconds"],
        "version": report["version"],
        "ready": report["ready"],
        "draining": report["draining"],
        "connections": {"total": sum(report["by_mode"].values()), "by_mode": report["by_mode"]},
        "events": report["events"],
        "latency_ms": latency.percentiles(),
        "slow": report["slow"]["total"],
        "unsent_bytes": report["slow"]["unsent_bytes"],
    }


def _id_in(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    return None if value is None else named_id(name, value)


def reason_of(fields: Mapping[str, Any]) -> str | None:
    """Why he does it, in his words."""
    value = fields.get("reason")
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > LONGEST_REASON:
        raise BadRequest("invalid_reason", f"a text of at most {LONGEST_REASON} characters")
    return value


def _issued_before_ms(fields: Mapping[str, Any]) -> int:
    """Given in seconds since 1970, like a token's ``iat``; absent: now."""
    value, now = fields.get("issued_before"), time.time()
    if value is None:
        value = now
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= now:
        raise BadRequest("invalid_issued_before", "seconds since 1970, and not in the future")
    return int(value * 1000)
