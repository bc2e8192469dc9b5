"""What the socket can do, over HTTP (protocol section 7), and looking back."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import AsyncMock
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp.test_utils import make_mocked_request
from yarl import URL

from agents_sdk import Run, Worker
from broker.config import Settings
from broker.redis.broker import Broker
from gateway.bodies import read_object
from gateway.commands import new_id
from gateway.handshake import BadRequest
from tests.mission_critical.test_g1_published_once import opened, thought
from tests.support.clients import FIVE, Client, payload_of
from tests.support.servers import OPERATOR_KEY, token


class Agents:
    """``speaks`` streams two words and waits until it may end; others just do."""

    def __init__(self, settings: Settings) -> None:
        self.worker = Worker(settings=settings)
        self.go_on, self.spoke = asyncio.Event(), asyncio.Event()
        self.worker.agent("echoes")(self._echoes)
        self.worker.agent("speaks")(self._speaks)
        self.worker.agent("asks")(self._asks)

    async def _echoes(self, run: Run) -> str:
        await run.think("a moment")
        async with run.tool("look") as call:
            call.result = run.content
        return f"you said {run.content}"

    async def _asks(self, run: Run) -> str:
        await run.think("perhaps")
        return str(await run.ask("Go on?"))

    async def _speaks(self, run: Run) -> None:
        await run.write("one ")
        await run.write("two")
        await run.think("said it")
        self.spoke.set()
        await self.go_on.wait()


@pytest.fixture
async def agents(settings: Settings) -> AsyncIterator[Agents]:
    agents = Agents(settings)
    async with agents.worker.running():
        yield agents


class Caller:
    """One user, with nothing but HTTP."""

    def __init__(self, base: str, user: str = "alice") -> None:
        self._base = base
        self._headers = {"Authorization": f"Bearer {token(user)}"}

    async def __call__(
        self, method: str, path: str, body: Any = None, **query: str
    ) -> tuple[int, dict[str, Any]]:
        url = URL(f"{self._base}/api/v1{path}", encoded=True).update_query(query)
        async with (
            aiohttp.ClientSession(headers=self._headers) as http,
            http.request(method, url, json=body) as response,
        ):
            return response.status, await response.json()

    async def begin(self, content: Any = "hello", **fields: Any) -> dict[str, Any]:
        body = {"agent": "echoes", "content": content, **fields}
        status, told = await self("POST", "/messages", body)
        assert status == 202, told
        return told

    async def ended(self, run_id: str) -> dict[str, Any]:
        """The run's view, once it has ended."""
        async with asyncio.timeout(30):
            while True:
                status, told = await self("GET", f"/runs/{run_id}")
                assert status == 200, told
                if told["state"] == "completed":
                    return told
                await asyncio.sleep(0.02)


@pytest.fixture
def alice(base: str) -> Caller:
    return Caller(base)


# --- messages


async def test_a_message_begins_a_run_that_every_tab_sees(
    base: str, alice: Caller, agents: Agents
) -> None:
    async with Client(base) as tab:
        await tab.first("live")
        told = await alice.begin({"n": 1}, id="m1", metadata={"k": "v"})
        assert told.keys() == {"run_id", "thread_id", "agent", "duplicate"}
        assert (told["agent"], told["duplicate"]) == ("echoes", False)
        await tab.completed(told["run_id"])
        assert [event["type"] for event in tab.events(told["run_id"])] == list(FIVE)
        said = await tab.first("user_message")
        assert (said["payload"]["content"], said["payload"]["message_id"]) == ({"n": 1}, "m1")
        assert said["payload"]["metadata"] == {"k": "v"}


async def test_the_same_id_is_the_same_run_also_over_the_socket(
    base: str, alice: Caller, agents: Agents
) -> None:
    """Sent again at another gateway or over another transport, it begins nothing new."""
    first = await alice.begin(id="m1")
    again = await alice.begin(id="m1")
    assert (again["run_id"], again["duplicate"]) == (first["run_id"], True)
    async with Client(base) as tab:
        await tab.send("user_message", {"content": "hello", "agent": "echoes"}, ref="m1")
        assert payload_of(await tab.reply("m1"))["run_id"] == first["run_id"]


