"""AG-UI over HTTP, in what its official clients do not try (``tests/conformance``)."""

import json
from collections.abc import AsyncIterator
from io import BytesIO
from typing import Any

import aiohttp
import pytest

from agents_sdk import Run, Worker
from broker.config import Settings
from gateway.agui_api import MAX_INPUT_BYTES
from tests.support.servers import token

BODY: dict[str, Any] = {
    "threadId": "t", "runId": "m1", "messages": [{"id": "u", "role": "user", "content": "hi"}],
}  # fmt: skip


async def agent(run: Run) -> str:
    return f"{run.content} {sorted(run.metadata)}"


@pytest.fixture
async def http(settings: Settings) -> AsyncIterator[aiohttp.ClientSession]:
    worker = Worker(settings=settings)
    worker.agent("agent")(agent)
    headers = {"Authorization": f"Bearer {token()}"}
    async with worker.running(), aiohttp.ClientSession(headers=headers) as session:
        yield session


async def refused(answer: Any) -> tuple[int, str]:
    async with answer as response:
        return response.status, (await response.json(content_type=None))["code"]


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"messages": []}, 400, "bad_body"),
        ({"threadId": 5}, 400, "bad_body"),
        ({"resume": [{"interruptId": "x", "status": "resolved"}]}, 400, "bad_body"),
        ({"resume": [{"interruptId": "a/a/q/5-0", "status": "resolved"}]}, 404, "run_not_found"),
        ({"resume": [{"interruptId": f"{run}/a/q/5-0", "status": "resolved"} for run in "ab"]},
         400, "bad_body"),
        ({"forwardedProps": {"a": "x" * 70_000}}, 413, "message_too_large"),
        ({"state": "x" * MAX_INPUT_BYTES}, 413, "message_too_large"),
    ],
)  # fmt: skip
async def test_refusals_come_before_the_first_event(
    base: str, http: aiohttp.ClientSession, fields: dict[str, Any], status: int, code: str
) -> None:
    body = BytesIO(json.dumps({**BODY, **fields}).encode())
    assert await refused(http.post(f"{base}/agui/agent", data=body)) == (status, code)


async def test_addresses_are_checked_as_all_are(base: str, http: aiohttp.ClientSession) -> None:
    assert await refused(http.post(f"{base}/agui/nobody", json=BODY)) == (404, "unknown_agent")
    for query, code in (("", "thread_id_required"), ("?threadId=t&x=1", "unknown_parameter"),
                        ("?threadId=t&mode=isolated", "parameter_not_allowed")):  # fmt: skip
        assert await refused(http.get(f"{base}/agui/agent{query}")) == (400, code)
    assert await refused(http.get(f"{base}/agui/agent?runId=m")) == (404, "run_not_found")
    known = {"Last-Event-ID": "5-0"}
    answer = http.post(f"{base}/agui/agent", json=BODY, headers=known)
    assert await refused(answer) == (404, "run_not_found")
    nobody = {"Authorization": "Bearer x"}
    answer = http.post(f"{base}/agui/agent", json=BODY, headers=nobody)
    assert await refused(answer) == (401, "unauthorized")


async def test_a_long_conversation_is_taken_and_its_end_passed_on(
    base: str, http: aiohttp.ClientSession
) -> None:
    old = [{"id": f"o{n}", "role": "user", "content": "x" * 1000} for n in range(500)]
    body = {**BODY, "messages": [*old, *BODY["messages"]], "context": [{"a": 1}], "unknown": 1}
    async with http.post(f"{base}/agui/agent", json=body) as answer:
        assert answer.status == 200
        assert b'"result":"hi [\'agui\']"' in await answer.read()


@pytest.mark.parametrize("query", ["?mode=factory", "?mode=factory&isolation_level=strict"])
async def test_runs_are_of_the_mode_that_the_address_says(
    base: str, http: aiohttp.ClientSession, query: str
) -> None:
    async with http.post(f"{base}/agui/agent{query}", json=BODY) as answer:
        assert b"RUN_FINISHED" in await answer.read()
    join = f"{base}/agui/agent{query}&runId=m1"
    async with http.get(join) as answer:
        text = await answer.read()
    assert b"MESSAGES_SNAPSHOT" in text
    assert b"RUN_FINISHED" in text
    assert await refused(http.get(f"{base}/agui/agent?runId=m1")) == (403, "not_allowed")


async def test_a_page_of_an_allowed_host_may_use_it(base: str, http: aiohttp.ClientSession) -> None:
    asks = {"Access-Control-Request-Method": "POST"}
    async with http.options(f"{base}/agui/agent", headers={**asks, "Origin": base}) as answer:
        assert answer.status == 204
        assert "X-Run-Id" in answer.headers["Access-Control-Allow-Headers"]
    elsewhere = {"Origin": "https://evil.example"}
    refusal = http.post(f"{base}/agui/agent", json=BODY, headers=elsewhere)
    assert await refused(refusal) == (403, "origin_not_allowed")
