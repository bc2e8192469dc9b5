"""The official client of the Vercel AI SDK (npm ``ai``), over both of its transports."""

import asyncio
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
from gateway.chat_socket import ChatSocket
from tests.conformance.ai_sdk_client import Chat, Client
from tests.support.clients import eventually
from tests.support.fault_proxy import FaultProxy
from tests.support.held_stops import HeldStops
from tests.support.servers import Redis, running_fleet, token

KINDS = ("sse", "ws")
BOTH = pytest.mark.parametrize("kind", KINDS)
SAID = "Grüße 👋🏽 from the 東京 office, “quoted”, \u2028 and a tab\t."


class Agents:
    """``five`` does all; ``waits`` stops in mid-text; ``asks`` asks; ``fails`` fails."""

    def __init__(self, settings: Settings) -> None:
        self.go_on = asyncio.Event()
        self.begun: list[Run] = []
        self.answers: list[Any] = []
        self.worker = Worker(settings=settings)
        for agent in (self.five, self.many, self.waits, self.asks, self.fails, self.delegates):
            self.worker.agent(agent.__name__)(agent)

    async def five(self, run: Run) -> str:
        self.begun.append(run)
        await run.think("a moment", progress=0.5)
        async with run.tool("look", at=run.content) as call:
            call.result = {"seen": run.content}
        return f"you said {run.content}"

    async def many(self, run: Run) -> None:
        async def one(number: int) -> None:
            async with run.tool("look", number=number) as call:
                await asyncio.sleep(0)  # so that all of them are open at once
                if number == 2:
                    raise ValueError("two is too many")
                call.result = number

        await asyncio.gather(*(one(number) for number in range(5)))
        await run.write("all back")

    async def waits(self, run: Run) -> None:
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
        await run.think("whom to ask")  # what was written before goes out with it
        async with run.subagent("helper") as helper:
            self.answers.append(await helper.ask("Sure?"))
        await run.write("After.")

    async def fails(self, run: Run) -> None:
        await run.write("so far so ")
        await self.go_on.wait()  # once it has failed, what was not read yet is told to nobody
        async with run.tool("look"):
            raise RuntimeError("it broke")
        raise RuntimeError("it broke too")

    async def delegates(self, run: Run) -> str:
        async with run.subagent("helper") as helper:
            await helper.think("deep")
            async with helper.tool("dig") as call:
                call.result = 7
        return "done"


@pytest.fixture
async def agents(settings: Settings) -> AsyncIterator[Agents]:
    agents = Agents(settings)
    async with agents.worker.running():
        yield agents


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with Client.running() as client:
        yield client


async def status_of(broker: Broker, run_id: str) -> str | None:
    status: str | None = (await broker.run(Owner("", "alice"), run_id))["status"]
    return status


def requests(gateway: Gateway) -> int:
    """How many are answered over WebSockets now."""
    return sum(len(s._requests or ()) for s in gateway.node.sockets if isinstance(s, ChatSocket))


def kinds(chat: Chat) -> list[str]:
    return [part["type"] for part in chat.reply["parts"]]


def is_closed(chat: Chat) -> bool:
    """Nothing of the message is open."""
    return all(
        part.get("state") in (None, "done", "output-available", "output-error")
        for part in chat.reply["parts"]
    )


@BOTH
async def test_a_whole_run(
    base: str, agents: Agents, client: Client, broker: Broker, kind: str
) -> None:
    chat = await client.open(base, kind, agent="five")
    await chat.ends("send", message={"text": SAID, "metadata": {"locale": "de"}})
    assert (chat.status, chat.error) == ("ready", None)
    assert kinds(chat) == ["step-start", "reasoning", "data-progress", "dynamic-tool", "text"]
    (tool,) = chat.parts("dynamic-tool")
    assert (tool["toolName"], tool["state"]) == ("look", "output-available")
    assert (tool["input"], tool["output"]) == ({"at": SAID}, {"seen": SAID})
    assert chat.asked == []  # it is no tool of the client's
    assert chat.text == f"you said {SAID}"
    assert is_closed(chat)
    (run,) = agents.begun
    assert run.content == SAID
    assert run.metadata["locale"] == "de"
    assert chat.reply["id"] == chat.told["run_id"] == run.id
    assert chat.told["status"] == "succeeded"
    assert chat.told["cursor"]
    assert chat.finished[-1]["finishReason"] == "stop"
    assert run.thread_id == "c"


