"""The gateway's own TLS: everything that works without it works with it, and no more."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from broker.config import Settings
from broker.errors import ConfigurationError
from broker.redis.broker import Broker
from gateway import app
from gateway.app import Gateway
from gateway.check import findings
from gateway.outbox import MAX_UNSENT_BYTES
from gateway.tls import Certificate
from gateway.websocket import WebSocket
from tests.integration.test_front import handshake
from tests.mission_critical.test_g1_published_once import opened, thought
from tests.mission_critical.test_g7_slow_clients import EVENTS, publish_large
from tests.support.certificates import Authority, Pair
from tests.support.clients import Client, eventually
from tests.support.ports import free_port
from tests.support.servers import Redis, running_fleet, wait_until

HTTP = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


@pytest.fixture
def pair(authority: Authority) -> Pair:
    return authority.issue("server")


@pytest.fixture
def settings(settings: Settings, pair: Pair) -> Settings:
    files = {"tls_certificate_file": pair.certificate, "tls_key_file": pair.key}
    return settings.model_copy(update=files)


@pytest.fixture
def base(gateway: Gateway) -> str:
    return f"https://127.0.0.1:{gateway.port}"


@pytest.fixture
def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority.certificate)


@pytest.fixture
async def http(trusting: ssl.SSLContext) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(ssl=trusting)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session


async def shown(gateway: Gateway, trusting: ssl.SSLContext) -> int:
    """The serial number of the certificate that a new handshake gets."""
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port, ssl=trusting)
    found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return x509.load_der_x509_certificate(found).serial_number


def serial_of(pair: Pair) -> int:
    return x509.load_pem_x509_certificate(pair.certificate.read_bytes()).serial_number


async def until_shown(gateway: Gateway, trusting: ssl.SSLContext, serial: int) -> None:
    async with asyncio.timeout(30):
        while await shown(gateway, trusting) != serial:  # noqa: ASYNC110 - only a handshake tells
            await asyncio.sleep(0.05)


# --- the same as without


async def test_a_websocket_and_http_work_over_tls(
    gateway: Gateway,
    base: str,
    http: aiohttp.ClientSession,
    trusting: ssl.SSLContext,
    broker: Broker,
) -> None:
    """In both directions, the page's files included."""
    assert gateway.url == f"wss://127.0.0.1:{gateway.port}/ws"
    for path, status in (("/livez", 200), ("/", 200), ("/static/runcast.js", 200), ("/no", 404)):
        async with http.get(base + path) as response:
            await response.read()
            assert response.status == status, path
    claim = await opened(broker, "alice")
    async with Client(base, "alice", ssl=trusting) as client:
        await client.first("live")
        await client.send("ping", {"n": 1}, ref="p")
        assert (await client.reply("p"))["payload"]["n"] == 1
        for seq in range(1, 4):
            await broker.publish(claim, thought(claim, seq))
        await client.until(lambda frames: [f for f in frames if f.get("seq") == 3], what="events")
        assert [event["seq"] for event in client.events()] == [1, 2, 3]


async def test_http_1_1_is_agreed_on(gateway: Gateway, trusting: ssl.SSLContext) -> None:
    """By clients that would rather speak HTTP/2 as well."""
    trusting.set_alpn_protocols(["h2", "http/1.1"])
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, ssl=trusting)
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
    writer.write(handshake())
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
    writer.close()


