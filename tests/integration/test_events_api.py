"""Workers without the SDK: runs over HTTP alone, at whichever gateway (protocol section 7).

Judged on what real watching clients receive, and on answers that are held to the published schema.
"""

import asyncio
from collections.abc import AsyncIterator
from itertools import cycle
from typing import Any, Self

import aiohttp
import orjson
import pytest
from jsonschema import Draft202012Validator

from broker.channels import Owner, Scope
from broker.config import Settings
from broker.redis.broker import Broker
from broker.redis.records import AgentSpec, RunRequest
from gateway.app import Gateway
from gateway.event_batch import MAX_EVENTS
from tests.integration.sdk_rig import expire, faulty_network, logged, until
from tests.support.clients import PATIENCE_SECONDS, Client, streamed
from tests.support.schemas import published
from tests.support.servers import OPERATOR_KEY, WORKER_KEY, token

Answer = tuple[int, dict[str, Any]]
Event = dict[str, Any]

STARTED: Event = {"type": "agent_started", "payload": {"message": "on it"}}
THOUGHT: Event = {"type": "agent_thinking", "payload": {"thoughts": "so", "step": 1}}
CALLED: Event = {
    "type": "tool_executing",
    "payload": {"tool": "sum", "call_id": "c1", "status": "running", "parameters": {"of": [1, 2]}},
}
RETURNED: Event = {
    "type": "tool_completed",
    "payload": {"tool": "sum", "call_id": "c1", "result": 3},
}
DEEP = orjson.loads("[" * 300 + "]" * 300)
"""Can be read, and not written again."""
ENDED: Event = {"type": "agent_completed", "payload": {"complete": True, "response": "3"}}
WHOLE = (STARTED, THOUGHT, CALLED, RETURNED, ENDED)


def numbered(*events: dict[str, Any], first: int = 1) -> list[dict[str, Any]]:
    """With a ``seq`` each, but for deltas."""
    made = []
    for event in events:
        if event["type"] == "agent_delta":
            made.append(event)
        else:
            made.append({**event, "seq": first})
            first += 1
    return made


def delta(offset: int, text: str) -> dict[str, Any]:
    return {"type": "agent_delta", "payload": {"offset": offset, "text": text}}


class HttpWorker:
    """A worker that has nothing but HTTP, and asks another gateway each time."""

    def __init__(self, *bases: str, key: str | None = WORKER_KEY) -> None:
        self.bases = bases
        self._turns = cycle(bases)
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(headers=self._headers)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._http.close()

    async def send(self, *, base: str | None = None, **body: Any) -> Answer:
        """One request; its answer is one that the OpenAPI document has.

        Sent again when Redis was away for it: a machine may stand still for as long.
        """
        body = {"run_id": "r1", "user_id": "alice", **body}
        base = base or next(self._turns)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                async with self._http.post(f"{base}/api/v1/events", json=body) as response:
                    told = await response.json()
                    described(response.status, told)
                    if response.status != 503:
                        return response.status, told

    async def open(self, run_id: str = "r1", *, events: Any = (), **fields: Any) -> dict[str, Any]:
        user = fields.pop("user_id", "alice")
        opening = {"agent_name": "report", "thread_id": "t1", **fields}
        status, told = await self.send(
            run_id=run_id, user_id=user, open=opening, events=list(events)
        )
        assert status == 201, told
        return told

    async def say(self, *events: dict[str, Any], first: int, **fields: Any) -> dict[str, Any]:
        status, told = await self.send(fence=1, events=numbered(*events, first=first), **fields)
        assert status == 200, told
        return told


def described(status: int, told: dict[str, Any]) -> None:
    """By the schema that is published."""
    document = published("openapi.json")
    answer = document["paths"]["/api/v1/events"]["post"]["responses"][str(status)]
    (content,) = answer["content"].values()
    judge = Draft202012Validator({**content["schema"], "components": document["components"]})
    assert [error.message for error in judge.iter_errors(told)] == []
    known = document["components"]["schemas"]["published" if status < 300 else "problem"]
    assert told.keys() <= known["properties"].keys()


def refused(answer: Answer, status: int, code: str, **more: Any) -> None:
    told = answer[1]
    assert (answer[0], told.get("code")) == (status, code), answer
    assert {name: told.get(name) for name in more} == more, answer


