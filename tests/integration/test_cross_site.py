"""Whose pages may connect, and whose word counts about who a client is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
import structlog

from broker.config import Settings
from broker.errors import ConfigurationError
from gateway.app import Gateway
from gateway.demo import DemoConfig
from tests.support.servers import OPERATOR_KEY, SECRET, token

MAY_SEND, MAY_READ = "Access-Control-Allow-Headers", "Access-Control-Expose-Headers"
TRACE_CONTEXT = ("traceparent", "tracestate")
FIRST_REQUEST = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


def handshake(*headers: str, host: str = "chat.example", bearer: str | None = None) -> bytes:
    lines = [
        "GET /ws HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade",
        "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        f"Authorization: Bearer {token() if bearer is None else bearer}", *headers, "", "",
    ]  # fmt: skip
    return "\r\n".join(lines).encode()


async def status(gateway: Gateway, request: bytes, *, before: bytes = b"") -> int:
    """Of the answer to the request, after another one on the same connection or not."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    if before:
        writer.write(before)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
        await reader.readexactly(length)
    writer.write(request)
    line = await reader.readline()
    writer.close()
    return int(line.split()[1])


@asynccontextmanager
async def gateway_with(settings: Settings, **more: object) -> AsyncIterator[Gateway]:
    async with Gateway(settings.model_copy(update=more)) as gateway:
        yield gateway


@pytest.mark.parametrize("before", [b"", FIRST_REQUEST], ids=["handshake", "after a request"])
@pytest.mark.parametrize(
    "headers",
    [
        ("Origin: https://evil.example",),
        ("Origin: https://evil.example", "X-Forwarded-Host: evil.example"),
        ("Origin: https://evil.example", "Forwarded: host=evil.example"),
        ("Origin: https://chat.example.evil.example",),
        ("Origin: https://chat.example:8443",),
        ("Origin: https://chat.example", "Origin: https://evil.example"),
        ("Origin: https://evil.example", "Origin: https://chat.example"),
        ("Origin: https://chat.example https://evil.example",),
        ("Origin: null",),
        ("Origin:",),
    ],
)
async def test_cross_site_websocket_hijacking_is_refused(
    gateway: Gateway, headers: tuple[str, ...], before: bytes
) -> None:
    """A page of somebody else, in the browser of a user who is logged in: even with his token.

    It is refused before anything about the token is looked at, and logged with who it was.
    """
    with structlog.testing.capture_logs() as logs:
        assert await status(gateway, handshake(*headers), before=before) == 403
        assert await status(gateway, handshake(*headers, bearer="none"), before=before) == 403
    told = [each for each in logs if each["event"] == "origin_refused"]
    assert len(told) == 2
    assert all(each["client"] == "127.0.0.1" for each in told)
    assert not len(gateway.node.sockets)
    for allowed in ("Origin: https://chat.example", "Origin: http://CHAT.example:80", "X: y"):
        assert await status(gateway, handshake(allowed), before=before) == 101


async def test_a_list_of_origins_is_the_whole_list(settings: Settings) -> None:
    allowed = ("https://chat.example:443", "https://*.apps.example")
    async with gateway_with(settings, allowed_origins=allowed) as gateway:
        for origin, expected in (
            ("https://chat.example", 101),
            ("https://one.apps.example", 101),
            ("https://apps.example", 403),
            ("http://chat.example", 403),
            ("https://gateway.example", 403),
        ):
            request = handshake(f"Origin: {origin}", host="gateway.example")
            assert await status(gateway, request) == expected, origin


@pytest.mark.parametrize("entry", ["https://a.example/", "*", "null", "a.example"])
def test_an_impossible_origin_is_refused_at_the_start(settings: Settings, entry: str) -> None:
    with pytest.raises(ConfigurationError, match="RUNCAST_ALLOWED_ORIGINS"):
        Gateway(settings.model_copy(update={"allowed_origins": (entry,)}))


