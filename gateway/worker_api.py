"""What a worker in any language does over HTTP (protocol section 7): the whole life of a run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

import orjson
from aiohttp import web
from multidict import MultiMapping

from broker.channels import Channel, Scope
from broker.composer import Composer, Moment
from broker.config import Settings
from broker.errors import (
    BrokerUnavailable,
    CallNotOpen,
    EventTooLarge,
    Fenced,
    RunClosed,
    RunExists,
    RunNotFound,
    SequenceGap,
)
from broker.lifecycle import Lifecycle, State
from broker.redis.broker import Broker
from broker.redis.holdings import Holding
from broker.redis.records import AgentSpec, Claim, RunRequest
from broker.trace_context import TraceContext
from gateway.auth import bears
from gateway.batch_plan import Bounds, Planning, refusal
from gateway.bodies import read_object
from gateway.commands import DEADLINE_SECONDS, new_id
from gateway.event_batch import FIELDS, Batch, Opening, parse
from gateway.handshake import BadRequest
from gateway.http_api import NODE, json_response
from gateway.message_trace import publishing
from gateway.node import Node
from gateway.patience import patiently
from gateway.user_api import PREFIX

HOLDER: Final = "http:"
"""What the ids of workers begin with that hold their runs over HTTP; no process has such an id."""

_REQUIRED: Final = "The worker key is required."


async def publish(request: web.Request) -> web.Response:
    """``POST /api/v1/events``: open a run, publish its events, keep its lease, end it.

    The same request again is answered the same.
    """
    node = request.app[NODE]
    check_key(request.headers, node.settings)
    most_bytes = 2 * node.settings.max_event_bytes
    batch = parse(await read_object(request.clone(client_max_size=most_bytes), *FIELDS))
    thread_id = new_id()
    try:
        with publishing(node.tracing, request.headers, batch, node_id=node.node_id) as trace:
            told = await patiently(
                node.ending.client,
                lambda: _carry_out(node, batch, thread_id, trace),
                deadline_seconds=DEADLINE_SECONDS,
            )
    except (Fenced, RunClosed, RunExists, RunNotFound, EventTooLarge) as error:
        raise refusal(error) from None
    return json_response(told, status=200 if batch.opening is None else 201)


def check_key(headers: MultiMapping[str], settings: Settings) -> None:
    """:class:`BadRequest` unless the bearer is the worker key; a user's token never is."""
    if settings.worker_key is None:
        raise BadRequest("worker_key_required", "RUNCAST_WORKER_KEY is not set.", status=403)
    if "Authorization" not in headers:
        raise BadRequest("unauthorized", _REQUIRED, status=401)
    if not bears(headers, settings.worker_key):
        raise BadRequest("worker_key_required", _REQUIRED, status=403)


async def _carry_out(
    node: Node, batch: Batch, thread_id: str, trace: TraceContext | None
) -> Mapping[str, Any]:
    """One attempt. BrokerUnavailable: again, from what is in Redis then."""
    fence, broker = batch.fence, node.ending
    if batch.opening is not None:
        fence = (await _opened(node, batch, batch.opening, thread_id, trace)).fence
    run = await broker.holding(batch.owner, batch.run_id, with_text=batch.needs_text)
    claim = run.claim
    if claim.fence != fence or not run.worker.startswith(HOLDER):
        raise Fenced(subject=claim.run_id, detail="it is not held over HTTP under this fence")
    limits = broker.limits
    bounds = Bounds(
        max_text_bytes=limits.max_text_bytes,
        input_seconds=limits.input_seconds,
        longest_input_seconds=limits.history_ttl_seconds,
    )
    epoch_ms = time.time_ns() // 1_000_000
    planning = Planning(
        _composer(claim, limits.max_event_bytes),
        run_id=claim.run_id,
        text=run.text,
        text_bytes=run.text_bytes,
        bounds=bounds,
        at=Moment(epoch_ms, epoch_ms / 1000),
    )
    plan = planning.take_all(batch.items)
    try:
        renewal, ids, done = await broker.publish_all(claim, plan.said, recalled=plan.recalled)
    except (SequenceGap, CallNotOpen, RunClosed) as raced:  # somebody said the same just now
        raise BrokerUnavailable(why=str(raced)) from None
    if not renewal.held and claim.state is not State.COMPLETED:
        raise BrokerUnavailable(why="somebody else ended the run just now")
    return _told(run, planning, plan.told(ids, done), stop=renewal.stop) | {
        "lease_seconds": limits.lease_seconds
    }