@pytest.fixture
async def bases(settings: Settings) -> AsyncIterator[tuple[str, str]]:
    async with Gateway(settings) as one, Gateway(settings) as other:
        yield f"http://127.0.0.1:{one.port}", f"http://127.0.0.1:{other.port}"


@pytest.fixture
async def worker(bases: tuple[str, str]) -> AsyncIterator[HttpWorker]:
    async with HttpWorker(*bases) as made:
        yield made


# --- the life of a run


async def test_a_whole_run_at_two_gateways_in_turns(worker: HttpWorker) -> None:
    async with Client(worker.bases[1]) as watcher:
        await watcher.first("live")
        opened = await worker.open(content={"for": "today"}, metadata={"a": 1})
        assert (opened["state"], opened["fence"], opened["next_seq"]) == ("queued", 1, 1)
        assert (opened["stop_requested"], opened["lease_seconds"]) == (False, 15)
        ids = []
        for at, event in enumerate(WHOLE, 1):
            told = await worker.say(event, first=at)
            assert told["next_seq"] == at + 1
            ids += [each["id"] for each in told["events"]]
        assert told["state"] == "completed"
        await watcher.completed("r1")
        seen = watcher.events("r1")
    assert [event["type"] for event in seen] == [event["type"] for event in WHOLE]
    assert [event["seq"] for event in seen] == [1, 2, 3, 4, 5]
    assert [event["id"] for event in seen] == ids
    assert {(event["agent_name"], event["thread_id"]) for event in seen} == {("report", "t1")}
    payload = seen[-1]["payload"]
    assert (payload["status"], payload["response"], payload["missing"]) == ("succeeded", "3", [])
    assert seen[3]["payload"]["success"] is True
    assert seen[3]["payload"]["duration_ms"] >= 0


async def test_a_whole_run_in_one_request(worker: HttpWorker) -> None:
    """And the same again, at the other gateway, begins and publishes nothing."""
    async with Client(worker.bases[0]) as watcher:
        await watcher.first("live")
        first = await worker.open(events=numbered(*WHOLE))
        again = await worker.open(events=numbered(*WHOLE))
        assert again == first
        assert [each["seq"] for each in first["events"]] == [1, 2, 3, 4, 5]
        await worker.open("r2", events=numbered(STARTED, ENDED))
        await watcher.completed("r2")
        assert [event["id"] for event in watcher.events("r1")] == [
            each["id"] for each in first["events"]
        ]


async def test_what_it_left_out_is_computed_here(worker: HttpWorker) -> None:
    async with Client(worker.bases[0]) as watcher:
        await watcher.first("live")
        await worker.open(events=numbered(STARTED))
        wrong = {"complete": True, "response": "x", "missing": [], "status": "succeeded"}
        await worker.say({"type": "agent_completed", "payload": wrong}, first=2)
        end = await watcher.completed("r1")
        assert end["payload"]["missing"] == ["agent_thinking", "tool_executing", "tool_completed"]
        assert end["payload"]["duration_ms"] >= 0


async def test_open_calls_are_closed_by_the_end(worker: HttpWorker) -> None:
    """And the end is the same one, however often it is sent."""
    two = {**CALLED, "payload": {**CALLED["payload"], "call_id": "c2", "tool": "sort"}}
    async with Client(worker.bases[0]) as watcher:
        await watcher.first("live")
        await worker.open(events=numbered(STARTED, CALLED, two))
        told = await worker.say(ENDED, first=4)
        again = await worker.say(ENDED, first=4)
        assert told["events"] == again["events"]
        assert told["events"][0]["seq"] == 6
        await watcher.completed("r1")
        closed = watcher.events("r1")[3:5]
        assert {event["payload"]["call_id"] for event in closed} == {"c1", "c2"}
        for event in closed:
            assert event["type"] == "tool_completed"
            assert (event["payload"]["success"], event["payload"]["error"]["code"]) == (
                False, "run_ended",
            )  # fmt: skip