@BOTH
async def test_tools_in_parallel(base: str, agents: Agents, client: Client, kind: str) -> None:
    chat = await client.open(base, kind, agent="many")
    await chat.ends("send", message={"text": "go"})
    outputs = {part["input"]["number"]: part.get("output") for part in chat.parts("dynamic-tool")}
    assert outputs == {0: 0, 1: 1, 2: None, 3: 3, 4: 4}
    (failed,) = [part for part in chat.parts("dynamic-tool") if part["state"] == "output-error"]
    assert "two is too many" in failed["errorText"]
    assert chat.text == "all back"
    assert chat.status == "ready"


@BOTH
async def test_a_failure_is_told(base: str, agents: Agents, client: Client, kind: str) -> None:
    chat = await client.open(base, kind, agent="fails")
    await chat.send("go")
    await chat.shows("so far so ")
    agents.go_on.set()
    await chat.until(lambda: chat.times("send") > 0)
    assert chat.status == "error"
    assert chat.error is not None
    assert "it broke" in chat.error
    assert chat.told["status"] == "failed"
    assert chat.told["error"]["message"] == chat.error
    assert chat.text == "so far so "
    assert is_closed(chat)


@BOTH
async def test_it_is_stopped(
    base: str, agents: Agents, client: Client, broker: Broker, kind: str
) -> None:
    """Over a WebSocket by the chat itself, else by the route: to leave is no stop."""
    chat = await client.open(base, kind, agent="waits")
    other = await client.open(base, "sse", agent="waits")
    await chat.send("go")
    await chat.shows(SAID)
    await other.do("resume")
    await other.shows(SAID)
    await chat.ends("stop")
    assert chat.status == "ready"
    (run,) = agents.begun
    if kind == "sse":
        assert await status_of(broker, run.id) is None
        await other.until(lambda: other.status == "streaming")
        async with aiohttp.ClientSession() as http:
            url, bearer = f"{base}/ai-sdk/waits/c/stop", f"Bearer {token()}"
            async with http.post(url, headers={"Authorization": bearer}) as answer:
                assert await answer.json() == {"run_ids": [run.id]}
    await other.until(lambda: other.status == "ready")
    assert other.told["status"] == "cancelled"
    assert is_closed(other)
    assert await status_of(broker, run.id) == "cancelled"


async def test_an_abort_may_mean_to_leave(
    base: str, agents: Agents, client: Client, broker: Broker
) -> None:
    chat = await client.open(base, "ws", agent="waits", params={"abort": "detach"})
    await chat.send("go")
    await chat.shows(SAID)
    await chat.ends("stop")
    await chat.do("resume")
    await chat.until(lambda: chat.status == "streaming")
    agents.go_on.set()
    await chat.finishes(2)
    assert chat.text == SAID * 2
    assert chat.told["status"] == "succeeded"