async def _opened(
    node: Node, batch: Batch, opening: Opening, thread_id: str, trace: TraceContext | None
) -> Claim:
    broker, most_bytes = node.broker, node.settings.max_message_bytes
    if len(orjson.dumps([opening.content, opening.metadata])) > most_bytes:
        what = f"content and metadata have at most {most_bytes} bytes together"
        raise BadRequest("too_large", what, status=413)
    channel, thread_id = await _place(broker, batch, opening, opening.thread_id or thread_id)
    request = RunRequest(
        run_id=batch.run_id,
        owner=batch.owner,
        channel=channel,
        thread_id=thread_id,
        agent=opening.agent,
        content=opening.content,
        metadata=opening.metadata,
        parent_run_id=opening.parent_run_id,
        trace=trace,
    )
    spec = AgentSpec(name=opening.agent, on_busy="parallel")
    claim = await broker.open_run(request, spec, worker_id=f"{HOLDER}{opening.worker}")
    as_before = (
        claim.owner == batch.owner
        and (claim.agent, claim.parent_run_id) == (opening.agent, opening.parent_run_id)
        and opening.thread_id in (None, claim.thread_id)
        and channel.scope is claim.channel.scope
    )
    if not as_before:
        raise RunExists(
            subject=batch.run_id, detail="of another user, agent, thread, scope or parent"
        )
    return claim


async def _place(
    broker: Broker, batch: Batch, opening: Opening, thread_id: str
) -> tuple[Channel, str]:
    """Where the run's events go: a sub-agent's are beside its parent's."""
    owner = batch.owner
    if opening.parent_run_id is not None:
        parent = (await broker.holding(owner, opening.parent_run_id, with_text=False)).claim
        return parent.channel, parent.thread_id
    scope = opening.scope or Scope.USER
    names = {Scope.USER: "", Scope.THREAD: thread_id, Scope.RUN: batch.run_id}
    return broker.keys.channel(owner, scope, names[scope]), thread_id


def _composer(claim: Claim, max_event_bytes: int) -> Composer:
    """Taken up where the run's record says it is; the calls in the order in which they began."""
    calls = sorted(claim.open_calls.items(), key=lambda call: (call[1].since_ms, call[0]))
    return Composer(
        claim.envelope,
        run_id=claim.run_id,
        lifecycle=Lifecycle(
            claim.state,
            open_calls={call_id: call.tool for call_id, call in calls},
            flags=claim.sent,
        ),
        seq=claim.seq,
        began=claim.created_ms / 1000,
        opened={call_id: call.since_ms / 1000 for call_id, call in calls},
        max_event_bytes=max_event_bytes,
    )


def _told(
    run: Holding, planning: Planning, done: list[dict[str, Any]], *, stop: bool
) -> dict[str, Any]:
    claim = run.claim
    return {
        "run_id": claim.run_id,
        "thread_id": claim.thread_id,
        "fence": claim.fence,
        "state": planning.run.lifecycle.state,
        "next_seq": planning.run.seq + 1,
        "next_offset": planning.text_bytes,
        "stop_requested": stop or claim.stop_requested,
        "answers": run.answers,
        "events": done,
    }


ROUTES: Final = (("POST", f"{PREFIX}/events", publish),)
"""Method, path, handler."""
