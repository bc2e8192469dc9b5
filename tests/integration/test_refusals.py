"""Every refusal of protocol sections 3, 5 and 6: its exact status, close code or error code."""

import asyncio
import base64
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import jwt
import pytest

from broker.channels import Mode
from broker.config import Settings
from broker.redis.broker import Broker
from broker.redis.records import AgentSpec
from gateway.app import Gateway
from tests.support.clients import Client, eventually, lose_live
from tests.support.servers import OPERATOR_KEY, SECRET, token

HANDSHAKE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": base64.b64encode(b"0123456789abcdef").decode(),
}


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def refused(
    http: aiohttp.ClientSession, url: str, headers: dict[str, str] | None = None
) -> tuple[int, str, dict[str, Any]]:
    """Status, code and body of a refused handshake."""
    async with http.get(url, headers={**HANDSHAKE, **(headers or {})}) as response:
        assert response.content_type == "application/problem+json", await response.text()
        body = await response.json()
        assert body["status"] == response.status
        assert body["title"]
        assert body["detail"]
        return response.status, body["code"], body


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


BAD_QUERIES = {
    "mode=isolatd": "invalid_mode",
    "mode=": "invalid_mode",
    "mode=MAIN": "invalid_mode",
    "mode=factory&isolation_level=lax": "invalid_isolation_level",
    "isolation_level=strict": "parameter_not_allowed",
    "connection_scope=true": "parameter_not_allowed",
    "mode=isolated&connection_scope=false": "invalid_connection_scope",
    "events=some": "invalid_events",
    "mode=legacy&after=0-0": "parameter_not_allowed",
    "mode=factory&isolation_level=strict&after=0-0": "run_id_required",
    "thread_id=%ff": "invalid_thread_id",
    "mode=factory&run_id=r": "parameter_not_allowed",
    "run_id=r": "parameter_not_allowed",
    "mode=isolated&connection=c": "secret_required",
    "thread_id=": "invalid_thread_id",
    "thread_id=a%00b": "invalid_thread_id",
    "thread_id=" + "x" * 257: "invalid_thread_id",
    "nonsense=1": "unknown_parameter",
    "mode=main&mode=isolated": "repeated_parameter",
}


@pytest.mark.parametrize("query", BAD_QUERIES)
async def test_an_unknown_or_meaningless_parameter_is_400(
    base: str, http: aiohttp.ClientSession, query: str
) -> None:
    status, code, _ = await refused(http, f"{base}/ws?{query}", bearer(token()))
    assert (status, code) == (400, BAD_QUERIES[query])


async def test_an_unknown_mode_is_told_the_valid_ones(
    base: str, http: aiohttp.ClientSession
) -> None:
    _, _, body = await refused(http, f"{base}/ws?mode=unified", bearer(token()))
    for mode in Mode:
        assert mode.value in body["detail"]


@pytest.mark.parametrize(
    ("path", "mode"),
    [
        ("/websocket", "factory"),
        ("/api/v1/websocket", "legacy"),
        ("/ws/factory", "main"),
        ("/ws/isolated", "main"),
    ],
)
async def test_a_mode_that_contradicts_the_path_is_400(
    base: str, http: aiohttp.ClientSession, path: str, mode: str
) -> None:
    status, code, _ = await refused(http, f"{base}{path}?mode={mode}", bearer(token()))
    assert (status, code) == (400, "mode_contradicts_path")


@pytest.mark.parametrize(
    ("path", "mode"),
    [
        ("/websocket", "main"),
        ("/api/v1/websocket", "main"),
        ("/ws/factory", "factory"),
        ("/ws/isolated", "isolated"),
    ],
)
async def test_the_old_routes_have_their_modes(base: str, path: str, mode: str) -> None:
    async with Client(base, path=path) as client:
        hello = await client.first("connection_established")
        assert hello["payload"]["mode"] == mode


SOON = int(time.time()) + 3600
NOT_AUTHENTICATED: dict[str, dict[str, str]] = {
    "no token": {},
    "empty": bearer(""),
    "not a token": bearer("abc"),
    "another scheme": {"Authorization": f"Basic {token()}"},
    "expired": bearer(token(ttl_seconds=-10)),
    "another key": bearer(jwt.encode({"sub": "a", "exp": SOON}, "k" * 40, "HS256")),
    "another algorithm": bearer(jwt.encode({"sub": "a", "exp": SOON}, SECRET, "HS384")),
    "no expiry": bearer(jwt.encode({"sub": "a"}, SECRET, "HS256")),
    "no subject": bearer(jwt.encode({"exp": SOON}, SECRET, "HS256")),
    "not yet valid": bearer(
        jwt.encode({"sub": "a", "exp": SOON, "nbf": SOON - 60}, SECRET, "HS256")
    ),
    "a token without a protocol's name": {"Sec-WebSocket-Protocol": f"jwt.{token()}"},
}


