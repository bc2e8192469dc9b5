"""``@traced_tool`` on whatever can be called."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from typing import Any

import pytest

from agents_sdk import Run, RunStopped, traced_tool
from agents_sdk.testing import expect, run_agent

Event = dict[str, Any]


@traced_tool
def add(a: int, b: int = 2) -> int:
    return a + b


@traced_tool(name="log in", purpose="Get in", hide={"password"})
async def login(user: str, *, password: str, **more: Any) -> dict[str, Any]:
    await asyncio.sleep(0)
    return {"user": user, "length": len(password), "more": len(more)}


@traced_tool
def numbers(up_to: int) -> Iterator[int]:
    yield from range(up_to)


@traced_tool
async def slowly(up_to: int) -> AsyncIterator[int]:
    for number in range(up_to):
        await asyncio.sleep(0)
        yield number


@traced_tool
def broken(why: str) -> None:
    raise LookupError(why)


class Shop:
    @traced_tool
    def price(self, article: str, *also: str) -> int:
        return len(article) + len(also)


def opened(events: list[Event]) -> list[Event]:
    return [e["payload"] for e in events if e["type"] == "tool_executing"]


async def test_a_plain_function_is_a_tool() -> None:
    async def agent(run: Run) -> str:
        return str(add(1))

    events = await run_agent(agent)
    expect(events).started().tool("add", result=3).completed(response="3").nothing_else()
    assert opened(events)[0]["parameters"] == {"a": 1}


async def test_an_async_function_hides_what_it_is_told_to() -> None:
    async def agent(run: Run) -> None:
        await login("alice", password="s3cret", remember=True)

    events = await run_agent(agent)
    expect(events).started().tool("log in", result={"user": "alice", "length": 6, "more": 1})
    assert opened(events)[0]["parameters"] == {
        "user": "alice",
        "password": "[hidden]",
        "remember": True,
    }
    assert opened(events)[0]["purpose"] == "Get in"
    assert "s3cret" not in str(events)


async def test_a_thread_s_call_is_told_in_order() -> None:
    async def agent(run: Run) -> str:
        found = await asyncio.to_thread(add, 40)
        await run.think("after it")
        return str(found)

    expect(await run_agent(agent)).started().tool("add", result=42).thinking().completed()


async def test_a_generator_s_call_lasts_until_it_is_exhausted() -> None:
    async def agent(run: Run) -> str:
        total = 0
        for number in numbers(3):
            await run.think(f"got {number}")
            total += number
        async for number in slowly(2):
            total += number
        return str(total)

    events = await run_agent(agent)
    (
        expect(events)
        .started()
        .tool("numbers", result=3)
        .thinking("got 0")
        .thinking("got 1")
        .thinking("got 2")
        .tool("slowly", result=2)
        .completed(response="4")
    )
    kinds = [e["type"] for e in events]
    assert kinds.index("tool_completed") > kinds.index("agent_thinking")


async def test_a_generator_that_is_left_early_has_succeeded() -> None:
    async def agent(run: Run) -> None:
        items = numbers(3)
        next(items)
        items.close()  # type: ignore[attr-defined]  # a generator's iterator

    expect(await run_agent(agent)).started().tool("numbers", result=1).completed()


async def test_a_generator_gets_what_is_sent_and_thrown_into_it() -> None:
    """As without the decorator, within a run and outside of one."""

    @traced_tool
    def echo() -> Generator[str, str, str]:
        said = yield "first"
        try:
            yield said
        except LookupError:
            yield "caught"
        return "returned"

    @traced_tool
    async def echo_slowly() -> AsyncGenerator[str, str]:
        said = yield "first"
        try:
            yield said
        except LookupError:
            yield "caught"

    async def talk() -> None:
        items = echo()
        assert [next(items), items.send("sent"), items.throw(LookupError())] == [
            "first", "sent", "caught"
        ]  # fmt: skip
        with pytest.raises(StopIteration, match="returned"):
            next(items)
        slow = echo_slowly()
        assert [await anext(slow), await slow.asend("sent")] == ["first", "sent"]
        assert await slow.athrow(LookupError()) == "caught"
        assert [item async for item in slow] == []

    async def agent(run: Run) -> None:
        await talk()

    await talk()
    events = await run_agent(agent)
    expect(events).started().tool("echo", result=3).tool("echo_slowly", result=3).completed()


async def test_an_exception_is_told_and_goes_on_to_the_caller() -> None:
    async def agent(run: Run) -> str:
        with pytest.raises(LookupError):
            broken("nothing there")
        return "went on"

    events = await run_agent(agent)
    expect(events).started().tool("broken", success=False).completed(response="went on")
    [closed] = [e["payload"] for e in events if e["type"] == "tool_completed"]
    assert closed["error"] == {"code": "lookup_error", "message": "nothing there"}


async def test_wrong_arguments_are_the_function_s_own_complaint() -> None:
    async def agent(run: Run) -> None:
        with pytest.raises(TypeError, match="unexpected keyword"):
            add(1, c=2)  # type: ignore[call-arg]  # on purpose

    expect(await run_agent(agent)).started().tool("add", success=False).completed()


async def test_a_method_s_self_and_a_run_are_no_parameters() -> None:
    @traced_tool
    async def with_run(run: Run, article: str) -> str:
        return f"{article} for {run.user_id}"

    async def agent(run: Run) -> None:
        Shop().price("pen", "ink", "paper")
        await with_run(run, "pen")

    events = await run_agent(agent)
    parameters = [each["parameters"] for each in opened(events)]
    assert parameters == [{"article": "pen", "also": ["ink", "paper"]}, {"article": "pen"}]


async def test_calls_at_the_same_time_are_told_apart() -> None:
    async def agent(run: Run) -> None:
        await asyncio.gather(*(login(str(n), password="") for n in range(5)))

    events = await run_agent(agent)
    assert len({each["call_id"] for each in opened(events)}) == 5
    ends = [e["payload"] for e in events if e["type"] == "tool_completed"]
    users = {each["call_id"]: each["parameters"]["user"] for each in opened(events)}
    assert all(users[each["call_id"]] == each["result"]["user"] for each in ends)


async def test_outside_of_a_run_it_is_just_the_function() -> None:
    assert add(1, 1) == 2
    assert (await login("alice", password="x"))["length"] == 1
    assert list(numbers(2)) == [0, 1]
    assert [n async for n in slowly(2)] == [0, 1]
    assert add.__name__ == "add"


async def test_a_function_of_c_has_no_signature_and_works() -> None:
    async def agent(run: Run) -> str:
        return str(traced_tool(max)(1, 3))

    expect(await run_agent(agent)).started().tool("max", result=3).completed(response="3")


async def test_a_stopped_run_s_tools_do_not_begin() -> None:
    began: list[int] = []
    refused: list[bool] = []

    @traced_tool
    def late() -> None:
        began.append(1)

    async def agent(run: Run) -> None:
        try:
            await run.think("stop me")
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            with pytest.raises(RunStopped):
                late()
            refused.append(True)
            raise

    events = await run_agent(agent, stop_at=lambda event: event["type"] == "agent_thinking")
    expect(events).started().thinking().completed("cancelled").nothing_else()
    assert (began, refused) == ([], [True])
