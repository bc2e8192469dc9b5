"""One trace shows a run: from the client's message through gateways and worker to the delivery.

Judged on what a collector receives, from gateways and workers that are processes.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest

from tests.support.clients import Client, Frame, eventually
from tests.support.otlp_receiver import Collector, Received
from tests.support.servers import (
    SECRET,
    WORKER_KEY,
    Fleet,
    Redis,
    running_fleet,
    running_redis,
    token,
)

pytestmark = pytest.mark.timeout(300)

WORKER = "tests.support.traced_worker:worker"
USER = "alice-the-user"
CONTENT = "what only the agent may read"
IMPORTS_TOLD = {"PYTHONPROFILEIMPORTTIME": "1"}
"""Python then prints the name of every module that a process imports."""

IMPORTED = (" opentelemetry.sdk.trace\n", " opentelemetry.exporter.otlp\n")
"""Not all of OpenTelemetry: redis-py imports what it has for metrics, where that is installed."""

SECRETS = (CONTENT, USER, "secret", "what is counted", "what the helper", "begun", SECRET[:20])
"""What no span may hold, by any attribute, note or name."""


@pytest.fixture
def own_redis() -> Iterator[Redis]:
    with running_redis() as redis:
        yield redis


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with Collector() as collector:
        yield collector


@pytest.fixture
def fleet(own_redis: Redis, collector: Collector) -> Iterator[Fleet]:
    """Everything is traced, and leases are short."""
    settings = {
        "RUNCAST_TRACING": "on", "RUNCAST_LEASE_SECONDS": "5", "RUNCAST_LOG_FORMAT": "json",
        **collector.env,
    }  # fmt: skip
    with running_fleet(own_redis, **settings) as fleet:
        yield fleet


def client_context(*, flags: str = "01") -> tuple[str, str, str]:
    """(trace id, span id, traceparent) of a client's own span."""
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    return trace_id, span_id, f"00-{trace_id}-{span_id}-{flags}"


def orphans(spans: list[Received], *, known: set[str]) -> list[str]:
    """Spans of a trace whose parent is neither among them nor known."""
    ids = {each.id for each in spans} | known
    return [each.name for each in spans if each.parent not in ids]


def only(spans: list[Received], name: str, **attributes: Any) -> Received:
    found = [
        each
        for each in spans
        if each.name == name
        and all(each.attributes.get(key.replace("__", ".")) == v for key, v in attributes.items())
    ]
    assert len(found) == 1, (name, attributes, [each.name for each in spans])
    return found[0]


def no_secrets(collector: Collector, *more: str) -> None:
    for raw in collector.raw:
        for each in (*SECRETS, *more):
            assert each.encode() not in raw, each


def thoughts(client: Client, run_id: str) -> list[str]:
    return [
        each["payload"]["thoughts"]
        for each in client.events(run_id)
        if each["type"] == "agent_thinking"
    ]


async def post(base: str, path: str, body: Any, **headers: str) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {token(USER)}", **headers}
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{base}{path}", json=body, headers=headers) as response,
    ):
        if response.content_type == "text/event-stream":
            return response.status, await response.text()
        return response.status, await response.json()


async def all_spans(fleet: Fleet, collector: Collector) -> list[Received]:
    """What every program told: each sends what it has left before it ends."""
    for process in fleet.processes:
        await asyncio.to_thread(process.end)
    return collector.spans


def delivered(spans: list[Received], run_id: str) -> list[Received]:
    return [
        each
        for each in spans
        if each.name.startswith("deliver ") and each.attributes["runcast.run_id"] == run_id
    ]