@pytest.mark.parametrize("case", NOT_AUTHENTICATED)
@pytest.mark.parametrize("mode", list(Mode))
async def test_without_a_valid_token_it_is_401_in_every_mode(
    base: str, http: aiohttp.ClientSession, mode: Mode, case: str
) -> None:
    headers = NOT_AUTHENTICATED[case]
    status, code, body = await refused(http, f"{base}/ws?mode={mode}", headers)
    assert (status, code) == (401, "unauthorized")
    assert body["detail"] == "A valid token is required.", "the text does not say why"


async def test_authentication_comes_before_everything_else(
    base: str, http: aiohttp.ClientSession
) -> None:
    status, _, _ = await refused(http, f"{base}/ws?mode=nonsense")
    assert status == 401


async def test_a_query_token_is_refused_unless_allowed(
    base: str, http: aiohttp.ClientSession
) -> None:
    status, code, _ = await refused(http, f"{base}/ws?token={token()}")
    assert (status, code) == (401, "query_token_not_allowed")


async def test_a_query_token_works_when_allowed(settings: Settings) -> None:
    allowing = settings.model_copy(update={"allow_query_token": True})
    async with Gateway(allowing) as gateway:
        base = f"http://127.0.0.1:{gateway.port}/ws?token={token()}"
        async with Client(base, path="", headers={}) as client:
            await client.first("live")


async def test_tokens_in_subprotocols_are_taken_and_never_answered(base: str) -> None:
    raw = token()
    encoded = base64.urlsafe_b64encode(raw.encode()).rstrip(b"=").decode()
    for protocols, answer in (
        (("runcast.v3", f"jwt.{raw}"), "runcast.v3"),
        (("jwt-auth", f"jwt.{encoded}"), "jwt-auth"),
    ):
        async with Client(base, headers={}, protocols=protocols) as client:
            assert client.ws.protocol == answer
            await client.first("connection_established")


async def test_another_users_id_is_403(base: str, http: aiohttp.ClientSession) -> None:
    status, code, _ = await refused(http, f"{base}/ws?user_id=bob", bearer(token("alice")))
    assert (status, code) == (403, "user_mismatch")


async def test_a_mode_that_the_token_does_not_allow_is_403(
    base: str, http: aiohttp.ClientSession
) -> None:
    limited = token(modes=[Mode.MAIN])
    status, code, _ = await refused(http, f"{base}/ws?mode=isolated", bearer(limited))
    assert (status, code) == (403, "mode_not_allowed")


async def test_a_plain_request_is_426(base: str, http: aiohttp.ClientSession) -> None:
    async with http.get(f"{base}/ws", headers=bearer(token())) as response:
        assert response.status == 426
        assert response.headers["Upgrade"] == "websocket"
        # RFC 6455 section 4.2.2: a client of another version is told which there is.
        assert response.headers["Sec-WebSocket-Version"] == "13"
        assert (await response.json())["code"] == "upgrade_required"


async def test_one_connection_too_many_is_429(settings: Settings) -> None:
    few = settings.model_copy(update={"max_connections_per_user": 2})
    async with Gateway(few) as gateway, aiohttp.ClientSession() as http:
        base = f"http://127.0.0.1:{gateway.port}"
        async with Client(base), Client(base):
            status, code, _ = await refused(http, f"{base}/ws", bearer(token()))
            assert (status, code) == (429, "too_many_connections")
            async with Client(base, "bob"):
                pass


async def test_a_draining_gateway_is_503(
    gateway: Gateway, base: str, http: aiohttp.ClientSession
) -> None:
    gateway.node.draining = True
    status, code, _ = await refused(http, f"{base}/ws", bearer(token()))
    assert (status, code) == (503, "draining")


@pytest.mark.parametrize(
    ("query", "credential", "close_code"),
    [("", "nonsense", 4401), ("?user_id=bob", None, 4403)],
)
async def test_a_browser_is_told_by_close_code(
    base: str, query: str, credential: str | None, close_code: int
) -> None:
    """A browser cannot read a refused handshake's body, so the socket is opened and closed."""
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(
            f"{base}/ws{query}",
            headers={"Origin": base},
            protocols=("runcast.v3", f"jwt.{credential or token()}"),
        ) as ws,
    ):
        assert ws.protocol == "runcast.v3"
        message = await ws.receive()
        assert message.type is aiohttp.WSMsgType.CLOSE
        assert ws.close_code == close_code