async def test_any_bytes_may_come_one_by_one(gateway: Gateway, trusting: ssl.SSLContext) -> None:
    """The network cuts handshake, records and frames where it likes."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = trusting.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def send() -> int:
        data = outgoing.read()
        for at in range(len(data)):
            writer.write(data[at : at + 1])
            await asyncio.sleep(0)
        return len(data)

    sent = 0
    while True:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            sent += await send()
            incoming.write(await reader.read(65536))
        else:
            break
    tls.write(handshake() + b"\x89\x80\x00\x00\x00\x00" * 50)
    sent += await send()
    said = b""
    while said.count(b"\x8a\x00") < 50:
        incoming.write(await reader.read(65536))
        with suppress(ssl.SSLWantReadError):
            while True:
                said += tls.read(65536)
    assert said.startswith(b"HTTP/1.1 101")
    assert sent > 1000
    writer.close()


async def test_much_in_one_piece_arrives_whole(gateway: Gateway, trusting: ssl.SSLContext) -> None:
    """More records at once than a read of the socket has bytes."""
    gateway.node.frames = gateway.node.frames._replace(capacity=60_000)
    ping = b"\x89\x80\x00\x00\x00\x00"
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, ssl=trusting)
    writer.write(handshake() + ping * 50_000)
    await reader.readuntil(b'"type":"live"')
    await reader.readuntil(b"}}")
    assert await reader.readexactly(2 * 50_000) == b"\x8a\x00" * 50_000
    writer.close()


def ends_with_a_goodbye(port: int, trusting: ssl.SSLContext, request: bytes) -> bytes:
    """All of the answer; ssl.SSLEOFError when the end could be an attacker's."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=30) as raw,
        trusting.wrap_socket(raw, server_hostname="127.0.0.1", suppress_ragged_eofs=False) as tls,
    ):
        tls.sendall(request)
        answer = b""
        while data := tls.recv(65536):
            answer += data
        return answer


async def test_an_answer_that_ends_is_whole(gateway: Gateway, trusting: ssl.SSLContext) -> None:
    """Nobody on the way can cut it short unseen (close_notify)."""
    refused = handshake().replace(b"mode=main", b"mode=mein")
    answer = await asyncio.to_thread(ends_with_a_goodbye, gateway.port, trusting, refused)
    assert answer.startswith(b"HTTP/1.1 400"), answer
    closing = HTTP.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    answer = await asyncio.to_thread(ends_with_a_goodbye, gateway.port, trusting, closing)
    assert answer.startswith(b"HTTP/1.1 200"), answer


# --- what is refused


async def test_a_client_refuses_a_certificate_of_somebody_else(
    gateway: Gateway, base: str, tmp_path: Path
) -> None:
    stranger = ssl.create_default_context(cafile=Authority(tmp_path, "stranger").certificate)
    with pytest.raises(aiohttp.ClientConnectorCertificateError):
        async with Client(base, "alice", ssl=stranger):
            pass
    await eventually(lambda: not gateway._fronts._waiting)