async def test_a_page_of_another_host_may_use_all_that_the_protocol_has(settings: Settings) -> None:
    """Headers that a browser did not send at all, or did not let a page read."""
    page = {"Origin": "https://chat.example"}
    allowed = {"allowed_origins": (page["Origin"],), "max_connections_per_user": 1}
    async with gateway_with(settings, **allowed) as gateway, aiohttp.ClientSession() as http:
        base, bearer = f"http://127.0.0.1:{gateway.port}", {"Authorization": f"Bearer {token()}"}
        asks = {**page, "Access-Control-Request-Method": "POST"}
        async with http.options(f"{base}/api/v1/messages", headers=asks) as preflight:
            sent = {name.strip() for name in preflight.headers[MAY_SEND].split(",")}
        assert sent >= {"Authorization", "Content-Type", "Last-Event-ID", *TRACE_CONTEXT}
        async with (
            http.get(f"{base}/sse", headers={**page, **bearer}) as stream,
            http.get(f"{base}/sse", headers={**page, **bearer}) as refused,
        ):
            assert (stream.status, refused.status) == (200, 429)
            assert refused.headers["Retry-After"]
            assert "Retry-After" in refused.headers.get(MAY_READ, "")


# --- trusted proxies


async def test_a_trusted_proxy_tells_host_and_scheme_for_the_origin(settings: Settings) -> None:
    """The gateway's own name is then what the browser asked the proxy for."""
    told = ("X-Forwarded-Host: chat.example", "X-Forwarded-Proto: https")
    async with gateway_with(settings, trusted_proxies=("127.0.0.1",)) as gateway:
        for headers, expected in (
            ((*told, "Origin: https://chat.example"), 101),
            ((*told, "Origin: http://chat.example"), 403),
            ((*told, "Origin: https://inner"), 403),
            (("X-Forwarded-Host: evil.example, chat.example", "Origin: https://evil.example"), 403),
            (("Origin: https://inner",), 101),
        ):
            assert await status(gateway, handshake(*headers, host="inner")) == expected, headers
    async with gateway_with(settings, trusted_proxies=("192.0.2.0/24",)) as gateway:
        request = handshake(*told, "Origin: https://chat.example", host="inner")
        assert await status(gateway, request) == 403, "anybody could name any host"


@pytest.mark.parametrize(
    ("trusted", "address"), [(("127.0.0.0/8",), "203.0.113.5"), ((), "127.0.0.1")]
)
async def test_a_refusal_is_logged_with_the_clients_address(
    settings: Settings, trusted: tuple[str, ...], address: str
) -> None:
    """The one that the trusted proxy saw; what the client wrote itself stands before it."""
    async with gateway_with(settings, trusted_proxies=trusted) as gateway:
        with structlog.testing.capture_logs() as logs:
            forwarded = "X-Forwarded-For: 198.51.100.1, 203.0.113.5"
            assert await status(gateway, handshake(forwarded, bearer="wrong")) == 401
    (told,) = [each for each in logs if each["event"] == "connection_refused"]
    assert told["client"] == address


def stats(*headers: str, host: str = "127.0.0.1:8080") -> bytes:
    lines = ["GET /ws/stats HTTP/1.1", f"Host: {host}", *headers, "", ""]
    return "\r\n".join(lines).encode()


@pytest.mark.parametrize("trusted", [(), ("127.0.0.1",)])
async def test_a_proxy_on_this_machine_does_not_open_the_demos_stats(
    settings: Settings, trusted: tuple[str, ...]
) -> None:
    """They are for who sits here: not for its visitors, nor for a page with a name that was made
    to lead here (DNS rebinding)."""
    settings = settings.model_copy(update={"trusted_proxies": trusted})
    async with Gateway(settings, demo=DemoConfig(secret=SECRET)) as gateway:
        for host in ("127.0.0.1:8080", "localhost"):
            # From where a proxy sits everything may be a visitor's.
            assert await status(gateway, stats(host=host)) == (401 if trusted else 200)
        for header in (
            "X-Forwarded-For: 203.0.113.5", "X-Forwarded-For: 127.0.0.1",
            "X-Real-IP: 203.0.113.5", "Forwarded: for=203.0.113.5", "Via: 1.1 proxy",
        ):  # fmt: skip
            assert await status(gateway, stats(header)) == 401, header
        assert await status(gateway, stats(host="evil.example:8080")) == 401
        operator = f"Authorization: Bearer {OPERATOR_KEY}"
        assert await status(gateway, stats(operator, "X-Forwarded-For: 203.0.113.5")) == 200


async def test_without_the_demo_nobody_is_let_in_for_being_here(gateway: Gateway) -> None:
    assert await status(gateway, stats()) == 401
    assert await status(gateway, stats("X-Forwarded-For: 127.0.0.1")) == 401