async def test_a_foreign_origin_is_403(base: str, http: aiohttp.ClientSession) -> None:
    headers = {**bearer(token()), "Origin": "https://evil.example"}
    status, code, _ = await refused(http, f"{base}/ws", headers)
    assert (status, code) == (403, "origin_not_allowed")


# --- frames


async def test_bad_frames_are_answered_and_the_connection_kept(base: str) -> None:
    async with Client(base) as client:
        cases: list[tuple[str, str]] = [
            ("{", "bad_json"),
            ('{"a": NaN}', "bad_json"),
            ("[1]", "bad_frame"),
            ('{"payload": {}}', "bad_frame"),
            ('{"type": 1}', "bad_frame"),
            ('{"type": "ping", "payload": []}', "bad_frame"),
            ('{"type": "ping", "id": 7}', "bad_frame"),
            ('{"type": "user_message", "payload": {}}', "bad_frame"),
            ('{"type": "user_message", "payload": {"content": 1}}', "bad_frame"),
            ('{"type": "user_message", "payload": {"content": "x", "metadata": 1}}', "bad_frame"),
            ('{"type": "stop_agent", "payload": {}}', "bad_frame"),
            ('{"type": "agent_started", "payload": {}}', "unknown_type"),
            ('{"type": "' + "x" * 66000 + '"}', "message_too_large"),
        ]
        for number, (text, code) in enumerate(cases):
            await client.ws.send_str(text)
            error = await client.nth("error", number)
            assert error["ref"] is None
            assert error["payload"]["code"] == code, text[:60]
            assert error["payload"]["retryable"] is False
        await client.ws.send_bytes(b"{}")
        await client.first("error", code="bad_frame", message="frames are JSON text, not binary")
        await client.send("ping", {"n": 1}, ref="still here")
        pong = await client.reply("still here")
        assert pong["payload"]["n"] == 1
        assert pong["payload"]["server_time"].endswith("Z")


async def test_twenty_bad_frames_in_a_minute_close_4400(base: str) -> None:
    async with Client(base) as client:
        for _ in range(20):
            await client.ws.send_str("{")
        assert await client.closed() == 4400
        assert sum(frame["type"] == "error" for frame in client.frames) == 20


async def test_a_frame_that_is_far_too_large_closes_1009(base: str) -> None:
    async with Client(base) as client:
        await client.ws.send_str("x" * (65536 * 4 + 1))
        assert await client.closed() == 1009