async def test_streamed_text_is_seen_and_becomes_the_response(worker: HttpWorker) -> None:
    async with Client(worker.bases[1]) as watcher:
        await watcher.first("live")
        await worker.open(events=numbered(STARTED))
        told = await worker.say(delta(0, "Grüße"), first=2)
        assert told["events"] == [{"next": 7}]
        told = await worker.say(delta(0, "Grüße"), delta(7, " — 👋"), first=2)
        assert [each["next"] for each in told["events"]] == [7, 16]
        assert told["next_offset"] == 16
        gap = await worker.send(fence=1, events=[delta(17, "x")])
        refused(gap, 409, "offset_gap", expected_offset=16, index=0)
        refused(await worker.send(fence=1, events=[delta(3, "x" * 90)]), 409, "offset_gap")
        end = {"type": "agent_completed", "payload": {"complete": True}}
        await worker.say(delta(16, "!"), end, first=2)
        completed = await watcher.completed("r1")
        assert completed["payload"]["response"] == "Grüße — 👋!"
        assert streamed(watcher.frames) == {"r1": "Grüße — 👋!"}


async def test_a_user_stops_it_and_every_answer_says_so(worker: HttpWorker) -> None:
    async with Client(worker.bases[1]) as watcher:
        await watcher.first("live")
        told = await worker.open(events=numbered(STARTED))
        assert told["stop_requested"] is False
        await watcher.send("stop_agent", {"run_id": "r1"}, ref="s")
        assert (await watcher.reply("s"))["type"] == "ok"
        for _ in worker.bases:
            status, told = await worker.send(fence=1)
            assert (status, told["stop_requested"]) == (200, True)
        cancelled = {"complete": True, "status": "cancelled"}
        await worker.say({"type": "agent_completed", "payload": cancelled}, first=2)
        assert (await watcher.completed("r1"))["payload"]["status"] == "cancelled"


async def test_a_question_is_answered_in_a_later_answer(worker: HttpWorker) -> None:
    question: Event = {
        "type": "input_required",
        "payload": {"request_id": "q1", "prompt": "Go on?", "expires_seconds": 60},
    }
    async with Client(worker.bases[1]) as watcher:
        await watcher.first("live")
        await worker.open(events=numbered(STARTED))
        told = await worker.say(question, first=2)
        assert (told["state"], told["answers"]) == ("waiting", {})
        asked = await watcher.first("input_required")
        assert (asked["payload"]["prompt"], asked["seq"]) == ("Go on?", 2)
        assert asked["payload"]["expires_at"] > asked["timestamp"]
        answer = {"run_id": "r1", "request_id": "q1", "content": {"yes": 1}}
        await watcher.send("user_input", answer, ref="a")
        assert (await watcher.reply("a"))["type"] == "ok"
        _, told = await worker.send(fence=1)
        assert (told["answers"], told["state"]) == ({"q1": {"yes": 1}}, "running")
        for seconds in (0, -1, "x", True, 10**9):
            bad = {**question, "payload": {**question["payload"], "expires_seconds": seconds}}
            refused(await worker.send(fence=1, events=numbered(bad, first=3)), 400, "bad_event")


async def test_a_sub_agents_run_is_beside_its_parents(worker: HttpWorker) -> None:
    async with Client(worker.bases[0], mode="factory", thread_id="t1") as watcher:
        await watcher.first("live")
        await worker.open(scope="thread", events=numbered(STARTED))
        child = {"agent_name": "searcher", "parent_run_id": "r1"}
        status, told = await worker.send(
            run_id="r2", open=child, events=numbered(STARTED, THOUGHT, ENDED)
        )
        assert (status, told["thread_id"]) == (201, "t1")
        end = await watcher.completed("r2")
        assert (end["parent_run_id"], end["agent_name"]) == ("r1", "searcher")
        refused(await worker.send(run_id="r3", open={**child, "scope": "user"}), 400, "bad_body")
        unknown = {**child, "parent_run_id": "none"}
        refused(await worker.send(run_id="r3", open=unknown), 404, "run_not_found")


