"""What an agent author types, through real runs whose events are recorded."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents_sdk import (
    ConfigurationError,
    EventTooLarge,
    InvalidEvent,
    LifecycleError,
    NoCurrentRun,
    PublishError,
    Run,
    RunStopped,
    Worker,
    WrongEventLoop,
    current_run,
)
from agents_sdk.errors import Reason
from agents_sdk.execution import Execution
from agents_sdk.ids import new_id
from agents_sdk.recording import RecordingHost
from agents_sdk.run import Scope
from agents_sdk.testing import expect, run_agent
from broker.channels import Keys, Owner
from broker.channels import Scope as ChannelScope
from broker.errors import BrokerUnavailable
from broker.lifecycle import Lifecycle
from broker.publication import Publication
from broker.redis.records import AgentSpec, Claim, RunRequest
from broker.redis.store import Limits

worker = Worker()


def request() -> RunRequest:
    owner = Owner("", "alice")
    channel = Keys("test").channel(owner, ChannelScope.USER)
    return RunRequest(run_id=new_id(), owner=owner, channel=channel, thread_id="t1", agent="a")


def texts(events: list[dict[str, Any]]) -> list[str]:
    return [each["payload"]["text"] for each in events if each["type"] == "agent_delta"]


def types(events: list[dict[str, Any]]) -> list[str]:
    return [each["type"] for each in events]


async def test_the_example_of_the_sdk_page() -> None:
    async def analyst(run: Run) -> str:
        await run.think("Looking at the numbers", step=1)
        async with run.tool("data_analyzer", rows=3) as call:
            call.result = {"mean": 2.0}
        for token in ("The ", "mean ", "is ", "2.0"):
            await run.write(token)
        return "The mean is 2.0"

    events = await run_agent(analyst, content="1 2 3")
    expect(events).started().thinking().tool("data_analyzer").completed("succeeded").nothing_else()
    expect(events).wrote("The mean is 2.0").started("analyst started")
    lifecycle = [each for each in events if each["type"] != "agent_delta"]
    assert [each["seq"] for each in lifecycle] == [1, 2, 3, 4, 5]
    assert lifecycle[2]["payload"]["parameters"] == {"rows": 3}
    assert lifecycle[-1]["payload"]["missing"] == []
    assert {each["user_id"] for each in lifecycle} == {"test-user"}


async def test_the_guides_emission_works_as_it_stands() -> None:
    async def guide(run: Run) -> None:
        await run.emit_event("agent_started", {"message": "AI processing begun"})
        await run.emit_event("agent_thinking", {"thoughts": "Analyzing request..."})
        await run.emit_event("tool_executing", {"tool": "data_analyzer", "status": "running"})
        await run.emit_event("tool_completed", {"tool": "data_analyzer", "result": "..."})
        await run.emit_event("agent_completed", {"response": "Final AI response", "complete": True})

    events = await run_agent(guide)
    (
        expect(events)
        .started("AI processing begun")
        .thinking("Analyzing request...")
        .tool("data_analyzer", result="...")
        .completed(response="Final AI response")
        .nothing_else()
    )


async def test_started_comes_by_itself_at_the_first_wait() -> None:
    seen = []

    async def waits(run: Run) -> None:
        await asyncio.sleep(0.01)
        seen.append(len(host.events))

    host = RecordingHost()
    await Execution(host, host.register(request()), waits, AgentSpec(name="a")).conduct()
    assert seen == [1]
    assert types(host.events) == ["agent_started", "agent_completed"]


async def test_started_cannot_be_said_twice() -> None:
    async def twice(run: Run) -> None:
        await run.think("first")
        await run.emit_event("agent_started", {"message": "again"})

    expect(await run_agent(twice)).started().thinking().completed("failed", error="lifecycle_error")


async def test_the_response_is_what_was_written_when_none_is_given() -> None:
    async def writes(run: Run) -> None:
        await run.write("a")
        await run.write("b")

    expect(await run_agent(writes)).started().completed(response="ab").nothing_else()


async def test_the_response_may_be_set_on_the_run() -> None:
    async def sets(run: Run) -> None:
        await run.write("a")
        run.response = {"answer": 42}

    expect(await run_agent(sets)).started().completed(response={"answer": 42})


async def test_an_exception_fails_the_run_with_its_code() -> None:
    async def raises(run: Run) -> None:
        raise ValueError("no numbers in it")

    events = await run_agent(raises)
    expect(events).started().completed("failed", error="value_error", response=None).nothing_else()


async def test_a_log_that_fails_does_not_keep_a_failed_run_from_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Defect: a text that standard output cannot show left the run open until its lease ended."""

    async def raises(run: Run) -> None:
        raise ValueError("\ud800")

    def cannot(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("agents_sdk.execution.log", SimpleNamespace(error=cannot))
    host = RecordingHost()
    execution = Execution(host, host.register(request()), raises, AgentSpec(name="a"))
    with pytest.raises(OSError, match="no space"):
        await execution.conduct()
    expect(host.events).started().completed("failed", error="value_error").nothing_else()


@pytest.mark.parametrize("leaving", [SystemExit(3), KeyboardInterrupt()])
async def test_leaving_the_process_fails_the_run_and_not_the_worker(leaving: BaseException) -> None:
    """Defect: the interrupt of a process pool's child, at Ctrl-C, ended the worker's other runs."""

    async def leaves(run: Run) -> None:
        raise leaving

    expect(await run_agent(leaves)).started().completed("failed", error="agent_exited")


async def test_an_exception_in_a_tool_is_its_failure_and_the_run_goes_on() -> None:
    async def divides(run: Run) -> str:
        async with run.tool("divide", purpose="to see") as call:
            call.result = 1 / 0
        assert call.error == {"code": "zero_division_error", "message": "division by zero"}
        return "went on"

    events = await run_agent(divides)
    expect(events).started().tool("divide", success=False, result=None).completed(
        response="went on"
    ).nothing_else()


async def test_a_call_that_is_made_again_has_nothing_of_the_one_before() -> None:
    """Defect: after a failure every further call of it was told as that failure."""

    async def agent(run: Run) -> None:
        call = run.tool("t")
        async with call:
            raise ValueError("not yet")
        async with call:
            call.result = 1
        async with call:
            pass

    chain = expect(await run_agent(agent)).started().tool("t", success=False)
    chain.tool("t", result=1).tool("t", result=None).completed().nothing_else()


async def test_a_call_is_not_made_twice_at_once() -> None:
    """Defect: the first one stayed open until the run ended."""

    async def agent(run: Run) -> None:
        async with run.tool("t") as call:
            with pytest.raises(LifecycleError, match="is open"):
                await call.__aenter__()
            call.result = 1

    expect(await run_agent(agent)).started().tool("t", result=1).completed().nothing_else()


@pytest.mark.parametrize("result", [object(), "x" * 5000, {"deep": {1, 2}}])
async def test_a_result_that_cannot_be_sent_is_a_failure_of_the_tool(result: object) -> None:
    async def agent(run: Run) -> None:
        async with run.tool("t") as call:
            call.result = result

    host = RecordingHost(limits=Limits(max_event_bytes=2000))
    await Execution(host, host.register(request()), agent, AgentSpec(name="a")).conduct()
    expect(host.events).started().tool("t", success=False).completed().nothing_else()


async def test_a_lease_that_ends_with_a_run_ended_by_hand_is_no_loss() -> None:
    """A renewal between the end, said by hand, and leaving the run finds it gone: its own end."""
    host = RecordingHost()
    async with Scope(host, request()) as run:
        await run.emit_event("agent_completed", {"response": "by hand", "complete": True})
        host.held[run.id](Reason.LOST)
        await asyncio.sleep(0)
    assert not run.stop_requested
    expect(host.events).started().completed(response="by hand").nothing_else()


async def test_a_tool_completed_by_hand_is_not_completed_again() -> None:
    async def agent(run: Run) -> None:
        async with run.tool("t"):
            await run.emit_event("tool_completed", {"tool": "t", "result": 1})

    expect(await run_agent(agent)).started().tool("t", result=1).completed().nothing_else()


async def test_a_deadline_around_a_tool_passes_through_it() -> None:
    async def agent(run: Run) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.01), run.tool("slow"):
                await asyncio.sleep(60)
        await run.think("gave up")

    events = await run_agent(agent)
    expect(events).started().tool("slow", success=False).thinking("gave up").completed()