async def test_one_trace_shows_a_run_from_one_gateway_to_another(
    fleet: Fleet, collector: Collector
) -> None:
    """The message at one, the delivery at the other, an agent with tools and a sub-agent."""
    here, there = await asyncio.to_thread(fleet.gateway), await asyncio.to_thread(fleet.gateway)
    await asyncio.to_thread(fleet.worker, WORKER)
    trace_id, span_id, traceparent = client_context()
    async with Client(there, USER) as client:
        await client.first("live")
        status, told = await post(
            here, "/api/v1/messages", {"content": CONTENT, "agent": "traced"},
            traceparent=traceparent, tracestate="vendor=opaque",
        )  # fmt: skip
        assert status == 202
        run_id = told["run_id"]
        await client.completed(run_id)
        events = [each for each in client.events() if each["run_id"] == run_id]
        child = next(each["run_id"] for each in client.events() if each["run_id"] != run_id)
        said = thoughts(client, run_id)
    spans = await all_spans(fleet, collector)
    assert len(delivered(spans, child)) >= 5
    assert {each.trace_id for each in spans} == {trace_id}, "exactly one trace"
    assert orphans(spans, known={span_id}) == []

    accepted = only(spans, "accept message")
    assert (accepted.parent, accepted.kind) == (span_id, "server")
    assert accepted.attributes["runcast.run_id"] == run_id
    assert accepted.attributes["gen_ai.agent.name"] == "traced"
    assert accepted.state == "vendor=opaque"

    waited = only(spans, "wait in queue")
    assert (waited.parent, waited.service) == (accepted.id, "runcast-worker")
    run = only(spans, "invoke_agent traced")
    assert (run.parent, run.kind, run.failed) == (accepted.id, "consumer", False)
    assert run.attributes["runcast.run_id"] == run_id
    assert run.attributes["runcast.attempt"] == 1
    assert run.attributes["runcast.status"] == "succeeded"
    assert run.said == [each["type"] for each in events], "what it said, in order"
    assert run.starts <= run.ends

    search, counted = only(spans, "execute_tool search"), only(spans, "execute_tool count")
    helper = only(spans, "invoke_agent helper")
    assert {search.parent, counted.parent, helper.parent} == {run.id}
    assert only(spans, "execute_tool helper_search").parent == helper.id
    assert helper.attributes["runcast.run_id"] == child
    assert helper.attributes["runcast.parent_run_id"] == run_id
    assert [each.partition(": ")[2] for each in said] == [
        f"00-{trace_id}-{run.id}-01 vendor=opaque",
        f"00-{trace_id}-{search.id}-01",
        f"00-{trace_id}-{counted.id}-01",
    ], "requests of the agent's own go on in the trace"

    of_run = delivered(spans, run_id)
    assert sorted(each.name for each in of_run) == sorted(f"deliver {e['type']}" for e in events)
    assert {each.parent for each in of_run} == {accepted.id}
    assert {each.instance for each in of_run} != {accepted.instance}, "by the other gateway"
    assert {each.attributes["runcast.connections"] for each in of_run} == {1}
    for each in of_run:
        for stage in ("sdk_to_redis", "redis_to_gateway", "gateway_to_socket"):
            assert each.attributes[f"runcast.{stage}_seconds"] >= 0
    by_id = {each["id"]: each["type"] for each in events}
    assert {each.attributes["runcast.event_id"]: each.name[8:] for each in of_run} == by_id
    assert {each["traceparent"] for each in events} == {f"00-{trace_id}-{accepted.id}-01"}
    assert {each.scope for each in spans} == {"runcast"}
    no_secrets(collector)


async def test_a_websocket_message_enters_by_its_metadata_and_a_malformed_one_begins_anew(
    fleet: Fleet, collector: Collector
) -> None:
    base = await asyncio.to_thread(fleet.gateway)
    await asyncio.to_thread(fleet.worker, WORKER)
    trace_id, span_id, traceparent = client_context()
    async with Client(base, USER) as client:
        await client.first("live")
        good = await client.ask(
            CONTENT, ref="good", agent="traced", metadata={"traceparent": traceparent}
        )
        bad = await client.ask(
            CONTENT, ref="bad", agent="traced", metadata={"traceparent": traceparent[:-1]}
        )
        none = await client.ask(CONTENT, ref="none", agent="traced")
        for run_id in (good, bad, none):
            await client.completed(run_id)
    spans = await all_spans(fleet, collector)
    accepted = {
        each.attributes["runcast.run_id"]: each for each in spans if each.name == "accept message"
    }
    assert (accepted[good].trace_id, accepted[good].parent) == (trace_id, span_id)
    assert accepted[bad].parent == accepted[none].parent == ""
    assert len({each.trace_id for each in accepted.values()}) == 3
    for run_id, each in accepted.items():
        assert only(spans, "invoke_agent traced", runcast__run_id=run_id).parent == each.id