@pytest.mark.parametrize("scope", ["user", "thread", "run"])
async def test_a_scope_says_who_sees_it(worker: HttpWorker, scope: str) -> None:
    await worker.open(scope=scope, events=numbered(STARTED))
    strict = {"mode": "factory", "isolation_level": "strict"}
    runs = strict | ({"run_id": "r1", "after": "0-0"} if scope == "run" else {})
    async with (
        Client(worker.bases[0], query={"after": "0-0"}) as user,
        Client(
            worker.bases[1], query={"mode": "factory", "thread_id": "t1", "after": "0-0"}
        ) as thread,
        Client(worker.bases[0], query=runs) as run,
        Client(worker.bases[1], "bob", query={"after": "0-0"}) as bob,
    ):
        watchers = {"user": user, "thread": thread, "run": run}
        for each in (*watchers.values(), bob):
            await each.first("live")
        await worker.say(THOUGHT, ENDED, first=2)
        seeing = watchers.pop(scope)
        await seeing.completed("r1")
        # What comes behind it to those who do not see it shows that nothing else comes.
        await worker.open("u", events=numbered(STARTED, ENDED))
        await worker.open("t", scope="thread", events=numbered(STARTED, ENDED))
        await worker.open("b", user_id="bob", events=numbered(STARTED, ENDED))
        await asyncio.gather(user.completed("u"), thread.completed("t"), bob.completed("b"))
        assert [event["type"] for event in seeing.events("r1")] == [
            "agent_started", "agent_thinking", "agent_completed",
        ]  # fmt: skip
        assert [each.events("r1") for each in (*watchers.values(), bob)] == [[], [], []]


async def test_a_tenants_run_is_of_that_tenant(worker: HttpWorker) -> None:
    async with (
        Client(worker.bases[0], token=token("alice", tenant="acme")) as own,
        Client(worker.bases[0]) as other,
    ):
        await own.first("live")
        await other.first("live")
        opening = {"agent_name": "report"}
        status, told = await worker.send(
            tenant="acme", open=opening, events=numbered(STARTED, ENDED)
        )
        assert status == 201
        assert len(told["thread_id"]) == 26  # one was made
        await own.completed("r1")
        refused(await worker.send(fence=1), 404, "run_not_found")
        await worker.open("r2", events=numbered(STARTED, ENDED))
        await other.completed("r2")
        assert other.events("r1") == []


# --- the lease


@pytest.mark.timeout(300)
async def test_a_worker_that_falls_silent_has_its_run_abandoned(settings: Settings) -> None:
    short = settings.model_copy(update={"lease_seconds": 2})
    async with Gateway(short) as gateway, HttpWorker(f"http://127.0.0.1:{gateway.port}") as worker:
        async with Client(worker.bases[0]) as watcher:
            await watcher.first("live")
            told = await worker.open(events=numbered(STARTED, CALLED))
            assert told["lease_seconds"] == 2
            end = await watcher.completed("r1", seconds=90)
            assert (end["payload"]["status"], end["payload"]["error"]["code"]) == (
                "abandoned", "worker_lost",
            )  # fmt: skip
            assert watcher.events("r1")[-2]["payload"]["error"]["code"] == "run_ended"
        refused(await worker.send(fence=1), 409, "fenced")
        again = {"agent_name": "report", "thread_id": "t1"}
        refused(await worker.send(open=again), 409, "run_exists")


@pytest.mark.parametrize("events", [[], numbered(THOUGHT, first=2)], ids=["beat", "publish"])
async def test_every_request_renews_the_lease(
    worker: HttpWorker, broker: Broker, events: list[dict[str, Any]]
) -> None:
    await worker.open(events=numbered(STARTED))
    leases = broker.keys.leases(broker.keys.partition(Owner("", "alice")))
    opened = float(await broker.client.execute("ZSCORE", leases, "r1"))
    far = opened + 3_600_000
    await broker.client.execute("ZADD", leases, far, "r1")
    status, _ = await worker.send(fence=1, events=events)
    assert status == 200
    assert opened <= float(await broker.client.execute("ZSCORE", leases, "r1")) < far


async def test_whoever_was_taken_over_is_fenced(worker: HttpWorker, broker: Broker) -> None:
    await worker.open(events=numbered(STARTED))
    partition = broker.keys.partition(Owner("", "alice"))

    async def taken_over() -> bool:
        """By us, or by a gateway that sweeps; one that has just begun spares the run once more."""
        await expire(broker, "r1")
        fence: bytes = await broker.client.execute(
            "HGET", broker.keys.run(partition, "r1"), "fence"
        )
        return fence != b"1"

    await until(taken_over)
    refused(await worker.send(fence=1, events=numbered(THOUGHT, first=2)), 409, "fenced")
    refused(await worker.send(fence=2, events=numbered(THOUGHT, first=2)), 409, "fenced")
    assert "agent_thinking" not in [each["type"] for each in await logged(broker, "r1")]