async def test_parameters_may_have_any_name() -> None:
    async def agent(run: Run) -> None:
        async with run.tool("t", name="n", self="s", tool="x"):
            pass

    events = await run_agent(agent)
    assert events[1]["payload"]["parameters"] == {"name": "n", "self": "s", "tool": "x"}


async def test_parallel_tools_make_one_legal_ordered_sequence() -> None:
    async def call(run: Run, number: int) -> None:
        async with run.tool("t", number=number) as tool:
            await asyncio.sleep(0.001 * (number % 3))
            await run.write(f"{number} ")
            await run.think(f"in {number}")
            tool.result = number

    async def agent(run: Run) -> None:
        await asyncio.gather(*(call(run, number) for number in range(20)))

    events = await run_agent(agent)
    lifecycle, replayed = [e for e in events if e["type"] != "agent_delta"], Lifecycle()
    for each in lifecycle:
        replayed.advance(each["type"], each["payload"])
    assert [each["seq"] for each in lifecycle] == list(range(1, 63))
    results = {e["payload"]["result"] for e in lifecycle if e["type"] == "tool_completed"}
    assert results == set(range(20))


async def test_text_goes_out_before_the_event_that_follows_it() -> None:
    async def agent(run: Run) -> None:
        await run.write("a")
        await run.write("b")
        await run.think("then")
        await run.write("c")

    events = await run_agent(agent)
    order = [each["payload"].get("text") or each["type"] for each in events]
    assert "".join(order) == "agent_startedabagent_thinkingcagent_completed"
    assert events[-2]["payload"] == {"offset": 2, "next": 3, "text": "c"}