async def test_invalid_utf8_closes_1007(gateway: Gateway) -> None:
    """RFC 6455 section 8.1."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    lines = ["GET /ws HTTP/1.1", "Host: x", *(f"{k}: {v}" for k, v in HANDSHAKE.items())]
    request = "\r\n".join([*lines, f"Authorization: Bearer {token()}", "", ""])
    # The frame comes in one piece with the handshake: an early client is allowed to do that.
    mask = b"\x00\x00\x00\x00"
    writer.write(request.encode() + b"\x81\x82" + mask + b"\xc3\x28")
    received = await reader.read()
    writer.close()
    assert received.startswith(b"HTTP/1.1 101 ")
    assert b"\x03\xef" in received[-140:], "close frame with 1007"


ERRORS: list[tuple[str, dict[str, Any], str, bool]] = [
    ("stop_agent", {"run_id": "unknown"}, "run_not_found", False),
    ("user_input", {"run_id": "unknown", "request_id": "r", "content": 1}, "run_not_found", False),
    ("attach", {"run_id": "unknown"}, "not_allowed", False),
    ("detach", {"run_id": "unknown"}, "run_not_found", False),
    ("auth_refresh", {"token": "nonsense"}, "not_allowed", False),
    ("user_message", {"content": "x", "agent": "nobody"}, "unknown_agent", False),
    ("user_message", {"content": "x"}, "unknown_agent", True),
]


@pytest.mark.parametrize(("kind", "payload", "code", "retryable"), ERRORS)
async def test_commands_that_cannot_be_have_their_error_codes(
    base: str, kind: str, payload: dict[str, Any], code: str, *, retryable: bool
) -> None:
    async with Client(base) as client:
        await client.send(kind, payload, ref="r")
        error = await client.reply("r")
        assert error["type"] == "error"
        assert error["payload"]["code"] == code
        assert error["payload"]["retryable"] is retryable


async def test_a_foreign_run_is_answered_like_an_unknown_one(base: str, broker: Broker) -> None:
    await broker.announce([AgentSpec(name="any")])
    async with Client(base, "alice") as alice, Client(base, "bob") as bob:
        run_id = await alice.ask("secret")
        answers = []
        for ref, wanted in (("foreign", run_id), ("unknown", run_id[:-1] + "0")):
            await bob.send("stop_agent", {"run_id": wanted}, ref=ref)
            error = await bob.reply(ref)
            answers.append((error["type"], error["payload"]["code"]))
        assert answers == [("error", "run_not_found")] * 2


async def test_another_thread_than_the_connections_is_not_allowed(
    base: str, broker: Broker
) -> None:
    await broker.announce([AgentSpec(name="any")])
    for query in ({"thread_id": "t"}, {"mode": "factory", "thread_id": "t"}):
        async with Client(base, query=query) as client:
            await client.send("user_message", {"content": "x", "thread_id": "u"}, ref="r")
            assert (await client.reply("r"))["payload"]["code"] == "not_allowed"


async def test_too_many_messages_a_minute_are_rate_limited(
    settings: Settings, broker: Broker
) -> None:
    await broker.announce([AgentSpec(name="any", on_busy="parallel")])
    few = settings.model_copy(update={"messages_per_minute": 3})
    async with Gateway(few) as gateway:
        base = f"http://127.0.0.1:{gateway.port}"
        async with Client(base) as client, Client(base) as second_tab:
            for number in range(3):
                await client.ask("x", ref=f"m{number}")
            await second_tab.send("user_message", {"content": "x"}, ref="over")
            error = await second_tab.reply("over")
            assert error["payload"]["code"] == "rate_limited"
            assert error["payload"]["retryable"] is True


async def test_a_flood_of_messages_closes_4429(settings: Settings, broker: Broker) -> None:
    """Three times the limit of a minute may be refused, for whatever reason."""
    await broker.announce([AgentSpec(name="any", on_busy="parallel")])
    few = settings.model_copy(update={"messages_per_minute": 3})
    async with Gateway(few) as gateway, Client(f"http://127.0.0.1:{gateway.port}") as client:
        for number in range(13):
            agent = "none" if number < 2 else "any"
            await client.send("user_message", {"content": "x", "agent": agent}, ref=f"m{number}")
        assert await client.closed() == 4429
        codes = [f["payload"]["code"] for f in client.frames if f["type"] == "error"]
        assert codes == ["unknown_agent"] * 2 + ["rate_limited"] * 8


async def test_a_full_queue_and_a_busy_thread_are_queue_full(base: str, broker: Broker) -> None:
    await broker.announce([AgentSpec(name="picky", on_busy="reject")])
    async with Client(base) as client:
        await client.ask("x", agent="picky", thread_id="t")
        await client.send(
            "user_message", {"content": "x", "agent": "picky", "thread_id": "t"}, ref="busy"
        )
        error = await client.reply("busy")
        assert (error["payload"]["code"], error["payload"]["retryable"]) == ("queue_full", True)


async def test_a_token_of_somebody_else_closes_4403(base: str) -> None:
    async with Client(base, "alice") as client:
        await client.send("auth_refresh", {"token": token("bob")}, ref="r")
        assert await client.closed() == 4403


async def test_a_token_that_does_not_allow_the_mode_closes_4403(base: str) -> None:
    async with Client(base, "alice") as client:
        narrower = token("alice", modes=[Mode.ISOLATED])
        await client.send("auth_refresh", {"token": narrower}, ref="r")
        assert await client.closed() == 4403


async def test_a_burst_of_connections_is_served_and_limited(settings: Settings) -> None:
    """All at once on one channel: as many as the limit allows are served, and nothing is stuck."""
    few = settings.model_copy(update={"max_connections_per_user": 10})
    async with Gateway(few) as gateway:
        base = f"http://127.0.0.1:{gateway.port}"
        for turn in range(5):
            clients = [Client(base, f"burst-{turn}") for _ in range(30)]
            opened = await asyncio.gather(
                *(client.__aenter__() for client in clients), return_exceptions=True
            )
            served = [client for client in opened if isinstance(client, Client)]
            statuses = [each.status for each in opened if not isinstance(each, Client)]  # type: ignore[attr-defined]
            assert len(served) == 10
            assert statuses == [429] * 20
            await asyncio.gather(*(client.first("live") for client in served))
            await asyncio.gather(*(client.__aexit__() for client in served))


async def test_of_simultaneous_take_ups_exactly_one_stays(base: str, settings: Settings) -> None:
    async with Gateway(settings) as other, Client(base, mode="isolated") as first:
        hello = (await first.first("connection_established"))["payload"]
        again = {"connection": hello["connection_id"], "secret": hello["secret"]}
        bases = (base, f"http://127.0.0.1:{other.port}")
        for _ in range(5):
            clients = [Client(bases[n % 2], mode="isolated", query=again) for n in range(6)]
            await asyncio.gather(*(client.__aenter__() for client in clients))
            for client in clients:
                await client.until(lambda frames: frames)
            await eventually(
                lambda: sum(each.close_code is None for each in clients) == 1  # noqa: B023
            )
            (survivor,) = [each for each in clients if each.close_code is None]
            await survivor.send("ping", ref="mine")
            await survivor.reply("mine")
            assert {each.close_code for each in clients} == {None, 4409}
            await asyncio.gather(*(client.__aexit__() for client in clients))
        assert await first.closed() == 4409


async def test_a_former_socket_that_did_not_hear_of_the_take_up_is_closed_too(
    gateway: Gateway, base: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its gateway missed the notice, and from then on two sockets read one isolated channel."""
    lose_live(gateway, monkeypatch, lambda message: b" taken_over\n" in message)
    monkeypatch.setattr("gateway.node.REFRESH_SECONDS", 0.0)
    async with Gateway(settings) as other, Client(base, mode="isolated") as former:
        hello = (await former.first("connection_established"))["payload"]
        again = {"connection": hello["connection_id"], "secret": hello["secret"]}
        at = f"http://127.0.0.1:{other.port}"
        async with Client(at, mode="isolated", query=again) as present:
            await present.first("live")
            assert await former.closed() == 4409
            await present.send("ping", ref="mine")
            await present.reply("mine")