async def test_a_resumed_chat_is_stopped(
    base: str, gateway: Gateway, agents: Agents, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But one that is resumed twice at once, as React does in development, is not."""
    held = HeldStops(monkeypatch)
    first = await client.open(base, "ws", agent="waits")
    await first.send("go")
    await first.shows(SAID)
    again = await client.open(base, "ws", agent="waits")
    await again.do("resume")
    await eventually(lambda: requests(gateway) == 2)
    await again.do("stop")
    await eventually(lambda: held.held == 1)
    await again.do("resume")
    await eventually(lambda: requests(gateway) == 2)
    assert await held.over() == [], "it is read again"
    await again.shows(SAID)
    (run,) = agents.begun
    await again.ends("stop")
    assert await held.over() == [run.id]
    await first.until(lambda: first.status == "ready")
    assert first.told["status"] == "cancelled"


@BOTH
async def test_a_question_is_answered(base: str, agents: Agents, client: Client, kind: str) -> None:
    chat = await client.open(base, kind, agent="asks")
    await chat.send("go")
    for times, (prompt, answer, text) in enumerate(
        (("Go on?", True, "Before. "), ("Sure?", {"yes": SAID}, "Before. Between. ")), 1
    ):
        await chat.finishes(times)
        assert (chat.status, chat.text) == ("ready", text)
        assert chat.finished[-1]["finishReason"] == "tool-calls"
        question = chat.parts("dynamic-tool")[-1]
        assert (question["toolName"], question["state"]) == ("input_required", "input-available")
        assert question["input"]["prompt"] == prompt
        await chat.do("answer", toolCallId=question["toolCallId"], output=answer)
    await chat.finishes(3)
    assert (chat.status, chat.text) == ("ready", "Before. Between. After.")
    assert agents.answers == [True, {"yes": SAID}]
    assert [m["role"] for m in chat.messages] == ["user", "assistant"]
    assert is_closed(chat)
    assert chat.told["status"] == "succeeded"
    assert len(agents.begun) == 1


@BOTH
async def test_a_question_is_still_there_after_a_reload(
    base: str, agents: Agents, client: Client, kind: str
) -> None:
    first = await client.open(base, kind, agent="asks")
    await first.ends("send", message={"text": "go"})
    assert first.text == "Before. "
    chat = await client.open(base, kind, agent="asks")
    await chat.ends("resume")
    assert chat.text == "Before. "
    assert chat.reply["id"] == first.reply["id"]
    question = chat.parts("dynamic-tool")[-1]
    await chat.do("answer", toolCallId=question["toolCallId"], output="yes")
    await chat.finishes(2)
    assert (chat.status, chat.text) == ("ready", "Before. Between. ")
    assert agents.answers == ["yes"]


@BOTH
async def test_whoever_joins_in_mid_text_has_all_of_it(
    base: str, agents: Agents, client: Client, kind: str
) -> None:
    first = await client.open(base, kind, agent="waits")
    await first.send("go")
    await first.shows(SAID)
    late = await client.open(base, kind, agent="waits")
    await late.do("resume")
    await late.shows(SAID)
    agents.go_on.set()
    for chat in (first, late):
        await chat.shows(SAID * 2, status="ready")
        assert [part["text"] for part in chat.parts("reasoning")] == ["one", "two"]
    assert late.reply["id"] == first.reply["id"]


@BOTH
async def test_cut_off_it_goes_on_where_it_was(
    base: str, agents: Agents, client: Client, gateway: Gateway, kind: str
) -> None:
    with FaultProxy(("127.0.0.1", gateway.port), resp=False) as proxy:
        chat = await client.open(proxy.base, kind, agent="waits")
        await chat.send("go")
        await chat.shows(SAID)
        assert proxy.cut() > 0
        await chat.finishes(1)
        # Over SSE this client does not see a cut; that nothing finished is how a page knows.
        assert "finishReason" not in chat.finished[-1]
        assert "status" not in chat.told
        assert chat.finished[-1]["isDisconnect"] is (kind == "ws")
        agents.go_on.set()
        await chat.ends("resume")
        assert chat.status == "ready"
    if chat.text == SAID:  # it had ended before it was asked for
        run_id = chat.told["run_id"]
        again = await client.open(base, kind, agent="waits", runId=run_id, messages=chat.messages)
        await again.ends("resume")
        chat = again
    assert chat.text == SAID * 2
    assert [m["role"] for m in chat.messages] == ["user", "assistant"]
    assert is_closed(chat)
    assert len(agents.begun) == 1


@BOTH
async def test_a_run_that_has_ended_is_read_again_by_its_id(
    base: str, agents: Agents, client: Client, kind: str
) -> None:
    chat = await client.open(base, kind, agent="five")
    await chat.ends("send", message={"text": "x"})
    half = [chat.messages[0], {**chat.messages[1], "parts": chat.reply["parts"][:2]}]
    run_id = chat.told["run_id"]
    again = await client.open(base, kind, agent="five", runId=run_id, messages=half)
    await again.ends("resume")
    assert again.messages == chat.messages


@BOTH
async def test_nothing_is_under_way(base: str, agents: Agents, client: Client, kind: str) -> None:
    chat = await client.open(base, kind, agent="five")
    await chat.ends("resume")
    assert (chat.status, chat.messages) == ("ready", [])


@BOTH
async def test_what_is_somebody_elses_is_not_there(
    base: str, agents: Agents, client: Client, kind: str
) -> None:
    chat = await client.open(base, kind, agent="waits")
    await chat.send("go")
    await chat.shows(SAID)
    (run,) = agents.begun
    bob = await client.open(base, kind, agent="waits", user="bob")
    await bob.ends("resume")
    assert (bob.status, bob.messages) == ("ready", [])
    thief = await client.open(base, kind, agent="waits", user="bob", runId=run.id)
    await thief.ends("resume")
    assert thief.status == "error"
    assert "run_not_found" in (thief.error or "")
    assert thief.messages == []
    agents.go_on.set()
    await chat.shows(SAID * 2, status="ready")


async def test_several_chats_on_one_socket(
    base: str, agents: Agents, client: Client, gateway: Gateway
) -> None:
    chats = [
        await client.open(base, "ws", agent="waits", id=f"c/{n} ☕", transport="shared")
        for n in range(3)
    ]
    for chat in chats:
        await chat.send("go")
    for chat in chats:
        await chat.shows(SAID)
    assert len(gateway.node.sockets) == 1
    await chats[0].ends("stop")
    agents.go_on.set()
    for chat in chats[1:]:
        await chat.shows(SAID * 2, status="ready")
        assert chat.told["status"] == "succeeded"
    assert len(gateway.node.sockets) == 1


@BOTH
async def test_a_sub_agents_work_is_shown_as_its_own(
    base: str, agents: Agents, client: Client, kind: str
) -> None:
    chat = await client.open(base, kind, agent="delegates")
    await chat.ends("send", message={"text": "go"})
    (helper,) = chat.parts("data-subagent")
    assert (helper["data"]["agent"], helper["data"]["status"]) == ("helper", "succeeded")
    (thought,) = chat.parts("reasoning")
    assert thought["providerMetadata"]["runcast"]["agent"] == "helper"
    (tool,) = chat.parts("dynamic-tool")
    assert (tool["toolMetadata"]["agent"], tool["output"]) == ("helper", 7)
    assert chat.text == "done"


@BOTH
async def test_what_is_sent_again_is_the_same_run_and_regenerated_another(
    base: str, agents: Agents, client: Client, kind: str
) -> None:
    chat = await client.open(base, kind, agent="five")
    await chat.ends("send", message={"text": "x"})
    same = await client.open(base, kind, agent="five")
    message = {"id": chat.messages[0]["id"], "role": "user", "parts": chat.messages[0]["parts"]}
    await same.ends("send", message=message)
    assert same.reply["id"] == chat.reply["id"]
    await chat.ends("regenerate")
    assert chat.reply["id"] != same.reply["id"]
    assert len(chat.messages) == len(agents.begun) == 2


@BOTH
async def test_the_gateway_goes_away(
    settings: Settings, agents: Agents, client: Client, kind: str
) -> None:
    """The client is told, and goes on at another gateway."""
    async with Gateway(settings) as going:
        chat = await client.open(f"http://127.0.0.1:{going.port}", kind, agent="waits")
        await chat.send("go")
        await chat.shows(SAID)
    await chat.finishes(1)
    assert chat.finished[-1]["isDisconnect"] is (kind == "ws")
    assert "going away" in (chat.error or "")
    agents.go_on.set()
    async with Gateway(settings) as other:
        base, run_id = f"http://127.0.0.1:{other.port}", chat.told["run_id"]
        again = await client.open(base, kind, agent="waits", runId=run_id, messages=chat.messages)
        await again.ends("resume")
    assert again.text == SAID * 2
    assert len(again.messages) == 2


@BOTH
async def test_an_agent_that_nobody_serves(
    base: str, agents: Agents, client: Client, kind: str
) -> None:
    chat = await client.open(base, kind, agent="nobody")
    await chat.ends("send", message={"text": "x"})
    assert chat.status == "error"
    assert "unknown_agent" in (chat.error or "")


@BOTH
async def test_a_worker_is_lost(
    redis_server: Redis, prefix: str, client: Client, kind: str
) -> None:
    """It is told in the end, and never looks like a success."""
    with running_fleet(redis_server, RUNCAST_PREFIX=prefix, RUNCAST_LEASE_SECONDS="2") as fleet:
        base, worker = fleet.gateway(), fleet.worker()
        chat = await client.open(base, kind, agent="waits")
        await chat.send("go")
        await chat.until(lambda: chat.parts("reasoning"))
        await asyncio.to_thread(worker.end, signal.SIGKILL)
        await chat.finishes(1)
    assert chat.status == "error"
    assert chat.finished[-1]["isError"]
    assert (chat.told["status"], chat.told["error"]["code"]) == ("abandoned", "worker_lost")
    assert is_closed(chat)