async def test_text_written_in_one_go_is_merged_and_offsets_count_bytes() -> None:
    async def agent(run: Run) -> None:
        for letter in "äöü😀" * 25:
            await run.write(letter)
        await run.write("")

    events = await run_agent(agent)
    assert "".join(texts(events)) == "äöü😀" * 25
    assert len(texts(events)) <= 3
    last = [each for each in events if each["type"] == "agent_delta"][-1]
    assert last["payload"]["next"] == 250


async def test_merged_text_goes_out_by_itself() -> None:
    async def agent(run: Run) -> None:
        await run.write("a")
        await run.write("b")
        await until(lambda: len(texts(host.events)) == 2)

    host = RecordingHost()
    await Execution(host, host.register(request()), agent, AgentSpec(name="a")).conduct()
    expect(host.events).wrote("ab").started().completed()


@pytest.mark.parametrize("text", [b"bytes", 7, None, "\ud800"])
async def test_what_is_not_text_cannot_be_written(text: Any) -> None:
    async def agent(run: Run) -> None:
        with pytest.raises(InvalidEvent):
            await run.write(text)

    expect(await run_agent(agent)).started().completed().nothing_else()


async def test_text_over_the_limit_is_refused_and_the_rest_stays() -> None:
    async def agent(run: Run) -> str:
        await run.write("12345")
        with pytest.raises(EventTooLarge):
            await run.write("6789012")
        return "short"

    host = RecordingHost(limits=Limits(max_text_bytes=10))
    await Execution(host, host.register(request()), agent, AgentSpec(name="a")).conduct()
    expect(host.events).wrote("12345").started().completed(response="short")


@pytest.mark.parametrize(
    ("event_type", "payload", "error"),
    [
        ("agent_thinking", {}, InvalidEvent),
        ("agent_thinking", {"thoughts": 1}, InvalidEvent),
        ("agent_thinking", {"thoughts": "x", "progress": 2}, InvalidEvent),
        ("agent_thinking", {"thoughts": "x", "more": object()}, InvalidEvent),
        ("agent_thinking", {"thoughts": "x" * 3000}, EventTooLarge),
        ("agent_delta", {"text": "x"}, InvalidEvent),
        ("tool_completed", {"tool": "t", "result": 1}, LifecycleError),
        ("tool_executing", {"tool": "t"}, InvalidEvent),
        ("agent_completed", {"response": "r"}, InvalidEvent),
        ("agent_completed", {"response": "x" * 3000, "complete": True}, EventTooLarge),
    ],
)
async def test_a_wrong_event_is_refused_and_changes_nothing(
    event_type: str, payload: dict[str, Any], error: type[Exception]
) -> None:
    async def agent(run: Run) -> None:
        await run.think("before")
        with pytest.raises(error):
            await run.emit_event(event_type, payload)
        await run.think("after")

    host = RecordingHost(limits=Limits(max_event_bytes=2000))
    await Execution(host, host.register(request()), agent, AgentSpec(name="a")).conduct()
    expect(host.events).started().thinking("before").thinking("after").completed().nothing_else()