async def test_what_cannot_be_parsed_is_not_logged(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    """A request with bare line feeds: aiohttp would log its headers, and with them the token."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    secret = token()
    writer.write(f"GET /ws HTTP/1.1\nHost: x\nAuthorization: Bearer {secret}\n\n".encode())
    assert b" 400 " in await reader.readline()
    writer.close()
    assert secret[:40] not in caplog.text


async def test_unknown_paths_and_methods_are_problems(
    base: str, http: aiohttp.ClientSession
) -> None:
    for method, path, status in (("GET", "/nowhere", 404), ("POST", "/ws", 405)):
        async with http.request(method, base + path) as response:
            assert response.status == status
            assert response.content_type == "application/problem+json"
            assert (await response.json())["code"]


async def test_a_new_token_of_the_same_user_extends_the_connection(base: str) -> None:
    async with Client(base, token=token(ttl_seconds=30)) as client:
        expiring = await client.first("token_expiring")
        await client.send("auth_refresh", {"token": token(ttl_seconds=900)}, ref="r")
        answer = await client.reply("r")
        assert answer["payload"]["expires_at"] > expiring["payload"]["expires_at"]


async def test_taking_up_an_isolated_connection_closes_the_former_socket_4409(base: str) -> None:
    async with Client(base, mode="isolated") as first:
        hello = (await first.first("connection_established"))["payload"]
        again = {"connection": hello["connection_id"], "secret": hello["secret"]}
        async with Client(base, mode="isolated", query=again) as second:
            assert await first.closed() == 4409
            resumed = (await second.first("connection_established"))["payload"]
            assert resumed["connection_id"] == hello["connection_id"]


async def test_an_isolated_connection_is_taken_up_only_with_its_secret_and_by_its_user(
    base: str, http: aiohttp.ClientSession
) -> None:
    async with Client(base, mode="isolated") as first:
        hello = (await first.first("connection_established"))["payload"]
        for user, secret in (("alice", "guessed"), ("bob", hello["secret"])):
            url = f"{base}/ws?mode=isolated&connection={hello['connection_id']}&secret={secret}"
            status, code, _ = await refused(http, url, bearer(token(user)))
            assert (status, code) == (403, "connection_unknown")
        await first.send("ping", ref="kept")
        await first.reply("kept")


async def test_stats_are_for_operators(base: str, http: aiohttp.ClientSession) -> None:
    for headers, status in (
        ({}, 401),
        (bearer(token()), 403),
        (bearer(token(operator=True)), 200),
        (bearer(OPERATOR_KEY), 200),
    ):
        async with http.get(f"{base}/ws/stats", headers=headers) as response:
            assert response.status == status


def test_a_taken_port_is_an_error(settings: Settings) -> None:
    async def start(port: int) -> None:
        async with Gateway(settings.model_copy(update={"port": port})):
            pytest.fail("started on a port that is taken")

    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        asyncio.run(start(taken.getsockname()[1]))