@pytest.mark.parametrize("fence", [0, 2, -1, 2**60])
async def test_another_fence_is_not_the_runs(
    worker: HttpWorker, broker: Broker, fence: int
) -> None:
    await worker.open(events=numbered(STARTED))
    for events in ([], numbered(THOUGHT, first=2), numbered(STARTED)):
        refused(await worker.send(fence=fence, events=events), 409, "fenced")
    assert [each["type"] for each in await logged(broker, "r1")] == ["agent_started"]


async def test_one_of_two_workers_opens_it(worker: HttpWorker) -> None:
    await worker.open(worker="host-1")
    await worker.open(worker="host-1")
    for other in ({"worker": "host-2"}, {}):
        opening = {"agent_name": "report", "thread_id": "t1", **other}
        refused(await worker.send(open=opening), 409, "run_exists")


# --- once


async def test_the_same_at_once_at_two_gateways_is_published_once(
    worker: HttpWorker, broker: Broker
) -> None:
    many = [THOUGHT] * 20 + [CALLED, RETURNED] + [THOUGHT] * 20
    for run_id in (f"r{number}" for number in range(8)):
        await worker.open(run_id, events=numbered(STARTED, CALLED))
        back = [{**RETURNED}, *many, delta(0, "text"), {**CALLED}, ENDED]
        body = {"run_id": run_id, "fence": 1, "events": numbered(*back, first=3)}
        answers = await asyncio.gather(
            *(worker.send(base=base, **body) for base in (*worker.bases, *worker.bases))
        )
        assert {status for status, _ in answers} == {200}, answers
        told = [answer["events"] for _, answer in answers]
        assert told.count(told[0]) == len(told)
        entries = await logged(broker, run_id)
        assert [each["seq"] for each in entries] == list(range(1, len(back) + 3))
        assert entries[-1]["type"] == "agent_completed"
        assert entries[-1]["id"] == told[0][-1]["id"]


@pytest.mark.parametrize(
    "lost", [b"register", b"agent_thinking", b"agent_completed"], ids=["open", "publish", "end"]
)
async def test_a_lost_reply_of_redis_costs_and_doubles_nothing(
    settings: Settings, broker: Broker, lost: bytes
) -> None:
    async with faulty_network(settings.redis_url or "") as network:
        behind = settings.model_copy(update={"redis_url": network.url})
        async with Gateway(behind) as gateway, Gateway(settings) as other:
            bases = (f"http://127.0.0.1:{each.port}" for each in (gateway, other))
            async with HttpWorker(*bases) as worker:
                await worker.open("warm", events=numbered(STARTED, THOUGHT, ENDED))
                await worker.send(run_id="warm", fence=1)
                # The second run's own word: no other command of this gateway has it.
                network.lose_reply_to = b"r1" if lost == b"register" else lost
                first = await worker.open(events=numbered(*WHOLE))
                assert network.lost == 1
                again = await worker.open(events=numbered(*WHOLE))
                assert first == again
    entries = await logged(broker, "r1")
    assert [each["seq"] for each in entries] == [1, 2, 3, 4, 5]
    assert [each["id"] for each in entries] == [each["id"] for each in first["events"]]


async def test_an_id_that_was_trimmed_is_null(worker: HttpWorker, broker: Broker) -> None:
    told = await worker.open(events=numbered(STARTED, THOUGHT))
    log = broker.keys.channel(Owner("", "alice"), Scope.USER).log
    await broker.client.execute("XDEL", log, told["events"][0]["id"])
    again = await worker.say(STARTED, THOUGHT, first=1)
    assert again["events"] == [{"seq": 1, "id": None}, told["events"][1]]


# --- refusals


async def test_only_the_worker_key_opens_it(settings: Settings, bases: tuple[str, str]) -> None:
    opening: Event = {"open": {"agent_name": "report"}}
    for key in (token("alice"), OPERATOR_KEY, WORKER_KEY[:-1], WORKER_KEY + "x", "", "é"):
        async with HttpWorker(bases[0], key=key) as worker:
            refused(await worker.send(**opening), 403, "worker_key_required")
    async with HttpWorker(bases[0], key=None) as worker:
        refused(await worker.send(**opening), 401, "unauthorized")
    async with Gateway(settings.model_copy(update={"worker_key": None})) as gateway:
        for any_key in (None, WORKER_KEY, token("alice")):
            async with HttpWorker(f"http://127.0.0.1:{gateway.port}", key=any_key) as worker:
                refused(await worker.send(**opening), 403, "worker_key_required")