@pytest.mark.parametrize("response", [object(), "x" * 3000])
async def test_a_response_that_cannot_be_sent_fails_the_run(response: object) -> None:
    async def agent(run: Run) -> object:
        return response

    host = RecordingHost(limits=Limits(max_event_bytes=2000))
    await Execution(host, host.register(request()), agent, AgentSpec(name="a")).conduct()
    expect(host.events).started().completed("failed").nothing_else()


async def test_nothing_is_accepted_after_the_end() -> None:
    async def agent(run: Run) -> str:
        await run.emit_event("agent_completed", {"response": "mine", "complete": True})
        with pytest.raises(LifecycleError, match="nothing is accepted after agent_completed"):
            await run.think("too late")
        with pytest.raises(LifecycleError):
            await run.write("too late")
        with pytest.raises(LifecycleError):
            await run.emit_event("agent_completed", {"response": "again", "complete": True})
        return "not mine"

    expect(await run_agent(agent)).started().completed(response="mine").nothing_else()


async def test_a_task_that_outlives_its_run_cannot_speak() -> None:
    errors: list[BaseException] = []
    tasks: list[asyncio.Task[None]] = []

    async def later(run: Run) -> None:
        await asyncio.sleep(0.01)
        try:
            await run.think("late")
        except LifecycleError as error:
            errors.append(error)

    async def agent(run: Run) -> None:
        tasks.append(asyncio.create_task(later(run)))

    expect(await run_agent(agent)).started().completed().nothing_else()
    await tasks[0]
    assert errors


async def test_open_calls_are_closed_with_the_run() -> None:
    async def agent(run: Run) -> str:
        await run.emit_event("tool_executing", {"tool": "t", "status": "running"})
        await run.emit_event("tool_executing", {"tool": "t", "status": "running"})
        return "done"

    events = await run_agent(agent)
    expect(events).started().tool("t", success=False).tool("t", success=False).completed()
    closed = [each["payload"] for each in events if each["type"] == "tool_completed"]
    assert {each["error"]["code"] for each in closed} == {"run_ended"}


async def test_what_is_missing_is_told() -> None:
    async def agent(run: Run) -> None:
        await run.think("only this")

    events = await run_agent(agent)
    assert events[-1]["payload"]["missing"] == ["tool_executing", "tool_completed"]


async def test_an_agent_declared_to_send_all_five_fails_without_them() -> None:
    @worker.agent("strict", require_all_events=True)
    async def strict(run: Run) -> str:
        if run.content == "all":
            await run.think("t")
            async with run.tool("t"):
                pass
        if run.content == "by hand":
            await run.emit_event("agent_completed", {"response": "r", "complete": True})
        return "r"

    for content in ("none", "by hand"):
        events = await run_agent(strict, content=content)
        expect(events).started().completed("failed", error="incomplete_lifecycle", response=None)
    events = await run_agent(strict, content="all")
    expect(events).started().thinking().tool("t").completed(response="r").nothing_else()


async def test_a_time_out_fails_the_run() -> None:
    @worker.agent("slow", timeout_seconds=0.02)
    async def slow(run: Run) -> None:
        async with run.tool("wait"):
            await asyncio.sleep(60)

    events = await run_agent(slow)
    expect(events).started().tool("wait", success=False).completed("failed", error="timeout")


async def test_a_stop_cancels_the_agent() -> None:
    async def agent(run: Run) -> None:
        async with run.tool("wait"):
            await asyncio.sleep(60)

    events = await run_agent(agent, stop_at=lambda event: event["type"] == "tool_executing")
    expect(events).started().tool("wait", success=False).completed("cancelled", error="stopped")


async def test_an_agent_that_swallows_its_cancellation_is_cancelled_all_the_same() -> None:
    told = []

    async def stubborn(run: Run) -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            told.append(run.stop_requested)
        with pytest.raises(RunStopped):
            await run.think("still here")
        with pytest.raises(RunStopped):
            await run.write("still here")
        with pytest.raises(RunStopped):
            async with run.tool("t"):
                pass
        return "I go on"

    events = await run_agent(stubborn, stop_at=lambda event: event["type"] == "agent_started")
    expect(events).started().completed("cancelled", error="stopped").nothing_else()
    assert told == [True]


