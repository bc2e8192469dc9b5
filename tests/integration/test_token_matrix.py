"""Every token fault × token place × mode × way in: the same refusal, and nothing begun."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
import structlog

from broker.config import Settings
from gateway.app import Gateway
from tests.support import token_faults
from tests.support.clients import Client
from tests.support.keys import EC_KEY, RSA_KEY, public_pem
from tests.support.token_faults import (
    ACCEPTED,
    AUDIENCE,
    FAULTS,
    GOOD,
    ISSUER,
    NOT_HTTP,
    PLACES,
    TYPE,
    Offer,
    offer,
    offers,
    verdict,
)
from tests.support.wire import CLOSE, TEXT, answer, server_frames

MODES = {
    "main": "mode=main",
    "factory": "mode=factory&thread_id=t",
    "strict": "mode=factory&isolation_level=strict",
    "isolated": "mode=isolated",
    "legacy": "mode=legacy",
}
WAYS = ("first request", "later request", "browser", "event stream")
UPGRADE = (
    "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==",
)  # fmt: skip
STATUS = {"unauthorized": 401, "query_token_not_allowed": 401, NOT_HTTP: 400}
AT_ONCE = 16
READ_SECONDS = 5.0


@dataclass(frozen=True)
class Told:
    """What came back, without what differs between two requests that are answered alike."""

    status: int
    text: bytes
    code: str = ""
    close_code: int = 0


@pytest.fixture
async def ports(settings: Settings, tmp_path: Path) -> AsyncIterator[dict[bool, int]]:
    """Whether tokens may be in the query → a gateway with two named keys and every check."""
    for name, key in (("rsa", RSA_KEY), ("ec", EC_KEY)):
        (tmp_path / name).write_bytes(public_pem(key.public_key()))
    strict = settings.model_copy(
        update={
            "jwt_secret": None,
            "jwt_public_key_file": (f"rsa={tmp_path}/rsa", f"ec={tmp_path}/ec"),
            "jwt_audience": ("another gateway", AUDIENCE),
            "jwt_issuer": ISSUER,
            "jwt_type": TYPE,
            "max_connections_per_user": 1000,
        }
    )
    lax = strict.model_copy(update={"allow_query_token": True})
    async with Gateway(strict) as first, Gateway(lax) as second:
        yield {False: first.port, True: second.port}


async def arrive(port: int, offered: Offer, mode: str, way: str) -> Told:
    """One handshake on a raw socket, and what the gateway says to it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(READ_SECONDS):
            if way == "later request":
                writer.write(f"GET /livez HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(answer(head).headers["content-length"]))
            stream = way == "event stream"
            lines = [
                f"GET {'/sse' if stream else '/ws'}?{MODES[mode]}{offered.query} HTTP/1.1",
                f"Host: 127.0.0.1:{port}",
                *(() if stream else UPGRADE),
                *offered.headers,
            ]
            if way == "browser":
                lines.append(f"Origin: http://127.0.0.1:{port}")
            writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
            head = await reader.readuntil(b"\r\n\r\n")
            got = answer(head)
            if got.status == 101:
                frame = await reader.readexactly(2)
                frame += await reader.readexactly(frame[1] if frame[1] < 126 else 2)
                return _upgraded(head, frame, await _rest(reader, frame))
            if got.status == 200:
                await reader.readuntil(b"connection_established")
                return Told(101, b"", code="connection_established")
            body = await reader.readexactly(int(got.headers["content-length"]))
    finally:
        writer.close()
    code = json.loads(body)["code"] if body.startswith(b"{") else ""
    return Told(got.status, re.sub(rb"Date: [^\r]*\r\n", b"", head) + body, code)


async def _rest(reader: asyncio.StreamReader, frame: bytes) -> bytes:
    long = frame[1] == 126
    return await reader.readexactly(int.from_bytes(frame[2:4])) if long else b""


def _upgraded(head: bytes, frame: bytes, rest: bytes) -> Told:
    (first,) = server_frames(frame + rest)
    if first.opcode == TEXT:
        return Told(101, b"", code=json.loads(first.payload)["type"])
    assert first.opcode == CLOSE
    return Told(101, head + first.payload, close_code=first.code)


def check(told: Told, expected: str, way: str) -> None:
    """``AssertionError`` unless it is what the verdict means in this way."""
    if expected == ACCEPTED:
        assert (told.status, told.code) == (101, "connection_established")
    elif expected == NOT_HTTP:
        assert told.status == 400
    elif way == "browser":
        assert (told.status, told.close_code) == (101, 4401)
    else:
        assert (told.status, told.code) == (STATUS[expected], expected)


Look = Callable[[], set[bytes]]


@pytest.fixture
def look(redis_url: str, prefix: str) -> Iterator[Look]:
    """What anybody listens to: a channel that was left is listened to for ten seconds more."""
    with redis.Redis.from_url(redis_url) as client:
        yield lambda: {n for n in client.pubsub_channels(f"{prefix}:*") if b":live:" in n}


def segments(tokens: list[str]) -> set[str]:
    """Those parts of tokens that nothing else could have written into a log."""
    return {part for token in tokens for part in token.split(".") if len(part) > 15}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", WAYS)
async def test_the_matrix(
    ports: dict[bool, int], look: Look, way: str, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    turns = asyncio.Semaphore(AT_ONCE)
    sent: list[str] = []

    async def one(what: str, tokens: tuple[str, ...], place: str) -> tuple[str, str, Told]:
        sent.extend(tokens)
        async with turns:
            port = ports[place == "query"]
            return what, place, await arrive(port, offer(tokens, place), mode, way)

    async def all_of(*, good: bool) -> list[tuple[str, str, Told]]:
        return await asyncio.gather(
            *(
                one(what, tokens, place)
                for place in PLACES
                for what, tokens in offers().items()
                if (verdict(what, place) == ACCEPTED) is good
            )
        )

    caplog.set_level("DEBUG")
    with structlog.testing.capture_logs() as logs:
        refused = await all_of(good=False)
        assert look() == set(), "who was refused has subscribed to nothing"
        accepted = await all_of(good=True)

    for what, place, told in refused + accepted:
        try:
            check(told, verdict(what, place), way)
        except AssertionError as error:
            raise AssertionError(f"{what}, {place}: {told}") from error
    assert len(refused) > 50 * len(PLACES)
    assert len(accepted) == len(GOOD) * (len(PLACES) - 1)
    if mode != "strict":  # which has no channel of its own before a run
        assert look(), "the look at Redis can see a subscription"

    by_verdict: dict[tuple[str, str], set[bytes]] = {}
    for what, place, told in refused:
        expected = verdict(what, place)
        answered = place if way == "browser" else ""  # with the subprotocol of the place
        if expected != NOT_HTTP:
            by_verdict.setdefault((expected, answered), set()).add(told.text)
    assert {kind: len(texts) for kind, texts in by_verdict.items()} == dict.fromkeys(by_verdict, 1)

    written = "\n".join([caplog.text, *(repr(line) for line in logs)])
    assert not [part for part in segments(sent) if part in written]
    reasons = {line["reason"] for line in logs if line["event"] == "connection_refused"}
    assert len(reasons) > 20, "outside they are all alike, in the log they are not"


@pytest.mark.parametrize("mode", MODES)
async def test_the_matrix_in_band(ports: dict[bool, int], look: Look, mode: str) -> None:
    """``auth_refresh`` with every fault: the same answer, and the connection is kept."""
    sent: list[str] = []
    query = dict(pair.split("=") for pair in MODES[mode].split("&"))
    with structlog.testing.capture_logs() as logs:
        async with Client(
            f"http://127.0.0.1:{ports[False]}", token=token_faults.forged(), query=query
        ) as client:
            await client.first("live")
            before = look()
            answers: dict[str, set[str]] = {}
            for what, forge in {**FAULTS, **GOOD}.items():
                token = forge()
                sent.append(token)
                await client.send("auth_refresh", {"token": token}, ref=what)
                reply = await client.reply(what)
                payload = reply.get("payload", reply.get("data"))
                kind = "accepted" if what in GOOD else "refused"
                assert (reply["type"] == "ok") is (kind == "accepted"), (what, reply)
                if kind == "refused":
                    answers.setdefault(kind, set()).add(json.dumps(payload, sort_keys=True))
            assert [json.loads(each) for each in answers["refused"]] == [
                {"code": "not_allowed", "message": "the token is not valid", "retryable": False}
            ]
            for number, tokens in enumerate((None, [token_faults.forged()] * 2, {"token": 1})):
                await client.send("auth_refresh", {"token": tokens}, ref=f"form {number}")
                reply = await client.reply(f"form {number}")
                assert (reply.get("payload") or reply["data"])["code"] == "bad_frame"
            assert client.close_code is None
            assert look() == before
    written = "\n".join(repr(line) for line in logs)
    assert not [part for part in segments(sent) if part in written]