async def test_many_at_once_with_one_id_are_one_run(alice: Caller, agents: Agents) -> None:
    told = await asyncio.gather(*(alice.begin(id="m1") for _ in range(20)))
    assert len({each["run_id"] for each in told}) == 1
    assert sum(not each["duplicate"] for each in told) == 1


@pytest.mark.parametrize(
    ("fields", "query"),
    [
        ({"mode": "factory", "thread_id": "t1"}, {"mode": "factory", "thread_id": "t1"}),
        ({"thread_id": "t1"}, {"mode": "main", "thread_id": "t1"}),
        ({"mode": "legacy"}, {"mode": "main"}),
    ],
)
async def test_a_run_publishes_where_its_mode_says(
    base: str, alice: Caller, agents: Agents, fields: dict[str, str], query: dict[str, str]
) -> None:
    async with Client(base, query=query) as tab:
        await tab.first("live")
        told = await alice.begin(**fields)
        await tab.completed(told["run_id"])
        if "thread_id" in fields:
            assert told["thread_id"] == "t1"


async def test_a_strict_run_is_read_by_attaching_to_it(
    base: str, alice: Caller, agents: Agents
) -> None:
    async with Client(base) as other:
        told = await alice.begin(mode="factory", isolation_level="strict")
        query = {"mode": "factory", "isolation_level": "strict", "run_id": told["run_id"]}
        async with Client(base, query={**query, "after": "0-0"}) as tab:
            await tab.completed(told["run_id"])
        await other.send("ping", ref="p")
        await other.reply("p")
        assert other.events() == []


async def test_an_isolated_message_takes_its_connections_secret(
    base: str, alice: Caller, agents: Agents
) -> None:
    async with Client(base, mode="isolated") as tab:
        hello = payload_of(await tab.first("connection_established"))
        mine = {"mode": "isolated", "connection": hello["connection_id"]}
        told = await alice.begin(**mine, secret=hello["secret"])
        await tab.completed(told["run_id"])
        assert tab.close_code is None, "looking was not taking up"
        body = {"agent": "echoes", "content": "x", **mine}
        for wrong, status, code in (
            ({"secret": "wrong"}, 403, "connection_unknown"),
            ({}, 400, "secret_required"),
        ):
            got, refused = await alice("POST", "/messages", {**body, **wrong})
            assert (got, refused["code"]) == (status, code)
        got, refused = await Caller(base, "bob")(
            "POST", "/messages", {**body, "secret": hello["secret"]}
        )
        assert (got, refused["code"]) == (403, "connection_unknown")
        got, refused = await alice("POST", "/messages", {"content": "x", "mode": "isolated"})
        assert (got, refused["code"]) == (400, "secret_required")


BAD: dict[str, tuple[Any, int, str]] = {
    "nothing": ({}, 400, "bad_frame"),
    "empty": ({"content": ""}, 400, "bad_frame"),
    "a number": ({"content": 5}, 400, "bad_frame"),
    "metadata": ({"content": "x", "metadata": []}, 400, "bad_frame"),
    "an id": ({"content": "x", "id": 5}, 400, "bad_frame"),
    "an empty id": ({"content": "x", "id": ""}, 400, "bad_frame"),
    "a mode": ({"content": "x", "mode": "mian"}, 400, "invalid_mode"),
    "a mode's type": ({"content": "x", "mode": 1}, 400, "bad_body"),
    "a level": ({"content": "x", "isolation_level": "strict"}, 400, "parameter_not_allowed"),
    "a field": ({"content": "x", "agents": "y"}, 400, "unknown_field"),
    "a list": ([], 400, "bad_body"),
    "an agent": ({"content": "x", "agent": "nobody"}, 404, "unknown_agent"),
}


@pytest.mark.parametrize("case", BAD)
async def test_what_is_no_message_is_told(alice: Caller, agents: Agents, case: str) -> None:
    body, status, code = BAD[case]
    got, told = await alice("POST", "/messages", body)
    assert (got, told["code"]) == (status, code)


# --- runs