async def test_a_user_has_no_use_for_the_worker_key(bases: tuple[str, str]) -> None:
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {WORKER_KEY}"}) as http,
        http.get(f"{bases[0]}/api/v1/history") as response,
    ):
        assert response.status == 401


@pytest.mark.parametrize(
    ("events", "refusal"),
    [
        ([THOUGHT], (409, "lifecycle_violation", {"index": 0})),
        ([delta(0, "x")], (409, "lifecycle_violation", {"index": 0})),
        ([STARTED, STARTED], (409, "lifecycle_violation", {"index": 1})),
        ([STARTED, RETURNED], (409, "lifecycle_violation", {"index": 1})),
        ([STARTED, CALLED, CALLED], (409, "lifecycle_violation", {"index": 2})),
        ([STARTED, CALLED, RETURNED, RETURNED], (409, "lifecycle_violation", {"index": 3})),
        ([STARTED, ENDED, THOUGHT], (409, "run_closed", {"index": 2})),
        ([STARTED, ENDED, ENDED], (409, "run_closed", {"index": 2})),
        ([STARTED, ENDED, delta(0, "x")], (409, "run_closed", {"index": 2})),
        ([STARTED, {"type": "agent_danced"}], (400, "bad_event", {"index": 1})),
        ([STARTED, {"type": "user_message"}], (400, "bad_event", {"index": 1})),
        ([STARTED, {"type": "agent_thinking"}], (400, "bad_event", {"index": 1})),
        (
            [STARTED, {**RETURNED, "payload": {"tool": {}, "call_id": [], "result": 1}}],
            (400, "bad_event", {"index": 1}),
        ),
        ([STARTED, delta(-1, "x")], (400, "bad_event", {"index": 1})),
        ([STARTED, delta(0, "")], (400, "bad_event", {"index": 1})),
        ([STARTED, delta(0, "x" * 20_000)], (400, "bad_event", {"index": 1})),
        ([STARTED, {"type": "agent_delta", "payload": {"text": "x"}}], (400, "bad_event", {})),
        (
            [STARTED, {**THOUGHT, "payload": {"thoughts": "x" * 262_144}}],
            (413, "too_large", {"index": 1}),
        ),
        ([STARTED, *([THOUGHT] * MAX_EVENTS)], (413, "too_many_events", {})),
        (
            [STARTED, {**THOUGHT, "payload": {"thoughts": "x" * 524_288}}],
            (413, "message_too_large", {}),
        ),
    ],
)  # fmt: skip
async def test_a_refusal_says_which_event_and_publishes_none(
    worker: HttpWorker,
    broker: Broker,
    events: list[Event],
    refusal: tuple[int, str, Event],
) -> None:
    await worker.open()
    status, code, more = refusal
    refused(await worker.send(fence=1, events=numbered(*events)), status, code, **more)
    assert await logged(broker, "r1") == []
    # And the run is where it was.
    await worker.say(*WHOLE, first=1)


async def test_a_gap_tells_what_comes_next(worker: HttpWorker) -> None:
    await worker.open(events=numbered(STARTED))
    for event in (THOUGHT, ENDED):
        gap = await worker.send(fence=1, events=numbered(event, first=3))
        refused(gap, 409, "seq_gap", expected_seq=2, index=0)
    await worker.say(THOUGHT, ENDED, first=2)


async def test_nothing_is_accepted_after_the_end(worker: HttpWorker) -> None:
    await worker.open(events=numbered(STARTED, ENDED))
    for event in (THOUGHT, ENDED):
        refused(await worker.send(fence=1, events=numbered(event, first=3)), 409, "run_closed")
    refused(await worker.send(fence=1, events=[delta(0, "x")]), 409, "run_closed")
    status, told = await worker.send(fence=1)
    assert (status, told["state"]) == (200, "completed")