@pytest.mark.parametrize("sent", [HTTP, b"\x00" * 1000, b"\x16\x03\x01\xff\xff" + b"\xff" * 300])
async def test_what_is_not_tls_gets_no_answer_but_an_alert(
    gateway: Gateway, base: str, http: aiohttp.ClientSession, sent: bytes
) -> None:
    """Nothing of a plain request is served, and the others go on."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(sent)
    answer = await reader.read()
    assert not answer or (len(answer) == 7 and answer[0] == 21), answer  # one alert record
    writer.close()
    await eventually(lambda: not gateway._fronts._waiting)
    async with http.get(f"{base}/livez") as response:
        assert response.status == 200


async def test_nothing_older_than_tls_1_2(gateway: Gateway, trusting: ssl.SSLContext) -> None:
    trusting.set_ciphers("DEFAULT@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        trusting.minimum_version = ssl.TLSVersion.TLSv1
        trusting.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError, match=r"PROTOCOL_VERSION|protocol version"):
        await asyncio.open_connection("127.0.0.1", gateway.port, ssl=trusting)
    trusting.maximum_version = trusting.minimum_version = ssl.TLSVersion.TLSv1_2
    assert await shown(gateway, trusting)


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"])
async def test_a_handshake_that_is_never_finished_ends(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    """It costs a place, for ten seconds at most."""
    monkeypatch.setattr(app, "SILENT_SECONDS", 0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(sent)
    await eventually(lambda: len(gateway._fronts._waiting) == 1)
    with suppress(ConnectionResetError):
        assert await reader.read() == b""
    assert not gateway._fronts._waiting
    writer.close()


async def test_a_finished_handshake_that_asks_for_nothing_ends(
    gateway: Gateway, trusting: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, ssl=trusting)
    monkeypatch.setattr(app, "SILENT_SECONDS", 0.1)
    with suppress(ConnectionResetError):
        assert await reader.read() == b""
    writer.close()


# --- slow clients (promise G7)


@pytest.mark.timeout(300)
async def test_a_slow_reader_is_bounded_and_seen_to_read(
    gateway: Gateway, base: str, broker: Broker, trusting: ssl.SSLContext
) -> None:
    """12 MB are published. Bug of the event loops' own TLS: what they have handed down to the
    socket is not told, so that a heartbeat would take a slow reader for one that is gone."""
    claim = await opened(broker, "alice")
    async with Client(base, "alice", ssl=trusting) as slow:
        await slow.first("live")
        connection = slow.ws._response.connection
        assert connection is not None
        assert connection.transport is not None
        connection.transport.pause_reading()
        (server,) = gateway.node.sockets
        most = 0
        for seq in range(1, EVENTS + 1):
            await publish_large(broker, claim, seq)
            most = max(most, server.unsent + server.outbox._size)
        assert server.outbox.stalled
        assert MAX_UNSENT_BYTES < most < 2 * MAX_UNSENT_BYTES
        server.beat()
        assert isinstance(server, WebSocket)
        server.heard = False  # its pongs are behind what it has not read
        before = server.unsent
        connection.transport.resume_reading()
        await eventually(lambda: 0 < server.unsent < before or len(slow.events()) == EVENTS)
        server.beat()
        await slow.until(lambda frames: any(f.get("seq") == EVENTS for f in frames), what="the end")
        assert [event["seq"] for event in slow.events()] == list(range(1, EVENTS + 1))


# --- renewal


async def test_a_renewed_certificate_is_taken_up_and_old_connections_live_on(
    gateway: Gateway, base: str, authority: Authority, pair: Pair, trusting: ssl.SSLContext
) -> None:
    """Also by one of another kind: the old key is not offered beside it."""
    async with Client(base, "alice", ssl=trusting) as client:
        await client.first("live")
        assert await shown(gateway, trusting) == serial_of(pair)
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        renewed = authority.issue("server", key=key)
        assert renewed == pair
        await until_shown(gateway, trusting, serial_of(renewed))
        for _ in range(5):
            assert await shown(gateway, trusting) == serial_of(renewed)
        await client.send("ping", {}, ref="p")
        assert (await client.reply("p"))["type"] == "pong"


async def test_a_broken_renewal_is_told_and_the_old_certificate_kept(
    gateway: Gateway, authority: Authority, pair: Pair, trusting: ssl.SSLContext
) -> None:
    """A key that came before its certificate, an empty file, none: until both are right."""
    old, chain = serial_of(pair), pair.certificate.read_bytes()

    def key_first() -> None:
        authority.issue("server")
        pair.certificate.write_bytes(chain)

    def empty() -> None:
        pair.certificate.write_bytes(b"")

    breaks: list[Callable[[], None]] = [
        key_first,
        empty,
        pair.certificate.unlink,
        pair.key.unlink,
    ]
    for break_it in breaks:
        with structlog.testing.capture_logs() as logs:
            break_it()
            await eventually(lambda: any(e["event"] == "certificate_not_renewed" for e in logs))
        assert await shown(gateway, trusting) == old
    await until_shown(gateway, trusting, serial_of(authority.issue("server")))


# --- what a gateway refuses to start with


def certificate(settings: Settings, pair: Pair, **more: object) -> Certificate | None:
    files = {"tls_certificate_file": pair.certificate, "tls_key_file": pair.key, **more}
    return Certificate.of(Settings(**{**settings.model_dump(exclude_unset=True), **files}))


@pytest.fixture
def plain(settings: Settings) -> Settings:
    return settings.model_copy(update={"tls_certificate_file": None, "tls_key_file": None})


def test_an_encrypted_key_needs_its_password(plain: Settings, authority: Authority) -> None:
    """Without one OpenSSL would ask on the terminal, and wait."""
    locked = authority.issue("locked", password="open sesame")
    with pytest.raises(ConfigurationError, match=r"RUNCAST_TLS_KEY_PASSWORD.*is encrypted"):
        certificate(plain, locked)
    with pytest.raises(ConfigurationError, match="cannot be decrypted") as refused:
        certificate(plain, locked, tls_key_password="shut")
    assert "shut" not in str(refused.value)
    assert certificate(plain, locked, tls_key_password="open sesame") is not None


def test_files_that_do_not_fit_are_refused(
    plain: Settings, authority: Authority, pair: Pair, tmp_path: Path
) -> None:
    other = authority.issue("other")
    rubbish = tmp_path / "rubbish"
    rubbish.write_text("no PEM")
    for chain, key, told in (
        (pair.certificate, other.key, "RUNCAST_TLS_KEY_FILE.*is not the key of"),
        (tmp_path / "none", pair.key, "RUNCAST_TLS_CERTIFICATE_FILE.*No such file"),
        (pair.certificate, tmp_path / "none", "RUNCAST_TLS_KEY_FILE.*No such file"),
        (rubbish, pair.key, "RUNCAST_TLS_CERTIFICATE_FILE.*as PEM"),
        (pair.certificate, None, "RUNCAST_TLS_KEY_FILE.*not set"),
        (None, pair.key, "RUNCAST_TLS_CERTIFICATE_FILE.*not set"),
    ):
        with pytest.raises(ConfigurationError, match=told):
            certificate(plain, pair, tls_certificate_file=chain, tls_key_file=key)
    assert Certificate.of(plain) is None


# --- as programs


@pytest.mark.timeout(300)
@pytest.mark.parametrize("processes", [1, 2])
def test_the_command_line_speaks_tls(
    redis_server: Redis, authority: Authority, pair: Pair, prefix: str, processes: int
) -> None:
    """``runcast chat`` trusts whom SSL_CERT_FILE names, and nobody else."""
    tls = {
        "RUNCAST_TLS_CERTIFICATE_FILE": str(pair.certificate),
        "RUNCAST_TLS_KEY_FILE": str(pair.key),
        "RUNCAST_PREFIX": prefix,
        "RUNCAST_DRAIN_SECONDS": "0",
    }
    with running_fleet(redis_server, **tls) as fleet:
        port = str(free_port())
        options = ("--port", port, "--processes", str(processes))
        gateway = fleet.runcast("gateway", *options, name="gateway")
        url = f"wss://127.0.0.1:{port}/ws"
        wait_until(lambda: f"Serving at {url}" in gateway.printed(), what="the gateway serves")
        fleet.worker()
        chat = ("chat", "--url", url, "--user", "alice", "--agent", "five", "--json", "hello")
        refused = fleet.runcast(*chat, name="chat")
        assert refused.ended() == 1, refused.printed()
        assert "certificate verify failed" in refused.printed()
        assert "Traceback" not in refused.printed()
        fleet.settings["SSL_CERT_FILE"] = str(authority.certificate)
        trusted = fleet.runcast(*chat, name="chat")
        assert trusted.ended() == 0, trusted.printed()
        assert '"type":"agent_completed"' in trusted.printed()
        fleet.settings["RUNCAST_TLS_KEY_FILE"] = str(authority.issue("other").key)
        broken = fleet.runcast("gateway", "--port", "0", *options[2:], name="gateway")
        assert broken.ended() == 1, broken.printed()
        assert "is not the key of" in broken.printed()
        assert "Traceback" not in broken.printed()
        assert gateway.end() == 0
        assert "Traceback" not in gateway.printed()


async def test_check_tells_what_is_wrong_with_the_certificate(
    plain: Settings, authority: Authority
) -> None:
    day = timedelta(days=1)
    valid, other = authority.issue("valid"), authority.issue("other")
    for each, ok, told in (
        (valid, True, "valid until .* UTC$"),
        (authority.issue("soon", ends=day), True, "valid until .*: renew it"),
        (authority.issue("expired", begins=-2 * day, ends=-day), False, "expired since"),
        (authority.issue("future", begins=day), False, "not valid before"),
        (replace(valid, key=other.key), False, "is not the key of"),
    ):
        files = {"tls_certificate_file": each.certificate, "tls_key_file": each.key}
        found = {one.name: one for one in await findings(plain.model_copy(update=files))}
        assert found["certificate"].ok is ok
        assert re.search(told, found["certificate"].detail), found["certificate"].detail
    assert "certificate" not in {one.name for one in await findings(plain)}


async def test_check_tells_of_impossible_origins_and_proxies(plain: Settings) -> None:
    wrong = {"allowed_origins": ("https://a.example/",), "trusted_proxies": ("10.0.0.1/8",)}
    found = {one.name: one for one in await findings(plain.model_copy(update=wrong))}
    assert not found["origins"].ok
    assert "Write https://a.example." in found["origins"].detail
    assert not found["proxies"].ok
    assert "host bits" in found["proxies"].detail