async def test_a_run_is_seen_and_stopped(alice: Caller, agents: Agents) -> None:
    told = await alice.begin(agent="speaks")
    await agents.spoke.wait()
    _, view = await alice("GET", f"/runs/{told['run_id']}")
    assert (view["state"], view["text"], view["status"]) == ("running", "one two", None)
    for _ in range(2):  # as often as one likes
        status, stopped = await alice("POST", f"/runs/{told['run_id']}/stop")
        assert (status, stopped) == (202, {"run_id": told["run_id"]})
    assert (await alice.ended(told["run_id"]))["status"] == "cancelled"
    assert (await alice("POST", f"/runs/{told['run_id']}/stop"))[0] == 202


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/runs/{}"), ("POST", "/runs/{}/stop"), ("POST", "/runs/{}/input")]
)
async def test_anothers_run_and_one_that_is_not_there_are_told_alike(
    base: str, alice: Caller, agents: Agents, method: str, path: str
) -> None:
    told = await alice.begin()
    bob = Caller(base, "bob")
    answers = []
    for run_id in (told["run_id"], new_id(), "a/b", "%"):
        body = {"request_id": "r", "content": "x"} if path.endswith("input") else None
        status, answer = await bob(method, path.format(quote(run_id, safe="")), body)
        answers.append((status, {**answer, "detail": answer["detail"].replace(run_id, "")}))
    assert all(each == answers[0] for each in answers)
    assert (answers[0][0], answers[0][1]["code"]) == (404, "run_not_found")


async def test_a_question_is_answered_once(base: str, alice: Caller, agents: Agents) -> None:
    told = await alice.begin(agent="asks")
    async with Client(base, after="0-0") as tab:
        asked = await tab.first("input_required")
        path, request_id = f"/runs/{told['run_id']}/input", asked["payload"]["request_id"]
        answer = {"request_id": request_id, "content": {"yes": True}}
        for _ in range(2):  # the same again is the same answer
            assert await alice("POST", path, answer) == (202, {"run_id": told["run_id"]})
        status, refused = await alice("POST", path, {**answer, "content": "no"})
        assert (status, refused["code"]) == (403, "not_allowed")
        status, refused = await alice("POST", path, {"request_id": request_id})
        assert (status, refused["code"]) == (400, "bad_frame")
        end = await tab.completed(told["run_id"])
        assert end["payload"]["response"] == "{'yes': True}"


# --- history


async def test_history_is_read_page_by_page(alice: Caller, broker: Broker) -> None:
    claim = await opened(broker, "alice")
    for seq in range(1, 8):
        await broker.publish(claim, thought(claim, seq))
    seen, query = [], {"limit": "3"}
    while True:
        _, page = await alice("GET", "/history", **query)
        seen += [event["seq"] for event in page["events"]]
        assert "resync" not in page
        query["after"] = page["cursor"]
        if not page["more"]:
            break
    assert seen == [1, 2, 3, 4, 5, 6, 7]
    assert page["events"][-1]["id"] == page["cursor"]
    _, page = await alice("GET", "/history", after=page["cursor"])
    assert (page["events"], page["more"]) == ([], False)


async def test_a_filter_does_not_move_the_cursor(alice: Caller, broker: Broker) -> None:
    """It counts in the whole log, so a page that filters everything out still moves on."""
    claim = await opened(broker, "alice")
    for seq in range(1, 4):
        await broker.publish(claim, thought(claim, seq))
    _, page = await alice("GET", "/history", thread_id="another")
    assert (page["events"], page["more"]) == ([], False)
    assert page["cursor"] != "0-0"
    _, page = await alice("GET", "/history", thread_id="t", events="lifecycle")
    assert [event["seq"] for event in page["events"]] == [1, 2, 3]