async def test_an_agent_that_ignores_every_cancellation_ends_without_its_consent() -> None:
    released, cancellations = asyncio.Event(), 0

    async def deaf(run: Run) -> str:
        nonlocal cancellations
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                cancellations += 1
        return "at last"

    host = RecordingHost()
    execution = Execution(
        host, host.register(request()), deaf, AgentSpec(name="a"), grace_seconds=0.02
    )
    conducting = asyncio.create_task(execution.conduct())
    await until(lambda: types(host.events) == ["agent_started"])
    execution.cancel(Reason.STOP)
    await conducting
    expect(host.events).started().completed("cancelled", error="stopped").nothing_else()
    assert cancellations == 1
    released.set()
    await execution.wait_gone()
    expect(host.events).started().completed("cancelled").nothing_else()


async def test_a_run_stopped_before_it_began_never_starts() -> None:
    called = False

    async def agent(run: Run) -> None:
        nonlocal called
        called = True

    host = RecordingHost()
    claim = host.register(request(), stop_requested=True)
    await Execution(host, claim, agent, AgentSpec(name="a")).conduct()
    expect(host.events).completed("cancelled", error="stopped").nothing_else()
    assert not called


async def test_a_lost_run_ends_without_a_word() -> None:
    ended = []

    async def agent(run: Run) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(run.stop_requested)

    host = RecordingHost()
    claim = host.register(request())
    conducting = asyncio.create_task(Execution(host, claim, agent, AgentSpec(name="a")).conduct())
    await until(lambda: types(host.events) == ["agent_started"])
    host.held[claim.run_id](Reason.LOST)
    await conducting
    assert types(host.events) == ["agent_started"]
    assert ended == [True]


async def test_a_second_attempt_numbers_on_and_says_so() -> None:
    async def agent(run: Run) -> None:
        assert run.attempt == 2
        await run.write("anew")

    host = RecordingHost()
    claim = host.register(request(), attempt=2, sent="stx")
    await Execution(host, claim, agent, AgentSpec(name="a")).conduct()
    expect(host.events).wrote("anew").started().completed()
    assert {each["attempt"] for each in host.events if "attempt" in each} == {2}
    assert host.events[-1]["payload"]["missing"] == ["tool_completed"]


class Flaky(RecordingHost):
    """Redis goes away while ``away``; a reply is lost for each of ``lose``."""

    away = False
    lose = 0

    async def publish(self, claim: Claim, publication: Publication) -> str:
        if self.away:
            raise BrokerUnavailable(why="away")
        event_id = await super().publish(claim, publication)
        if self.lose:
            self.lose -= 1
            raise BrokerUnavailable(why="lost", outcome_unknown=True)
        return event_id


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(lose=st.integers(0, 3), words=st.lists(st.text(min_size=1, max_size=3), max_size=4))
def test_lost_replies_double_and_lose_nothing(lose: int, words: list[str]) -> None:
    async def agent(run: Run) -> None:
        for word in words:
            await run.write(word)
            await run.think(word)

    async def carry() -> RecordingHost:
        host = Flaky()
        host.lose = lose
        await Execution(host, host.register(request()), agent, AgentSpec(name="a")).conduct()
        return host

    host = asyncio.run(carry())
    chain = expect(host.events).wrote("".join(words)).started()
    for word in words:
        chain.thinking(word)
    chain.completed(response="".join(words)).nothing_else()


async def test_an_outage_is_waited_for_as_long_as_asked_and_then_made_up_for() -> None:
    async def agent(run: Run) -> None:
        host.away = True
        with pytest.raises(PublishError):
            await run.think("unheard")
        host.away = False

    host = Flaky(publish_timeout_seconds=0.02)
    await Execution(host, host.register(request()), agent, AgentSpec(name="a")).conduct()
    expect(host.events).started().thinking("unheard").completed().nothing_else()


