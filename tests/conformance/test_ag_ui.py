"""Official clients of AG-UI 1.0: npm ``@ag-ui/client``, and ``@tanstack/ai-client`` over SSE."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from agents_sdk import Run, Worker
from broker.channels import Owner
from broker.config import Settings
from broker.redis.broker import Broker
from gateway.app import Gateway
from tests.conformance.ag_ui_client import Clients, Page
from tests.support.agui import check_stream
from tests.support.clients import eventually
from tests.support.fault_proxy import FaultProxy
from tests.support.servers import OPERATOR_KEY, Redis, running_fleet, token

SAID = "Grüße 👋🏽 from the 東京 office, “quoted”, \u2028 and a tab\t."


class Agents:
    """What they do on purpose, and the runs that they have begun."""

    def __init__(self, settings: Settings) -> None:
        self.go_on = asyncio.Event()
        self.begun: list[Run] = []
        self.answers: list[Any] = []
        self.worker = Worker(settings=settings)
        for agent in (self.all, self.many, self.waits, self.asks, self.fails, self.pieces):
            self.worker.agent(agent.__name__, on_busy="parallel")(agent)

    async def all(self, run: Run) -> str:
        """The five, text, and a sub-agent."""
        self.begun.append(run)
        await run.think(f"thinking of {run.content}", progress=0.5)
        await run.write(f"Let me see. {SAID}")
        async with run.tool("look", at=run.content) as call:
            call.result = {"seen": run.content}
        async with run.subagent("helper") as helper:
            await helper.think("deep")
            async with helper.tool("dig") as call:
                call.result = "seven"
            await helper.write("Seven it is.")
        return f"Let me see. {SAID}So you said {run.content}"

    async def many(self, run: Run) -> str:
        """Five calls at once, of which one fails."""

        async def one(number: int) -> None:
            async with run.tool("look", number=number) as call:
                await asyncio.sleep(0)  # so that all of them are open at once
                if number == 2:
                    raise ValueError("two is too many")
                call.result = number

        await asyncio.gather(*(one(number) for number in range(5)))
        return "all back"

    async def waits(self, run: Run) -> None:
        """In mid-text."""
        self.begun.append(run)
        await run.think("one")
        await run.write(SAID)
        await self.go_on.wait()
        await run.think("two")
        await run.write(SAID)

    async def asks(self, run: Run) -> None:
        self.begun.append(run)
        await run.write("Before. ")
        self.answers.append(await run.ask("Go on?", schema={"type": "boolean"}))
        await run.write("Between. ")
        async with run.subagent("helper") as helper:
            self.answers.append(await helper.ask("Sure?"))
        await run.write("After.")

    async def fails(self, run: Run) -> None:
        await run.write("so far so ")
        await self.go_on.wait()  # once it has failed, what was not read yet is told to nobody
        async with run.tool("look"):
            raise RuntimeError("it broke")
        raise RuntimeError("it broke too")

    async def pieces(self, run: Run) -> None:
        """Of everything a little, for as long as it is not told to go on."""
        self.begun.append(run)
        for number in range(200):
            await run.think(f"thought {number}")
            async with run.tool("count", number=number) as call:
                call.result = number
            await run.write(f"{number}é ")
            if self.go_on.is_set():
                break
            await asyncio.sleep(0.01)  # how fast it talks; nothing waits for it


@pytest.fixture
async def agents(settings: Settings) -> AsyncIterator[Agents]:
    agents = Agents(settings)
    async with agents.worker.running():
        yield agents
        agents.go_on.set()


@pytest.fixture
async def clients() -> AsyncIterator[Clients]:
    async with Clients.running() as clients:
        yield clients
    assert not [each for each in clients.warned if "ag-ui" in each], clients.warned


def user(text: str = "hi") -> list[dict[str, Any]]:
    return [{"id": "user-m1", "role": "user", "content": text}]


async def status_of(broker: Broker, run_id: str) -> str | None:
    status: str | None = (await broker.run(Owner("", "alice"), run_id))["status"]
    return status


async def call(method: str, url: str, bearer: str, body: Any = None) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {bearer}"}
    async with aiohttp.request(method, url, json=body, headers=headers) as answer:
        return answer.status, await answer.json(content_type=None)


# --- the official client


async def test_a_whole_run(base: str, agents: Agents, clients: Clients) -> None:
    """Its pipeline enforces the schema and verifies the order; ours agrees with it."""
    page = await clients.open(base, "all")
    await page.ends(SAID, props={"locale": "de"})
    check_stream(page.events)
    (run,) = agents.begun
    assert (run.content, run.thread_id) == (SAID, "t")
    assert run.metadata["agui"] == {"forwardedProps": {"locale": "de"}}
    assert page.our_run == run.id
    assert page.end["outcome"] == {"type": "success"}
    assert page.end["result"] == f"Let me see. {SAID}So you said {SAID}"
    thoughts = [(each["content"], each.get("subagentRunId")) for each in page.messages("reasoning")]
    (started,) = page.all("SUBAGENT_STARTED")
    helper = started["subagentRunId"]
    assert thoughts == [(f"thinking of {SAID}", None), ("deep", helper)]
    assert started["name"] == "helper"
    said = {None: "", helper: ""}  # text beside a tool call may come before or after it
    for each in page.messages("assistant"):
        said[each.get("subagentRunId")] += each.get("content") or ""
    assert said == {None: page.end["result"], helper: "Seven it is."}
    look, dig = page.messages("tool")
    assert json.loads(look["content"]) == {"seen": SAID}
    assert dig["content"] == "seven"
    (activity,) = page.messages("activity")
    assert activity["content"]["progress"] == 0.5


async def test_tools_in_parallel(base: str, agents: Agents, clients: Clients) -> None:
    page = await clients.open(base, "many")
    await page.ends("go")
    calls = {
        each["id"]: json.loads(each["function"]["arguments"])["number"]
        for message in page.messages("assistant")
        for each in message.get("toolCalls", [])
    }
    results = {
        calls[each["toolCallId"]]: (each["content"], each.get("metadata", {}).get("isError", False))
        for each in page.messages("tool")
    }
    failed, wrong = results.pop(2)
    assert wrong
    assert "two is too many" in json.loads(failed)["error"]["message"]
    assert results == {number: (str(number), False) for number in (0, 1, 3, 4)}
    assert page.text() == "all back"


async def test_a_failure_is_told(base: str, agents: Agents, clients: Clients) -> None:
    page = await clients.open(base, "fails")
    await page.run("go")
    await page.until(lambda: page.deltas() == "so far so ")
    agents.go_on.set()
    await page.until(lambda: page.done)
    assert page.end["type"] == "RUN_ERROR"
    assert page.end["message"] == "it broke too"
    assert page.text() == "so far so "


async def test_to_leave_is_no_stop_and_to_stop_is(
    base: str, agents: Agents, clients: Clients, broker: Broker
) -> None:
    gone, page = await clients.open(base, "waits"), await clients.open(base, "waits")
    await gone.run("go")
    await gone.until(lambda: gone.deltas() == SAID)
    await gone.do("abort")
    await gone.until(lambda: gone.done)
    await page.run("go")
    await page.until(lambda: page.deltas() == SAID)
    assert await status_of(broker, page.our_run) is None
    status, _ = await call("POST", f"{base}/api/v1/runs/{page.our_run}/stop", token(), {})
    assert status == 202
    await page.until(lambda: page.done)
    assert page.end["outcome"] == {"type": "cancelled"}
    assert await status_of(broker, page.our_run) == "cancelled"
    assert len(agents.begun) == 1


async def test_a_question_is_an_interrupt(base: str, agents: Agents, clients: Clients) -> None:
    page = await clients.open(base, "asks")
    await page.ends("go")
    (asked,) = page.done[-1]["pendingInterrupts"]
    assert (asked["message"], asked["responseSchema"]) == ("Go on?", {"type": "boolean"})
    yes = {"interruptId": asked["id"], "status": "resolved", "payload": True}
    await page.ends(run_id="m2", resume=[yes])
    (sure,) = page.done[-1]["pendingInterrupts"]
    (suspended,) = page.all("SUBAGENT_FINISHED")
    assert suspended["outcome"] == {"type": "suspended", "interruptIds": [sure["id"]]}
    assert sure["subagentRunId"] == suspended["subagentRunId"]
    no = {"interruptId": sure["id"], "status": "cancelled"}
    await page.ends(run_id="m3", resume=[no])
    assert page.end["outcome"] == {"type": "success"}
    assert agents.answers == [True, None]
    assert page.text() == "Before. Between. After."
    assert [each["runId"] for each in page.all("RUN_STARTED")] == ["m1", "m2", "m3"]
    assert len(agents.begun) == 1


async def test_a_question_that_another_page_answered(
    base: str, agents: Agents, clients: Clients
) -> None:
    """The first answer counts: another one is refused, and whoever gives up goes on reading."""
    one, two = await clients.open(base, "asks"), await clients.open(base, "asks")
    for page in (one, two):
        await page.ends("go")
    (asked,) = one.done[-1]["pendingInterrupts"]
    answer = {"interruptId": asked["id"], "status": "resolved", "payload": 1}
    await one.ends(run_id="m2", resume=[answer])
    await two.run(run_id="m3", resume=[{**answer, "payload": 2}])
    await two.until(lambda: len(two.done) == 2)
    assert "not_allowed" in two.done[-1]["error"]
    await two.ends(run_id="m4", resume=[{"interruptId": asked["id"], "status": "cancelled"}])
    assert two.done[-1]["pendingInterrupts"][0]["message"] == "Sure?"
    assert two.text() == "Before. Between. "
    assert agents.answers == [1]


async def test_a_late_page_gets_the_text_so_far_and_goes_on(
    base: str, agents: Agents, clients: Clients
) -> None:
    first, late = await clients.open(base, "waits"), await clients.open(base, "waits")
    await first.run("go")
    await first.until(lambda: first.deltas() == SAID)
    await late.run("go")
    await late.until(lambda: late.deltas() == SAID)
    agents.go_on.set()
    await first.until(lambda: first.done and late.done)
    for page in (first, late):
        check_stream(page.events)
        assert page.text() == SAID + SAID
        assert [each["content"] for each in page.messages("reasoning")] == ["one", "two"]
    assert len(agents.begun) == 1


async def test_a_connection_that_was_cut_is_made_again(
    gateway: Gateway, agents: Agents, clients: Clients
) -> None:
    """The same run again: what the page has of it is not doubled, in pieces of a few bytes too."""
    with FaultProxy(("127.0.0.1", gateway.port), resp=False) as proxy, proxy.split(5):
        page = await clients.open(proxy.base, "waits")
        await page.run("go")
        await page.until(lambda: page.deltas() == SAID)
        proxy.cut()
        await page.until(lambda: page.done)
        assert page.kinds()[-1] == "TEXT_MESSAGE_CONTENT"  # which the client takes for a success
        await page.run()
        await page.until(lambda: page.deltas() == SAID + SAID)
        agents.go_on.set()
        await page.until(lambda: len(page.done) == 2)
        assert page.text() == SAID + SAID
        assert [each["content"] for each in page.messages("reasoning")] == ["one", "two"]
        assert len(agents.begun) == 1


async def test_a_position_out_of_the_metadata_resumes(
    gateway: Gateway, agents: Agents, clients: Clients
) -> None:
    with FaultProxy(("127.0.0.1", gateway.port), resp=False) as proxy:
        page = await clients.open(proxy.base, "waits")
        await page.run("go")
        await page.until(lambda: page.deltas() == SAID)
        proxy.cut()
        await page.until(lambda: page.done)
        cursor = page.all("TEXT_MESSAGE_CONTENT")[-1]["metadata"]["runcast"]["cursor"]
        agents.go_on.set()
        await page.ends(headers={"Last-Event-ID": cursor})
        assert page.text() == page.deltas() == SAID + SAID
        assert len(page.all("REASONING_START")) == 2
        assert len(agents.begun) == 1


async def test_no_end_is_silent(base: str, agents: Agents, clients: Clients) -> None:
    """The client takes a stream without an end for a success: it is told to ask again."""
    page = await clients.open(base, "waits")
    await page.run("go")
    await page.until(lambda: page.deltas() == SAID)
    operator = f"{base}/api/v1/admin/users/alice/disconnect"
    status, _ = await call("POST", operator, OPERATOR_KEY, {})
    assert status == 202
    await page.until(lambda: page.done)
    assert (page.end["type"], page.end["code"]) == ("RUN_ERROR", "ask_again")
    agents.go_on.set()
    await page.ends()
    assert page.end["outcome"] == {"type": "success"}
    assert page.text() == SAID + SAID


async def test_a_worker_that_is_lost(redis_server: Redis, prefix: str, clients: Clients) -> None:
    with running_fleet(redis_server, RUNCAST_PREFIX=prefix, RUNCAST_LEASE_SECONDS="2") as fleet:
        base, worker = fleet.gateway(), fleet.worker()
        page = await clients.open(base, "waits")
        await page.run("go")
        await page.until(lambda: page.all("TOOL_CALL_END"))
        worker.end(signal.SIGKILL)
        await page.until(lambda: page.done)
        assert (page.end["type"], page.end["code"]) == ("RUN_ERROR", "worker_lost")
        check_stream(page.events)
        (lost,) = page.messages("tool")
        assert lost["metadata"]["isError"]


async def test_a_run_of_somebody_else(base: str, agents: Agents, clients: Clients) -> None:
    page, other = await clients.open(base, "asks"), await clients.open(base, "asks", user="bob")
    await page.ends("go")
    (asked,) = page.done[-1]["pendingInterrupts"]
    answer = {"interruptId": asked["id"], "status": "resolved", "payload": True}
    await other.run(run_id="m2", resume=[answer])
    await other.until(lambda: other.done)
    assert "run_not_found" in other.done[-1]["error"]
    assert other.events == []
    for name in ("m1", page.our_run):
        assert (await call("GET", f"{base}/agui/asks?runId={name}", token("bob")))[0] == 404
    _, thread = await call("GET", f"{base}/agui/asks?threadId=t", token("bob"))
    assert thread == {"messages": [], "activeRun": None, "interrupts": None}
    await other.ends("go")  # of the same name, and his own
    assert other.our_run != page.our_run
    assert len(agents.begun) == 2
    assert agents.answers == []


# --- TanStack AI


async def more(page: Page, events: int) -> None:
    already = len(page.events)
    await page.until(lambda: len(page.events) >= already + events)


async def carries(proxy: FaultProxy, more_bytes: int) -> None:
    already = proxy.counters.bytes_down
    await eventually(lambda: proxy.counters.bytes_down >= already + more_bytes)


def shows(page: Page) -> str:
    return page.text() if page.shown else ""


async def test_cuts_lose_and_double_nothing_and_begin_no_second_run(
    gateway: Gateway, agents: Agents, clients: Clients
) -> None:
    with FaultProxy(("127.0.0.1", gateway.port), resp=False, seed=7) as proxy, proxy.split(64):
        page = await clients.open(proxy.base, "pieces", kind="tanstack")
        await page.run("go")
        for _ in range(6):
            await carries(proxy, 4096)  # a client that gets nothing by its new way gives up
            await more(page, 23)
            assert proxy.cut()
        await more(page, 1)
        agents.go_on.set()
        await page.until(lambda: page.shown["status"] == "ready")
        check_stream(page.events, shapes=False)
        count = len(page.all("TOOL_CALL_START"))
        whole = "".join(f"{number}é " for number in range(count))
        assert page.deltas() == shows(page) == whole
        thoughts = [each["delta"] for each in page.all("REASONING_MESSAGE_CONTENT")]
        assert thoughts == [f"thought {number}" for number in range(count)]
        results = [int(each["content"]) for each in page.all("TOOL_CALL_RESULT")]
        assert results == list(range(count))
        assert len(agents.begun) == 1


async def test_a_client_that_resumes_is_cut_off_and_not_told(
    base: str, agents: Agents, clients: Clients
) -> None:
    page = await clients.open(base, "waits", kind="tanstack")
    await page.run("go")
    await page.until(lambda: shows(page) == SAID)
    await call("POST", f"{base}/api/v1/admin/users/alice/disconnect", OPERATOR_KEY, {})
    agents.go_on.set()
    await page.until(lambda: page.shown["status"] == "ready")
    assert "error" not in page.shown
    assert page.end["outcome"] == {"type": "success"}
    assert shows(page) == page.deltas() == SAID + SAID
    assert len(agents.begun) == 1


async def test_a_page_that_is_loaded_again_joins_the_run(
    base: str, agents: Agents, clients: Clients
) -> None:
    first = await clients.open(base, "waits", kind="tanstack")
    await first.run("go")
    await first.until(lambda: shows(first) == SAID)
    page = await clients.open(base, "waits", kind="tanstack", hydrate=True)
    await page.until(lambda: shows(page) == SAID)
    agents.go_on.set()
    await page.until(lambda: page.kinds()[-1:] == ["RUN_FINISHED"])
    await page.until(lambda: shows(page) == SAID + SAID)
    (question,) = page.messages("user")
    assert question["parts"][0]["content"] == "go"
    again = await clients.open(base, "waits", kind="tanstack", hydrate=True)
    await again.until(lambda: shows(again) == SAID + SAID)
    assert again.events == []
    assert len(agents.begun) == 1


async def test_a_page_that_is_loaded_again_is_asked_again(
    base: str, agents: Agents, clients: Clients
) -> None:
    first = await clients.open(base, "asks", kind="tanstack")
    await first.run("go")
    await first.until(lambda: first.shown.get("interrupts"))
    page = await clients.open(base, "asks", kind="tanstack", hydrate=True)
    await page.until(lambda: page.shown.get("interrupts"))
    (asked,) = page.shown["interrupts"]
    assert shows(page) == "Before. "
    yes = {"interruptId": asked, "status": "resolved", "payload": True}
    await page.do("answer", resume=[yes])
    await page.until(lambda: page.shown.get("interrupts") not in ([asked], []))
    assert agents.answers == [True]
    assert shows(page) == "Before. Between. "


async def test_the_stop_of_a_page_is_to_leave(
    base: str, agents: Agents, clients: Clients, broker: Broker
) -> None:
    page = await clients.open(base, "waits", kind="tanstack")
    await page.run("go")
    await page.until(lambda: shows(page) == SAID)
    await page.do("stop")
    await page.until(lambda: page.shown["status"] == "ready")
    assert await status_of(broker, page.our_run) is None
    agents.go_on.set()
    late = await clients.open(base, "waits", kind="tanstack", hydrate=True)
    await late.until(lambda: shows(late) == SAID + SAID)
    assert await status_of(broker, page.our_run) == "succeeded"
