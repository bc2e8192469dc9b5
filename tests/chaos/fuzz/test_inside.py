"""Seen from inside: what was fuzzed leaves no task, socket or feed behind; and bodies over HTTP."""

import asyncio
import json
import uuid
from typing import Any

import aiohttp
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from broker.config import Settings
from gateway import relay
from gateway.app import Gateway
from gateway.demo import USERS, DemoConfig
from tests.support.chaos_report import Report, Row
from tests.support.clients import eventually
from tests.support.fuzz_frames import frames
from tests.support.fuzz_wire import Stream, close_frame, streams
from tests.support.servers import SECRET, token
from tests.support.wire import TEXT, End, exchange, frame, handshake

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

TARGETS = (
    "/ws",
    "/ws?mode=legacy",
    "/ws?mode=isolated",
    "/ws?mode=factory",
    "/ws?mode=factory&isolation_level=strict",
)
BATCH = 12

_value = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.text(max_size=8),
    st.sampled_from(["alice", "bob", "Alice", "alice ", "x" * 300]),
    st.lists(st.text(max_size=3), max_size=2),
)
_bodies = st.one_of(
    st.binary(max_size=30),
    st.builds(lambda user: json.dumps({"user": user}).encode(), _value),
    st.builds(lambda value: json.dumps(value).encode(), _value),
    st.sampled_from([b"", b"{", b'{"user":"alice","user":7}', b"[" * 5000, b"x" * 70_000, b"\xff"]),
)


def generated(strategy: st.SearchStrategy[Any], number: int) -> list[Any]:
    """Cases without a test around each: they are carried out together."""
    found: list[Any] = []

    @settings(
        max_examples=-(-number // BATCH),
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(strategy, min_size=BATCH, max_size=BATCH))
    def collect(some: list[Any]) -> None:
        found.extend(some)

    collect()
    return found


def _as_stream(some: list[Any]) -> Stream:
    data = [each.data for each in some if isinstance(each.data, str)]
    pieces = [frame(TEXT, text.encode()) for text in data]
    return Stream("frames", (*pieces, close_frame()))


async def test_nothing_is_left_behind(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, report: Report
) -> None:
    """Tasks, sockets, feeds and whoever is on the way: as many afterwards as before."""
    monkeypatch.setattr(relay, "LINGER_SECONDS", 0.05)
    some = generated(frames, 240)
    talks = [_as_stream(some[at : at + BATCH]) for at in range(0, len(some), BATCH)]
    talks += generated(streams, 120)
    wide = settings.model_copy(update={"max_connections_per_user": 1000})
    async with Gateway(wide) as gateway:
        node = gateway.node
        await eventually(lambda: node.ready)
        tasks = len(asyncio.all_tasks())

        async def talk(number: int, stream: Stream) -> None:
            user = f"fuzz-{uuid.uuid4().hex[:8]}"
            head = handshake(
                gateway.port,
                TARGETS[number % len(TARGETS)],
                (f"Authorization: Bearer {token(user)}",),
            )
            end = End.CLOSED if stream.closes else End.UPGRADED
            got = await exchange(gateway.port, head, *stream.pieces, end=end)
            assert got.status == 101, f"{stream!r:.500}: {got}"

        for at in range(0, len(talks), BATCH):
            await asyncio.gather(
                *(talk(at + number, each) for number, each in enumerate(talks[at : at + BATCH]))
            )
        await eventually(lambda: not node.sockets)
        await eventually(lambda: not list(node.relay.hub.feeds()))
        await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
        assert not node.relay._tasks
        assert not node.seats._arriving
    report(Row(fault="fuzz: seen from inside", published=len(some) + 120, lost=0))


async def test_bodies(redis_url: str, settings: Settings, report: Report) -> None:
    """The demo's login takes its users' names and nothing else, in whatever body."""
    some = generated(_bodies, 360)
    demo = DemoConfig(secret=SECRET)
    async with (
        Gateway(settings, demo=demo) as gateway,
        aiohttp.ClientSession(f"http://127.0.0.1:{gateway.port}") as http,
    ):
        for body in some:
            async with http.post("/demo/token", data=body) as response:
                told = f"{body!r:.200}: {response.status} {await response.text()!r:.300}"
                if response.status == 200:
                    assert json.loads(body)["user"] in [user["id"] for user in USERS], told
                    continue
                assert response.status == (
                    413 if len(body) > settings.max_message_bytes else 403
                ), told
                problem = await response.json(content_type="application/problem+json")
                assert problem["status"] == response.status, told
        async with http.get("/readyz") as response:
            assert response.status == 200
    report(Row(fault="fuzz: bodies", published=len(some), lost=0))