async def test_a_subagent_has_a_life_of_its_own() -> None:
    async def agent(run: Run) -> str:
        async with run.subagent("searcher", content="find it") as child:
            assert current_run() is child
            assert (child.content, child.parent_id, child.thread_id) == ("find it", run.id, "t1")
            await child.think("searching")
            await child.write("found")
        assert current_run() is run
        await run.think("parent again")
        return "done"

    host = RecordingHost()
    await Execution(host, host.register(request()), agent, AgentSpec(name="a")).conduct()
    expect(host.events).started().thinking("parent again").completed(response="done")
    chain = expect(host.events).subagent("searcher")
    chain.started().thinking("searching").completed(response="found").nothing_else()


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 300, 5])
async def test_a_subagents_name_is_an_agents_name(name: Any) -> None:
    """Defect: events told of agents whose names no worker could declare."""

    async def opens(run: Run) -> None:
        with pytest.raises(ConfigurationError, match="subagent"):
            run.subagent(name)

    expect(await run_agent(opens)).started().completed("succeeded").nothing_else()


async def test_a_subagents_content_is_json() -> None:
    """Defect: it was a bare ``TypeError``, and only when the run was opened."""

    async def opens(run: Run) -> None:
        with pytest.raises(ConfigurationError, match="content: is not JSON"):
            run.subagent("searcher", content=b"1")

    expect(await run_agent(opens)).started().completed("succeeded").nothing_else()


async def test_a_subagents_run_is_opened_once() -> None:
    """Defect: its run began twice, and outside of tests of agents the parent was lost with it."""

    async def opens(run: Run) -> None:
        searcher = run.subagent("searcher")
        async with searcher as child:
            with pytest.raises(ConfigurationError, match="Open another one"):
                await searcher.__aenter__()
            await child.think("…")
        with pytest.raises(ConfigurationError, match="Open another one"):
            await searcher.__aenter__()

    events = await run_agent(opens)
    expect(events).started().completed("succeeded").nothing_else()
    expect(events).subagent("searcher").started().thinking().completed().nothing_else()


class SlowHost(RecordingHost):
    """Opens runs when it may, where somebody has said so."""

    opening: asyncio.Event | None = None
    may_open: asyncio.Event | None = None

    async def open_run(self, request: RunRequest) -> Claim:
        if self.opening is not None and self.may_open is not None:
            self.opening.set()
            await self.may_open.wait()
        return await super().open_run(request)


async def test_a_failing_subagent_fails_and_the_parent_may_go_on() -> None:
    async def agent(run: Run) -> str:
        with contextlib.suppress(ValueError):
            async with run.subagent("searcher"):
                raise ValueError("nothing found")
        return "without it"

    events = await run_agent(agent)
    expect(events).started().completed(response="without it").nothing_else()
    expect(events).subagent("searcher").started().completed("failed", error="value_error")


async def test_stopping_the_parent_ends_the_child() -> None:
    async def agent(run: Run) -> None:
        async with run.subagent("searcher") as child:
            await child.think("…")
            await asyncio.sleep(60)

    host = RecordingHost()
    claim = host.register(request())
    conducting = asyncio.create_task(Execution(host, claim, agent, AgentSpec(name="a")).conduct())
    await until(lambda: "agent_thinking" in types(host.events))
    host.held[claim.run_id](Reason.STOP)
    await conducting
    expect(host.events).started().completed("cancelled", error="stopped").nothing_else()
    chain = expect(host.events).subagent("searcher").started().thinking()
    chain.completed("cancelled", error="parent_ended").nothing_else()


async def test_a_child_in_a_forgotten_task_ends_with_its_parent() -> None:
    tasks = []

    async def forgotten(run: Run) -> None:
        async with run.subagent("searcher"):
            await asyncio.sleep(60)

    async def agent(run: Run) -> None:
        tasks.append(asyncio.create_task(forgotten(run)))
        await until(lambda: bool(run.children))

    events = await run_agent(agent)
    with pytest.raises(RunStopped):
        await tasks[0]
    expect(events).started().completed().nothing_else()
    chain = expect(events).subagent("searcher").started()
    chain.completed("cancelled", error="parent_ended").nothing_else()


async def test_a_run_that_was_told_to_end_opens_no_child() -> None:
    """Defect: an agent that went on after its stop had sub-agents which nobody ended."""

    async def deaf(run: Run) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        async with run.subagent("searcher") as child:
            await child.think("…")

    events = await run_agent(deaf, stop_at=lambda event: event["type"] == "agent_started")
    expect(events).started().completed("cancelled", error="stopped").nothing_else()
    assert {event["agent_name"] for event in events} == {"deaf"}


async def test_a_run_that_has_ended_opens_no_child() -> None:
    runs = []

    async def agent(run: Run) -> None:
        runs.append(run)

    events = await run_agent(agent)
    with pytest.raises(LifecycleError):
        await runs[0].subagent("searcher").__aenter__()
    expect(events).started().completed().nothing_else()
    assert len(events) == 2