async def test_a_killed_worker_s_run_goes_on_in_the_same_trace(
    fleet: Fleet, collector: Collector
) -> None:
    """The second attempt is linked to the first, whose own span died with its worker."""
    base = await asyncio.to_thread(fleet.gateway)
    first = await asyncio.to_thread(fleet.worker, WORKER)
    trace_id, span_id, traceparent = client_context()
    async with Client(base, USER) as client:
        await client.first("live")
        run_id = await client.ask(CONTENT, agent="waits", metadata={"traceparent": traceparent})
        await client.first("agent_thinking", thoughts="begun")
        await collector.until(lambda spans: any(s.name == "wait in queue" for s in spans))
        await asyncio.to_thread(first.end, signal.SIGKILL)
        await asyncio.to_thread(fleet.worker, WORKER)
        await client.completed(run_id)
    spans = await all_spans(fleet, collector)
    assert any(each.name == "deliver agent_completed" for each in spans)
    assert {each.trace_id for each in spans} == {trace_id}
    assert orphans(spans, known={span_id}) == []
    run = only(spans, "invoke_agent waits")
    assert run.attributes["runcast.attempt"] == 2
    assert run.attributes["runcast.status"] == "succeeded"
    (linked,) = run.links
    assert linked not in {each.id for each in spans}, "it was never sent"
    waits = {each.attributes["runcast.attempt"]: each for each in spans if "wait" in each.name[:5]}
    assert sorted(waits) == [1, 2]
    assert waits[1].starts < waits[2].starts, "each is of its own place in the queue"
    no_secrets(collector)


async def test_ends_by_others_are_in_the_trace(fleet: Fleet, collector: Collector) -> None:
    """Stopped while it runs, stopped before it began, and abandoned with its worker."""
    base = await asyncio.to_thread(fleet.gateway)
    worker = await asyncio.to_thread(fleet.worker, WORKER)
    async with Client(base, USER) as client:
        await client.first("live")
        stopped = await client.ask(CONTENT, ref="stopped", agent="waits once")
        await client.first("agent_thinking")
        await client.send("stop_agent", {"run_id": stopped}, ref="stop")
        await client.completed(stopped)
        spans = await collector.until(
            lambda spans: any(s.name == "invoke_agent waits once" for s in spans)
        )
        run = only(spans, "invoke_agent waits once")
        assert run.attributes["runcast.status"] == "cancelled"
        assert ("told_to_end", {"runcast.reason": "stopped"}) in run.events
        assert not run.failed

        failed = await client.ask(CONTENT, ref="failed", agent="fails")
        await client.completed(failed)
        spans = await collector.until(
            lambda spans: any(s.name == "invoke_agent fails" for s in spans)
        )
        run = only(spans, "invoke_agent fails")
        assert run.failed
        assert run.attributes["error.type"] == "value_error"
        logged = [json.loads(line) for line in worker.printed().splitlines() if line[0] == "{"]
        (raised,) = [each for each in logged if each["event"] == "agent_raised"]
        assert (raised["trace_id"], raised["span_id"]) == (run.trace_id, run.id)
        tool = only(spans, "execute_tool breaks")
        assert tool.failed
        assert tool.attributes["error.type"] == "LookupError"

        lost = await client.ask(CONTENT, ref="lost", agent="waits once")
        await client.until(lambda _: len(thoughts(client, lost)) == 1)
        await asyncio.to_thread(worker.end, signal.SIGKILL)
        await client.completed(lost)
        unclaimed = await client.ask(CONTENT, ref="unclaimed", agent="waits once")
        await client.send("stop_agent", {"run_id": unclaimed}, ref="stop again")
        await client.completed(unclaimed)
    spans = await all_spans(fleet, collector)
    for run_id in (lost, unclaimed):
        assert any(each.name == "deliver agent_completed" for each in delivered(spans, run_id))
    for run_id, status, code, linked in (
        (lost, "abandoned", "worker_lost", 1),
        (unclaimed, "cancelled", "stopped", 0),
    ):
        end = only(spans, "end run", runcast__run_id=run_id)
        accepted = only(spans, "accept message", runcast__run_id=run_id)
        assert (end.parent, end.trace_id) == (accepted.id, accepted.trace_id)
        assert end.attributes["runcast.status"] == status
        assert end.attributes["error.type"] == code
        assert end.failed == (status == "abandoned")
        assert len(end.links) == linked
    no_secrets(collector)