async def test_history_by_a_run_is_of_runs_that_have_a_channel_of_their_own(
    base: str, alice: Caller, agents: Agents
) -> None:
    """It told all that an isolated connection had, to who did not have its secret."""
    strict = await alice.begin(mode="factory", isolation_level="strict")
    async with Client(base, mode="isolated") as hidden:
        private = await hidden.ask("psst", agent="echoes")
        await hidden.completed(private)
    shared = await alice.begin()
    for run_id, wanted in ((strict["run_id"], 200), (private, 404), (shared["run_id"], 404)):
        status, told = await alice(
            "GET", "/history", mode="factory", isolation_level="strict", run_id=run_id
        )
        # The level goes without saying: the protocol's list of parameters has only the run.
        assert await alice("GET", "/history", mode="factory", run_id=run_id) == (status, told)
        assert status == wanted
        assert told.get("code") == (None if wanted == 200 else "run_not_found")


async def test_history_has_nothing_of_anothers(base: str, broker: Broker) -> None:
    claim = await opened(broker, "alice")
    await broker.publish(claim, thought(claim, 1))
    foreign = b"0-0 :bob t r 1 agent_thinking\n" + thought(claim, 2).body
    await broker.client.execute("XADD", claim.channel.log, "*", "e", foreign)
    _, page = await Caller(base)("GET", "/history")
    assert [event["seq"] for event in page["events"]] == [1]
    _, page = await Caller(base, "bob")("GET", "/history")
    assert page["events"] == []


async def test_a_cursor_that_is_not_in_the_log_is_told(alice: Caller, broker: Broker) -> None:
    claim = await opened(broker, "alice")
    await broker.publish(claim, thought(claim, 1))
    _, page = await alice("GET", "/history", after="1-1")
    assert page["resync"] == {"reason": "expired", "from": "0-0"}
    assert len(page["events"]) == 1


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"after": "x"}, "invalid_after"),
        ({"limit": "0"}, "invalid_limit"),
        ({"limit": "501"}, "invalid_limit"),
        ({"limit": "x"}, "invalid_limit"),
        ({"limit": "9" * 5000}, "invalid_limit"),
        ({"limit": "\N{ARABIC-INDIC DIGIT THREE}"}, "invalid_limit"),
        ({"mode": "factory"}, "thread_id_required"),
        ({"mode": "factory", "isolation_level": "strict"}, "run_id_required"),
        ({"mode": "isolated"}, "secret_required"),
        ({"nonsense": "1"}, "unknown_parameter"),
    ],
)
async def test_a_history_that_cannot_be_asked_for(
    alice: Caller, query: dict[str, str], code: str
) -> None:
    status, told = await alice("GET", "/history", **query)
    assert (status, told["code"]) == (400, code)


# --- bodies


async def test_a_body_that_is_not_encoded_as_it_says_is_the_clients_fault(base: str) -> None:
    """It was a 500, with a traceback in the log."""
    headers = {"Authorization": f"Bearer {token()}", "Content-Encoding": "gzip"}
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.post(f"{base}/api/v1/messages", data=b"{}") as response,
    ):
        assert (response.status, (await response.json())["code"]) == (400, "bad_body")


async def test_a_client_that_leaves_amid_its_body_is_no_failure_of_the_gateways() -> None:
    """Each was logged as ``request_failed``, with a traceback."""
    payload = aiohttp.StreamReader(AsyncMock(), 1, loop=asyncio.get_running_loop())
    payload.set_exception(ConnectionResetError())
    with pytest.raises(BadRequest, match="went away"):
        await read_object(make_mocked_request("POST", "/", payload=payload))


# --- threads


async def test_a_thread_is_all_that_a_page_needs_after_a_reload(
    base: str, alice: Caller, agents: Agents
) -> None:
    done = await alice.begin("first", thread_id="t1", id="m1")
    await alice.ended(done["run_id"])
    await alice.begin("elsewhere", thread_id="t2")
    under_way = await alice.begin("second", thread_id="t1", agent="speaks")
    await agents.spoke.wait()
    _, told = await alice("GET", "/threads/t1")
    said = [(each["role"], each["content"], each["run_id"]) for each in told["messages"]]
    assert said == [
        ("user", "first", done["run_id"]),
        ("agent", "you said first", done["run_id"]),
        ("user", "second", under_way["run_id"]),
    ]
    assert (told["messages"][0]["message_id"], told["messages"][1]["status"]) == ("m1", "succeeded")
    (run,) = told["runs"]
    assert (run["run_id"], run["state"], run["text"]) == (under_way["run_id"], "running", "one two")
    assert [event["type"] for event in run["events"]] == ["agent_started", "agent_thinking"]
    # From its cursor the page goes on as if it had never been away.
    async with Client(base, after=told["cursor"], thread_id="t1") as tab:
        agents.go_on.set()
        end = await tab.completed(under_way["run_id"])
        assert end["payload"]["response"] == "one two"
        assert [event["type"] for event in tab.events()] == ["agent_completed"]