async def test_a_child_that_is_opened_while_its_parent_ends_ends_with_it() -> None:
    """Defect: it belonged to nobody, and went on for as long as it liked."""
    host, opening, ended = SlowHost(), asyncio.Event(), asyncio.Event()

    async def forgotten(run: Run) -> None:
        host.opening, host.may_open = opening, ended
        async with run.subagent("searcher"):
            await asyncio.sleep(60)

    async with Scope(host, request()) as run:
        task = asyncio.create_task(forgotten(run))
        await opening.wait()
    ended.set()
    with pytest.raises(RunStopped):
        await task
    expect(host.events).started().completed().nothing_else()
    chain = expect(host.events).subagent("searcher")
    chain.completed("cancelled", error="parent_ended").nothing_else()


async def test_a_child_forgotten_within_a_scope_ends_with_it() -> None:
    host = RecordingHost()

    async def forgotten(run: Run) -> None:
        async with run.subagent("searcher"):
            await asyncio.sleep(60)

    async with Scope(host, request()) as run:
        task = asyncio.create_task(forgotten(run))
        await until(lambda: bool(run.children))
    with pytest.raises(RunStopped):
        await task
    expect(host.events).started().completed().nothing_else()
    chain = expect(host.events).subagent("searcher").started()
    chain.completed("cancelled", error="parent_ended").nothing_else()


async def test_stopping_a_scope_cancels_its_body_and_is_told_by_leaving() -> None:
    host = RecordingHost()
    opened = request()

    async def body() -> None:
        async with Scope(host, opened) as run:
            await run.think("…")
            await asyncio.sleep(60)

    task = asyncio.create_task(body())
    await until(lambda: "agent_thinking" in types(host.events))
    host.held[opened.run_id](Reason.STOP)
    with pytest.raises(RunStopped):
        await task
    assert task.cancelling() == 0
    expect(host.events).started().thinking().completed("cancelled", error="stopped")


async def test_cancelling_the_body_of_a_scope_from_outside_stays_a_cancellation() -> None:
    host = RecordingHost()

    async def body() -> None:
        async with Scope(host, request()) as run:
            await run.think("…")
            await asyncio.sleep(60)

    task = asyncio.create_task(body())
    await until(lambda: "agent_thinking" in types(host.events))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    expect(host.events).started().thinking().completed("cancelled", error="cancelled")
    assert not host.held


async def test_leaving_a_scope_during_an_outage_says_so_and_sends_later() -> None:
    host = Flaky(publish_timeout_seconds=0.02)
    scope = Scope(host, request())
    await (await scope.__aenter__()).think("…")
    host.away = True
    with pytest.raises(PublishError):
        await scope.__aexit__(None, None, None)
    host.away = False
    await until(lambda: "agent_completed" in types(host.events))
    expect(host.events).started().thinking().completed().nothing_else()


async def test_the_current_run_is_found_in_tasks_and_threads() -> None:
    async def agent(run: Run) -> list[bool]:
        task = asyncio.create_task(asyncio.sleep(0, current_run() is run))
        return [await task, await asyncio.to_thread(lambda: current_run() is run)]

    expect(await run_agent(agent)).started().completed(response=[True, True])
    with pytest.raises(NoCurrentRun):
        current_run()


async def test_a_thread_speaks_through_the_runs_loop_and_not_past_it() -> None:
    def in_thread() -> None:
        run = current_run()
        with pytest.raises(WrongEventLoop, match="run_coroutine_threadsafe"):
            asyncio.run(run.think("wrong"))
        asyncio.run_coroutine_threadsafe(run.think("right"), run.loop).result(5)

    async def agent(run: Run) -> None:
        await asyncio.to_thread(in_thread)

    expect(await run_agent(agent)).started().thinking("right").completed().nothing_else()


async def test_runs_at_the_same_time_do_not_meet() -> None:
    async def agent(run: Run) -> str:
        await asyncio.sleep(0.001)
        assert current_run() is run
        return str(run.content)

    every = await asyncio.gather(*(run_agent(agent, content=n) for n in range(20)))
    for number, events in enumerate(every):
        expect(events).started().completed(response=str(number)).nothing_else()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  # nothing here could set an event
            await asyncio.sleep(0.001)