async def test_every_way_in_takes_the_header(fleet: Fleet, collector: Collector) -> None:
    """AG-UI, the AI SDK, a message answered with its events, and a worker over HTTP."""
    base = await asyncio.to_thread(fleet.gateway)
    await asyncio.to_thread(fleet.worker, WORKER)
    told = [client_context() for _ in range(4)]
    agui = {
        "threadId": "t", "runId": "r", "state": {}, "tools": [], "context": [],
        "forwardedProps": {}, "messages": [{"id": "m", "role": "user", "content": CONTENT}],
    }  # fmt: skip
    chat = {
        "id": "chat", "trigger": "submit-message",
        "messages": [{"id": "m2", "role": "user", "parts": [{"type": "text", "text": CONTENT}]}],
    }  # fmt: skip
    run_id = secrets.token_hex(8)
    worker = {
        "run_id": run_id, "user_id": USER, "open": {"agent_name": "elsewhere"},
        "events": [
            {"type": "agent_started", "seq": 1, "payload": {"message": CONTENT}},
            {
                "type": "agent_completed", "seq": 2,
                "payload": {"response": CONTENT, "complete": True},
            },
        ],
    }  # fmt: skip
    message = {"content": CONTENT, "agent": "traced"}
    async with Client(base, USER) as client:
        await client.first("live")
        for (path, body, headers), (_, _, traceparent) in zip(
            (
                ("/agui/traced", agui, {}),
                ("/ai-sdk/traced", chat, {}),
                ("/api/v1/messages", message, {"Accept": "text/event-stream"}),
                ("/api/v1/events", worker, {"Authorization": f"Bearer {WORKER_KEY}"}),
            ),
            told,
            strict=True,
        ):
            status, answer = await post(base, path, body, traceparent=traceparent, **headers)
            assert status in (200, 201), answer
        await client.completed(run_id)
    ids = [trace_id for trace_id, _, _ in told]
    spans = await all_spans(fleet, collector)
    assert {each.trace_id for each in spans} == set(ids)
    for each in ids:
        assert any(span.name == "deliver agent_completed" for span in collector.of(each))
    assert len([each for each in spans if each.name == "invoke_agent traced"]) == 3
    for trace_id, span_id, _ in told[:3]:
        spans = collector.of(trace_id)
        assert orphans(spans, known={span_id}) == []
        assert only(spans, "accept message").parent == span_id
    spans = collector.of(ids[3])
    assert only(spans, "publish events").parent == told[3][1]
    assert {each.parent for each in delivered(spans, run_id)} == {told[3][1]}, "the worker's own"
    no_secrets(collector)


