"""Runs of anybody, for operators (protocol section 7): list, find, watch, stop.

An operator whose token names a tenant finds that tenant's alone; what is another's is not there.
"""

from __future__ import annotations

import re
from typing import Any, Final

import orjson
from aiohttp import web

from broker import cursor
from broker.channels import Owner, encode_id
from broker.cursor import Cursor
from broker.errors import RunNotFound
from broker.events import timestamp
from broker.lifecycle import missing
from broker.redis.inspection import Place, RunSeen
from broker.redis.log import PAGE
from broker.redis.orders import Order, Verb
from gateway.admin import PREFIX, asked, given, reason_of, tenant_of
from gateway.bodies import read_object
from gateway.handshake import BadRequest, named_id
from gateway.http_api import json_response
from gateway.node import Node
from gateway.operators import Operator
from gateway.run_view import event_view

MOST_RUNS: Final = 500
RUNS: Final = 100
"""Of a page, unless asked for otherwise."""

MOST_PAGES: Final = 8
"""Of a log for one answer: a run is watched in steps, and its user's log may be long."""

PLACE: Final = "([0-9]{1,9})[.]([0-9]{1,20})"
"""A regular expression of where a page ended."""


async def runs(request: web.Request) -> web.Response:
    """``GET runs?after&limit`` or ``?run_id``: runs in flight, a page; or those of an id."""
    node, operator = await asked(request)
    query = request.query
    if "run_id" in query:
        found = await node.broker.runs_called(named_id("run_id", query["run_id"]))
        return json_response({"runs": _of(operator, found), "after": None, "total": None})
    at, most = _page(node, query.get("after"), query.get("limit"))
    found, place, total = await node.broker.open_page(at, most=most)
    return json_response(
        {
            "runs": _of(operator, found),
            "after": None if place is None else f"{place.partition}.{place.cursor}",
            "total": total if operator.tenant is None else None,
        }
    )


async def run(request: web.Request) -> web.Response:
    """``GET users/{user_id}/runs/{run_id}?tenant&after``: a run, its events, no contents."""
    node, operator = await asked(request)
    owner = _owner(request, operator, dict(request.query))
    try:
        after = cursor.parse(request.query.get("after", str(cursor.ZERO)))
    except ValueError:
        raise BadRequest("invalid_after", "after is the cursor of the page before") from None
    found = await _found(node, owner, request)
    events, position, more = await _timeline(node, found, after)
    return json_response(
        {"run": _row(found), "events": events, "cursor": str(position), "more": more}
    )


async def stop(request: web.Request) -> web.Response:
    """``POST users/{user_id}/runs/{run_id}/stop``: ask the run to stop, as its user could."""
    node, operator = await asked(request)
    fields = await read_object(request, "tenant", "reason")
    owner = _owner(request, operator, fields)
    found = await _found(node, owner, request)
    order = Order(
        verb=Verb.STOP,
        by=operator.name,
        tenant=owner.tenant,
        user_id=owner.user,
        run_id=found.run_id,
        reason=reason_of(fields),
    )
    answer = await given(node, order, run_id=found.run_id)
    await node.commands.stop(owner, found.run_id)
    return answer


ROUTES: Final = (
    ("GET", f"{PREFIX}/runs", runs),
    ("GET", f"{PREFIX}/users/{{user_id:[^/]+}}/runs/{{run_id:[^/]+}}", run),
    ("POST", f"{PREFIX}/users/{{user_id:[^/]+}}/runs/{{run_id:[^/]+}}/stop", stop),
)
"""Method, path, handler."""


def _of(operator: Operator, found: list[RunSeen]) -> list[dict[str, Any]]:
    return [_row(each) for each in found if operator.tenant in (None, each.owner.tenant)]


def _row(run: RunSeen) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "tenant": run.owner.tenant,
        "user_id": run.owner.user,
        "thread_id": run.thread_id,
        "scope": run.channel.scope.value,
        "agent_name": run.agent,
        "state": run.state.value,
        "status": run.status,
        "attempt": run.attempt,
        "worker_id": run.worker,
        "events": run.events,
        "missing": missing(run.sent),
        "stop_requested": run.stop_requested,
        "held": run.held,
        "created_at": timestamp(run.created_ms),
        "started_at": _moment(run.started_ms),
        "completed_at": _moment(run.completed_ms),
    }


def _owner(request: web.Request, operator: Operator, fields: dict[str, Any]) -> Owner:
    return Owner(tenant_of(operator, fields), named_id("user_id", request.match_info["user_id"]))


async def _found(node: Node, owner: Owner, request: web.Request) -> RunSeen:
    try:
        return await node.broker.run_seen(owner, request.match_info["run_id"])
    except RunNotFound as refused:
        raise BadRequest("run_not_found", str(refused), status=404) from None


def _page(node: Node, after: str | None, limit: str | None) -> tuple[Place | None, int]:
    place = re.fullmatch(PLACE, "0.0" if after is None else after)
    most = str(RUNS) if limit is None else limit
    if place is None or int(place[1]) >= node.keys.partitions or int(place[2]) >= 1 << 64:
        raise BadRequest("invalid_page", "after is that of the page before")
    if re.fullmatch("[0-9]{1,9}", most) is None or not 1 <= int(most) <= MOST_RUNS:
        raise BadRequest("invalid_page", f"limit is a number from 1 to {MOST_RUNS}")
    return Place(int(place[1]), int(place[2])), int(most)


async def _timeline(
    node: Node, found: RunSeen, after: Cursor
) -> tuple[list[dict[str, Any]], Cursor, bool]:
    """The run's events after a cursor, where that has led, and whether there may be more.

    Its channel may be that of all of its user's runs: nothing before it was made is looked at.
    """
    position = max(after, Cursor(max(0, found.created_ms - 1), 0))
    mine, theirs = encode_id(found.run_id).encode(), found.owner.token.encode()
    events: list[dict[str, Any]] = []
    for _ in range(MOST_PAGES):
        entries, end = await node.broker.read(found.channel, position, most=PAGE)
        for entry in entries:
            position = entry.cursor
            if entry.run == mine and entry.owner == theirs:
                events.append(event_view(orjson.loads(entry.text())))
        if end:
            return events, position, False
    return events, position, True


def _moment(epoch_ms: int | None) -> str | None:
    return None if epoch_ms is None else timestamp(epoch_ms)