async def test_runs_of_others_are_not_there(worker: HttpWorker, broker: Broker) -> None:
    """Another user's, one that never was, and one that a process holds."""
    await worker.open(events=numbered(STARTED))
    refused(await worker.send(user_id="bob", fence=1), 404, "run_not_found")
    refused(await worker.send(run_id="r2", fence=1), 404, "run_not_found")
    owner = Owner("", "alice")
    request = RunRequest(
        run_id="held", owner=owner, channel=broker.keys.channel(owner, Scope.USER), thread_id="t1",
        agent="report",
    )  # fmt: skip
    spec = AgentSpec(name="report", on_busy="parallel")
    await broker.open_run(request, spec, worker_id="publisher-1")
    refused(await worker.send(run_id="held", fence=1), 409, "fenced")
    opening = {"agent_name": "report", "thread_id": "t1"}
    refused(await worker.send(run_id="held", open=opening), 409, "run_exists")


async def test_an_id_is_not_another_users_in_the_same_partition(
    worker: HttpWorker, broker: Broker
) -> None:
    """Their keys are side by side, and a caller chooses the id."""
    keys = broker.keys
    mine = keys.partition(Owner("", "alice"))
    names = (f"bob-{number}" for number in range(10_000))
    bob = next(name for name in names if keys.partition(Owner("", name)) == mine)
    await worker.open(events=numbered(STARTED))
    opening = {"agent_name": "report", "thread_id": "t1"}
    refused(await worker.send(user_id=bob, open=opening), 409, "run_exists")
    refused(await worker.send(user_id=bob, fence=1), 404, "run_not_found")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "bad_body"),
        ({"fence": 1, "open": {"agent_name": "a"}}, "bad_body"),
        ({"fence": "1"}, "bad_body"),
        ({"fence": True}, "bad_body"),
        ({"fence": 1, "run_id": ""}, "invalid_run_id"),
        ({"fence": 1, "run_id": 7}, "invalid_run_id"),
        ({"fence": 1, "user_id": "x" * 257}, "invalid_user_id"),
        ({"fence": 1, "tenant": ""}, "invalid_tenant"),
        ({"fence": 1, "further": 1}, "unknown_field"),
        ({"fence": 1, "events": {}}, "bad_body"),
        ({"fence": 1, "events": ["agent_started"]}, "bad_body"),
        ({"fence": 1, "events": [STARTED]}, "bad_body"),
        ({"fence": 1, "events": [{**STARTED, "seq": 0}]}, "bad_body"),
        ({"fence": 1, "events": [{**STARTED, "seq": 1, "id": "1-1"}]}, "unknown_field"),
        ({"fence": 1, "events": [{"seq": 1}]}, "bad_body"),
        ({"fence": 1, "events": [{**STARTED, "seq": 1}, {**THOUGHT, "seq": 3}]}, "bad_body"),
        ({"fence": 1, "events": [{**delta(0, "x"), "seq": 1}]}, "bad_body"),
        ({"open": []}, "bad_body"),
        ({"open": {}}, "invalid_agent_name"),
        ({"open": {"agent_name": "a", "agent": "a"}}, "unknown_field"),
        ({"open": {"agent_name": "a", "scope": "connection"}}, "invalid_scope"),
        ({"open": {"agent_name": "a", "scope": []}}, "invalid_scope"),
        ({"open": {"agent_name": "a", "metadata": 1}}, "bad_body"),
        ({"open": {"agent_name": "a", "content": DEEP}}, "bad_body"),
        ({"open": {"agent_name": "a", "metadata": {"a": DEEP}}}, "bad_body"),
        ({"open": {"agent_name": "a", "thread_id": "\n"}}, "invalid_thread_id"),
    ],
)
async def test_a_body_that_is_none_is_refused(
    worker: HttpWorker, body: dict[str, Any], code: str
) -> None:
    refused(await worker.send(**body), 400, code)


async def test_a_request_of_a_run_is_limited_as_a_message_is(worker: HttpWorker) -> None:
    opening = {"agent_name": "report", "content": "x" * 65_536}
    refused(await worker.send(open=opening), 413, "too_large")


async def test_the_same_run_is_opened_as_it_was(worker: HttpWorker) -> None:
    await worker.open()
    opening = {"agent_name": "report", "thread_id": "t1"}
    changes: tuple[dict[str, Any], ...] = (
        {"agent_name": "other"}, {"thread_id": "t2"}, {"scope": "run"},
    )  # fmt: skip
    for change in changes:
        refused(await worker.send(open={**opening, **change}), 409, "run_exists")