@pytest.mark.parametrize(("tracing", "recorded"), [("on", False), ("follow", True)])
async def test_a_client_forces_nothing_to_be_recorded_unless_it_may(
    own_redis: Redis,
    collector: Collector,
    tracing: str,
    recorded: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """The sampler records nothing of itself; the client says that its span is."""
    settings = {
        "RUNCAST_TRACING": tracing, "OTEL_TRACES_SAMPLER": "parentbased_always_off",
        **collector.env,
    }  # fmt: skip
    with running_fleet(own_redis, **settings) as fleet:
        base = await asyncio.to_thread(fleet.gateway)
        await asyncio.to_thread(fleet.worker, WORKER)
        trace_id, _, traceparent = client_context()
        async with Client(base, USER) as client:
            await client.first("live")
            run_id = await client.ask(
                CONTENT, agent="traced", metadata={"traceparent": traceparent}
            )
            end = await client.completed(run_id)
        assert end["traceparent"].startswith(f"00-{trace_id}-"), "it belongs there all the same"
        assert end["traceparent"].endswith("-01" if recorded else "-00")
        assert bool(await all_spans(fleet, collector)) == recorded


async def test_a_program_s_own_provider_is_used_and_its_spans_are_events_once(
    own_redis: Redis, collector: Collector
) -> None:
    """``RunSpanProcessor`` tells what instrumented code does, and passes over Runcast's spans."""
    with running_fleet(own_redis, RUNCAST_TRACING="on", **collector.env) as fleet:
        base = await asyncio.to_thread(fleet.gateway)
        worker = fleet.worker_process("tests.support.own_provider_worker:worker")
        await eventually(lambda: worker.runs() and " serves " in worker.printed())
        async with Client(base, USER) as client:
            await client.first("live")
            run_id = await client.ask(CONTENT, agent="instrumented")
            await client.completed(run_id)
            events = client.events()
        spans = await all_spans(fleet, collector)
    tools = [each["payload"]["tool"] for each in events if each["type"] == "tool_executing"]
    assert tools == ["own", "theirs", "rows"], "each of them once"
    told = [each["payload"]["thoughts"] for each in events if each["type"] == "agent_thinking"]
    assert told == ["Asking model-x"], "and no sub-agent for a thought"
    run = only(spans, "invoke_agent instrumented")
    assert (run.service, run.instance) == ("my-agents", "mine")
    assert only(spans, "GET").parent == only(spans, "execute_tool own").id
    assert only(spans, "execute_tool theirs").parent == run.id
    assert only(spans, "execute_tool rows").parent == run.id
    assert {each.parent for each in spans if each.name == "between"} == {run.id}, "not the tool's"
    assert only(spans, "chat model-x").parent == only(spans, "invoke_agent helper").id
    assert len({each.trace_id for each in spans}) == 1


async def test_a_worker_alone_judges_what_a_client_says(
    own_redis: Redis, collector: Collector
) -> None:
    """Its gateway does not trace: the client's context comes as it is, and so does its flag."""
    with running_fleet(own_redis, **collector.env) as fleet:
        base = await asyncio.to_thread(fleet.gateway)
        fleet.settings["RUNCAST_TRACING"] = "on"
        await asyncio.to_thread(fleet.worker, WORKER)
        trace_id, span_id, traceparent = client_context(flags="00")
        async with Client(base, USER) as client:
            await client.first("live")
            metadata = {"traceparent": traceparent}
            await client.completed(await client.ask(CONTENT, agent="headers", metadata=metadata))
            await client.completed(await client.ask(CONTENT, ref="m2", agent="headers"))
        spans = await all_spans(fleet, collector)
    of_client = collector.of(trace_id)
    assert {each.parent for each in of_client} == {span_id}
    assert {each.name for each in of_client} == {"wait in queue", "invoke_agent headers"}
    others = [each for each in spans if each.trace_id != trace_id]
    run = only(others, "invoke_agent headers")
    assert (run.parent, only(others, "wait in queue").parent) == ("", run.id)


async def test_a_collector_that_is_away_holds_nobody_up(own_redis: Redis) -> None:
    settings = {
        "RUNCAST_TRACING": "on", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        **IMPORTS_TOLD,
    }  # fmt: skip
    with running_fleet(own_redis, **settings) as fleet:
        base = await asyncio.to_thread(fleet.gateway)
        worker = await asyncio.to_thread(fleet.worker, WORKER)
        async with Client(base, USER) as client:
            await client.first("live")
            await client.completed(await client.ask(CONTENT, agent="traced"))
        for process in (worker, fleet.processes[0]):
            assert process.end() == 0
            assert any(each in process.printed() for each in IMPORTED)


async def test_off_sends_nothing_and_imports_nothing(
    own_redis: Redis, collector: Collector
) -> None:
    """What the client says is carried to its agent and back all the same; the flags are its own."""
    with running_fleet(own_redis, **IMPORTS_TOLD, **collector.env) as fleet:
        base = await asyncio.to_thread(fleet.gateway)
        worker = await asyncio.to_thread(fleet.worker, WORKER)
        _, _, traceparent = client_context()
        async with Client(base, USER) as client:
            await client.first("live")
            run_id = await client.ask(
                CONTENT, ref="m", agent="headers", metadata={"traceparent": traceparent}
            )
            end: Frame = await client.completed(run_id)
            assert end["traceparent"] == traceparent
            assert thoughts(client, run_id) == [f"in run: {traceparent} None"]
            without = await client.completed(await client.ask(CONTENT, ref="n", agent="headers"))
            assert "traceparent" not in without
        for process in (worker, fleet.processes[0]):
            assert process.end() == 0
            assert " broker.tracing\n" in process.printed()
            assert not any(each in process.printed() for each in IMPORTED)
    assert collector.raw == []