async def test_a_thread_shows_a_run_that_waits_for_its_turn_too(
    alice: Caller, agents: Agents
) -> None:
    """Until it began a page that was reloaded had nothing of it but its message."""
    first = await alice.begin("first", thread_id="t1", agent="speaks")
    await agents.spoke.wait()
    second = await alice.begin("second", thread_id="t1")
    _, told = await alice("GET", "/threads/t1")
    assert [(run["run_id"], run["state"]) for run in told["runs"]] == [
        (first["run_id"], "running"),
        (second["run_id"], "queued"),
    ]
    assert (told["runs"][1]["events"], told["runs"][1]["text"]) == ([], "")
    agents.go_on.set()
    await alice.ended(second["run_id"])
    _, told = await alice("GET", "/threads/t1")
    assert told["runs"] == []


async def test_threads_are_listed_by_their_last_use(
    base: str, alice: Caller, agents: Agents
) -> None:
    for thread in ("a", "b", "ü/%:", "a"):
        await alice.begin(thread_id=thread)
    await Caller(base, "bob").begin(thread_id="bobs")
    _, told = await alice("GET", "/threads")
    assert [each["thread_id"] for each in told["threads"]] == ["a", "ü/%:", "b"]
    assert all(each["used_at"].endswith("Z") for each in told["threads"])
    _, told = await alice("GET", "/threads", limit="1")
    assert [each["thread_id"] for each in told["threads"]] == ["a"]
    _, told = await alice("GET", f"/threads/{quote('ü/%:', safe='')}")
    assert [each["content"] for each in told["messages"]][:1] == ["hello"]


async def test_a_thread_of_nobody_is_empty_and_anothers_too(
    base: str, alice: Caller, agents: Agents
) -> None:
    await alice.begin(thread_id="t1")
    for caller, thread in ((alice, "nothing"), (Caller(base, "bob"), "t1")):
        _, told = await caller("GET", f"/threads/{thread}")
        assert (told["messages"], told["runs"]) == ([], [])


# --- who may


PATHS = (
    ("POST", "/messages"), ("GET", "/runs/r"), ("POST", "/runs/r/stop"),
    ("POST", "/runs/r/input"), ("GET", "/history"),
    ("GET", "/threads"), ("GET", "/threads/t"),
)  # fmt: skip


@pytest.mark.parametrize(("method", "path"), PATHS)
async def test_only_users_may(base: str, method: str, path: str) -> None:
    for credential, status, code in (
        (None, 401, "unauthorized"),
        ("nonsense", 401, "unauthorized"),
        (token(ttl_seconds=-5), 401, "unauthorized"),
        (OPERATOR_KEY, 401, "unauthorized"),
        (token(operator=True), 403, "user_token_required"),
    ):
        headers = {} if credential is None else {"Authorization": f"Bearer {credential}"}
        async with (
            aiohttp.ClientSession(headers=headers) as http,
            http.request(method, f"{base}/api/v1{path}") as response,
        ):
            assert (response.status, (await response.json())["code"]) == (status, code)


async def test_a_body_with_too_many_bytes(
    base: str, alice: Caller, agents: Agents, settings: Settings
) -> None:
    status, told = await alice("POST", "/messages", {"content": "x" * settings.max_message_bytes})
    assert (status, told["code"]) == (413, "message_too_large")


async def test_another_method_is_told_which_there_are(base: str) -> None:
    async with aiohttp.ClientSession() as http, http.delete(f"{base}/api/v1/messages") as response:
        assert (response.status, response.headers["Allow"]) == (405, "POST")
        assert (await response.json())["code"] == "method_not_allowed"
