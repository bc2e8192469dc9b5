"""Key sets from a real HTTP server: rotation, outages, rubbish, and what unknown keys cost."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog
from aiohttp import web

from broker.config import Settings
from gateway import freshness, jwks
from gateway.app import Gateway
from gateway.auth import Verifier
from gateway.check import findings
from gateway.credentials import AuthError, KeyMissing
from gateway.freshness import (
    ABSENT_SECONDS,
    LOOK_SECONDS,
    MOST_RETRY_SECONDS,
    MOST_SECONDS,
    USUAL_SECONDS,
)
from gateway.jwk import MAX_SET_BYTES
from gateway.jwks import FetchedKeys, JwksFile, JwksUrl
from tests.support.certificates import Authority
from tests.support.clients import Client, eventually
from tests.support.keys import (
    EC_KEY,
    ED_KEY,
    OTHER_EC_KEY,
    RSA_KEY,
    SECRET_KEY,
    LoginService,
    jwk,
    key_set,
    signed,
)

STALE = 600
OLD, NEW = jwk(OTHER_EC_KEY, "old"), jwk(EC_KEY, "new")


@dataclass
class Clock:
    now: float

    def __call__(self) -> float:
        return self.now


@dataclass
class Rig:
    """A verifier whose keys come from a login service, on a clock of its own."""

    login: LoginService
    clock: Clock
    gate: Verifier
    source: FetchedKeys

    def token(self, kid: str | None = "old", **how: Any) -> str:
        claims = {"sub": "alice", "iat": self.clock.now, "exp": self.clock.now + 86400}
        return signed(claims, kid, **{"key": OTHER_EC_KEY if kid == "old" else EC_KEY, **how})

    async def code(self, token: str) -> str:
        """``ok``, or why not."""
        try:
            await self.gate.authenticate(token, self.clock.now)
        except AuthError as error:
            return error.code
        return "ok"


@asynccontextmanager
async def verifying(login: LoginService, **settings: Any) -> AsyncIterator[Rig]:
    clock = Clock(time.time())
    source = FetchedKeys(
        JwksUrl(login.url), ("RS256", "ES256", "EdDSA"), stale_seconds=STALE, clock=clock
    )
    rig = Rig(login, clock, Verifier(Settings(**settings), source=source), source)
    await rig.gate.start()
    try:
        yield rig
    finally:
        await rig.gate.stop()


@pytest.fixture
async def login() -> AsyncIterator[LoginService]:
    async with LoginService(key_set(OLD), max_age=300) as service:
        yield service


@pytest.fixture
async def rig(login: LoginService) -> AsyncIterator[Rig]:
    async with verifying(login) as rig:
        yield rig


# --- rotation


async def test_it_is_fetched_at_start_and_not_for_each_token(rig: Rig) -> None:
    for _ in range(3):
        assert await rig.code(rig.token()) == "ok"
    assert rig.login.fetches == 1
    assert rig.source.health() == {"ok": True, "detail": "fetched", "keys": 1}
    assert rig.gate.algorithms == ("ES256",)


async def test_each_kind_of_key(rig: Rig) -> None:
    rig.login.document = key_set(jwk(RSA_KEY, "r"), jwk(ED_KEY, "e"), jwk(EC_KEY))
    await rig.source.refresh()
    for kid, alg, key in (("r", "RS256", RSA_KEY), ("e", "EdDSA", ED_KEY), (None, "ES256", EC_KEY)):
        assert await rig.code(rig.token(kid, alg=alg, key=key)) == "ok"
        assert await rig.code(rig.token(kid, alg="HS256", key=SECRET_KEY)) == "unauthorized"
    assert await rig.code(rig.token("r", alg="PS256", key=RSA_KEY)) == "unauthorized", "not pinned"


async def test_a_key_that_was_added_is_found_by_one_fetch(rig: Rig) -> None:
    rig.clock.now += LOOK_SECONDS
    rig.login.document = key_set(NEW, OLD)
    assert await rig.code(rig.token("new")) == "ok"
    assert await rig.code(rig.token("old")) == "ok"
    assert rig.login.fetches == 2


async def test_a_key_that_was_taken_out_verifies_no_more(rig: Rig) -> None:
    """Not even a token that was verified before."""
    token = rig.token("old")
    assert await rig.code(token) == "ok"
    rig.login.document = key_set(NEW)
    await rig.source.refresh()
    rig.clock.now += LOOK_SECONDS
    assert await rig.code(token) == "unauthorized"
    assert rig.gate._verified == {}
    assert await rig.code(rig.token("new")) == "ok"


async def test_a_kid_that_gets_another_key_verifies_with_that_one(rig: Rig) -> None:
    token = rig.token("old")
    assert await rig.code(token) == "ok"
    rig.login.document = key_set(jwk(EC_KEY, "old"))
    await rig.source.refresh()
    assert await rig.code(token) == "unauthorized"
    assert await rig.code(rig.token("old", key=EC_KEY)) == "ok"


async def test_the_same_set_again_leaves_verified_tokens_verified(rig: Rig) -> None:
    token = rig.token()
    first = await rig.gate.authenticate(token, rig.clock.now)
    await rig.source.refresh()
    assert rig.login.fetches == 2
    assert await rig.gate.authenticate(token, rig.clock.now) is first


async def test_it_is_fetched_again_by_its_age(
    login: LoginService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a real clock, with a minute that is a twentieth of a second."""
    monkeypatch.setattr(JwksUrl, "bounds", freshness.Bounds(least_seconds=0.05))
    login.max_age = 0
    source = FetchedKeys(JwksUrl(login.url), ("ES256",), stale_seconds=STALE)
    gate = Verifier(Settings(), source=source)
    await gate.start()
    try:
        await eventually(lambda: login.fetches > 3)
        login.document = key_set(NEW)
        await eventually(lambda: source.keys.kids == {"new"})
        await login.down()
        await eventually(lambda: not source.health()["ok"])
        login.document = key_set(OLD)
        await login.up()
        await eventually(lambda: source.keys.kids == {"old"})
        assert source.health()["ok"]
    finally:
        await gate.stop()


@pytest.mark.parametrize(
    ("max_age", "kept"), [(None, USUAL_SECONDS), (0, 60.0), (900, 900.0), (10**9 - 1, MOST_SECONDS)]
)
async def test_cache_control_counts_within_bounds(
    login: LoginService, max_age: int | None, kept: float
) -> None:
    login.max_age = max_age
    async with verifying(login) as rig:
        assert rig.source.usable_until == rig.clock.now + kept + STALE


# --- unknown keys


async def test_a_thousand_made_up_keys_cause_one_fetch(rig: Rig) -> None:
    rig.clock.now += LOOK_SECONDS
    tokens = [rig.token(f"made-up-{number}", key=EC_KEY) for number in range(1000)]
    codes = await asyncio.gather(*(rig.code(token) for token in tokens))
    assert rig.login.fetches == 2
    assert set(codes) == {"unauthorized", "keys_unavailable"}
    assert await rig.code(rig.token("old")) == "ok", "the others are served"


async def test_made_up_keys_cause_a_fetch_at_most_every_ten_seconds(rig: Rig) -> None:
    for number in range(100):
        rig.clock.now += 1
        assert await rig.code(rig.token(f"made-up-{number}", key=EC_KEY)) != "ok"
    assert rig.login.fetches <= 1 + 100 / LOOK_SECONDS


async def test_a_name_that_is_not_there_is_refused_without_another_fetch(rig: Rig) -> None:
    rig.clock.now += LOOK_SECONDS
    token = rig.token("retired", key=EC_KEY)
    for _ in range(5):
        assert await rig.code(token) == "unauthorized"
    rig.clock.now += ABSENT_SECONDS - 1
    assert await rig.code(token) == "unauthorized"
    assert rig.login.fetches == 2
    rig.clock.now += 1
    rig.login.document = key_set(OLD, jwk(EC_KEY, "retired"))
    assert await rig.code(token) == "ok", "it is back"


async def test_a_new_key_right_after_a_fetch_is_not_called_wrong(rig: Rig) -> None:
    """It was published a moment after the set was fetched: nobody knows yet that it is good."""
    rig.login.document = key_set(NEW)
    token = rig.token("new")
    assert await rig.code(token) == "keys_unavailable"
    rig.clock.now += LOOK_SECONDS
    assert await rig.code(token) == "ok"


async def test_all_that_wait_for_a_new_key_wait_for_one_fetch(rig: Rig) -> None:
    rig.clock.now += LOOK_SECONDS
    rig.login.document, rig.login.hold = key_set(NEW), asyncio.Event()
    waiting = [asyncio.create_task(rig.code(rig.token("new"))) for _ in range(50)]
    await eventually(lambda: rig.login.fetches == 2)
    waiting[0].cancel()  # its client is gone; the others wait on
    rig.login.hold.set()
    codes = await asyncio.gather(*waiting[1:])
    assert set(codes) == {"ok"}
    assert rig.login.fetches == 2


async def test_a_token_without_a_kid_causes_no_fetch(rig: Rig) -> None:
    rig.clock.now += LOOK_SECONDS
    assert await rig.code(rig.token(None)) == "unauthorized"
    assert await rig.code("not a token") == "unauthorized"
    assert rig.login.fetches == 1


# --- outages


def status(number: int, **headers: str) -> Any:
    return lambda: web.Response(status=number, headers=headers, body=key_set(NEW))


def body(data: bytes, **headers: str) -> Any:
    return lambda: web.Response(body=data, headers=headers, content_type="application/json")


FAILURES = {
    "500": (status(500), "HTTP 500"),
    "404": (status(404), "HTTP 404"),
    "204": (status(204), "HTTP 204"),
    "redirect": (status(302, Location="/jwks.json"), "HTTP 302"),
    "garbage": (body(b"<html>"), "not JSON"),
    "half": (body(key_set(NEW)[:-3]), "not JSON"),
    "not a set": (body(b'{"kty": "EC"}'), 'no list "keys"'),
    "huge": (body(key_set(NEW) + b" " * MAX_SET_BYTES), "longer than"),
    "compressed": (body(b"\x1f\x8b\x08", **{"Content-Encoding": "gzip"}), "not JSON"),
    "too many": (body(key_set(*[NEW] * 65)), "65 keys"),
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_failed_fetch_leaves_the_keys_as_they_were(rig: Rig, failure: str) -> None:
    rig.login.answer, why = FAILURES[failure]
    rig.clock.now += LOOK_SECONDS
    with structlog.testing.capture_logs() as logs:
        assert await rig.code(rig.token("new")) == "keys_unavailable"
    (told,) = [line for line in logs if line["event"] == "key_set_not_fetched"]
    assert why in told["why"]
    assert await rig.code(rig.token("old")) == "ok"
    assert rig.source.health()["ok"] is False
    rig.login.answer = rig.login.published
    rig.clock.now += 2
    rig.login.document = key_set(NEW, OLD)
    assert await rig.code(rig.token("new")) == "ok"
    assert rig.source.health()["ok"] is True


async def test_a_slow_server_is_not_waited_for(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "FETCH_SECONDS", 0.2)
    rig.clock.now += LOOK_SECONDS
    rig.login.hold = asyncio.Event()
    assert await rig.code(rig.token("new")) == "keys_unavailable"
    assert rig.source.why == "no answer within 0.2 s"


async def test_fetches_that_fail_are_spaced(rig: Rig) -> None:
    rig.login.answer = status(500)
    for _ in range(600):
        rig.clock.now += 1
        assert await rig.code(rig.token("new")) == "keys_unavailable"
    assert 600 / (MOST_RETRY_SECONDS + 2) < rig.login.fetches < 60


async def test_keys_count_on_for_a_while_and_then_no_more(rig: Rig) -> None:
    token = rig.token()
    await rig.login.down()
    assert await rig.code(token) == "ok"
    rig.clock.now += 300 + STALE - 1
    assert await rig.code(token) == "ok"
    assert await rig.code(rig.token()) == "ok"
    rig.clock.now += 1
    assert await rig.code(token) == "keys_unavailable", "although it was verified before"
    health = rig.source.health()
    assert health["ok"] is False
    assert health["detail"] == "the key set cannot be fetched, so there are no keys"
    assert str(rig.login.port) in rig.source.why, "an address, which health does not tell"
    await rig.login.up()
    rig.clock.now += 2 + MOST_RETRY_SECONDS
    assert await rig.code(token) == "ok"


async def test_without_a_first_fetch_nobody_is_let_in_until_there_is_one(
    login: LoginService,
) -> None:
    await login.down()
    async with verifying(login) as rig:
        token = rig.token()
        assert await rig.code(token) == "keys_unavailable"
        await login.up()
        assert await rig.code(token) == "keys_unavailable", "not at once again"
        rig.clock.now += 2
        assert await rig.code(token) == "ok"


async def test_an_empty_set_is_believed(rig: Rig) -> None:
    token = rig.token()
    assert await rig.code(token) == "ok"
    rig.login.document = key_set(jwk(EC_KEY, "old", use="enc"))
    await rig.source.refresh()
    rig.clock.now += LOOK_SECONDS
    assert await rig.code(token) == "unauthorized"
    assert rig.source.health() == {
        "ok": False, "detail": "the key set has no key that can be used", "keys": 0,
    }  # fmt: skip


async def test_what_is_passed_over_is_logged_once(rig: Rig) -> None:
    rig.login.document = key_set(OLD, jwk(SECRET_KEY, "leaked"))
    with structlog.testing.capture_logs() as logs:
        await rig.source.refresh()
        await rig.source.refresh()
    told = [line for line in logs if line["event"] == "key_ignored"]
    assert [(line["kid"], line["why"]) for line in told] == [
        ("leaked", "it is a secret, and published")
    ]


async def test_a_server_whose_certificate_is_not_trusted_is_not_believed(tmp_path: Path) -> None:
    pair = Authority(tmp_path, "unknown").issue("login")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(pair.certificate, pair.key)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + key_set(NEW))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/keys"
    source = FetchedKeys(JwksUrl(url), ("ES256",), stale_seconds=STALE)
    await source.refresh()
    assert len(source.keys) == 0
    assert "certificate verify failed" in source.why.lower()
    server.close()
    await server.wait_closed()


# --- a key set in a file


async def test_a_file_is_read_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(JwksFile, "bounds", freshness.Bounds(most_seconds=0.05, least_seconds=0))
    file = tmp_path / "keys.json"
    file.write_bytes(key_set(jwk(SECRET_KEY, "s1")))
    settings = Settings(jwt_jwks_url=f"file://{file}")
    gate = Verifier(settings)
    source = gate._source
    await gate.start()
    try:
        now = time.time()
        claims = {"sub": "alice", "exp": now + 600}
        first = signed(claims, "s1", alg="HS256")
        assert (await gate.authenticate(first, now)).subject == "alice"
        file.write_bytes(key_set(jwk(b"2" * 64, "s2"), jwk(SECRET_KEY, "s1")))
        await eventually(lambda: source.keys.kids == {"s1", "s2"})
        file.write_bytes(b"{")
        await eventually(lambda: source.health() != {"ok": True, "detail": "fetched", "keys": 2})
        assert (await gate.authenticate(first, now)).subject == "alice", (
            "half a file changes nothing"
        )
        file.write_bytes(key_set(jwk(b"2" * 64, "s2")))
        await eventually(lambda: source.keys.kids == {"s2"})
        with pytest.raises(KeyMissing):
            gate.verify(first, now)
        second = signed(claims, "s2", alg="HS256", key=b"2" * 64)
        assert (await gate.authenticate(second, now)).subject == "alice"
    finally:
        await gate.stop()


# --- a whole gateway


@pytest.fixture
def fetching(settings: Settings, login: LoginService) -> Settings:
    return settings.model_copy(update={"jwt_secret": None, "jwt_jwks_url": login.url})


def good_token(kid: str = "old") -> str:
    key = OTHER_EC_KEY if kid == "old" else EC_KEY
    return signed({"sub": "alice", "exp": time.time() + 600}, kid, key=key)


async def test_a_gateway_with_a_key_set(fetching: Settings, login: LoginService) -> None:
    async with Gateway(fetching) as gateway, aiohttp.ClientSession() as http:
        base = f"http://127.0.0.1:{gateway.port}"
        async with Client(base, token=good_token()) as client:
            await client.first("live")
            await client.send("auth_refresh", {"token": good_token()}, ref="r")
            assert (await client.reply("r"))["type"] == "ok"
        async with http.get(f"{base}/ws/health") as response:
            checks = (await response.json())["checks"]
            assert checks["keys"] == {"ok": True, "detail": "fetched", "keys": 1}
        async with http.get(f"{base}/ws/config") as response:
            assert (await response.json())["authentication"]["algorithms"] == ["ES256"]
    assert login.fetches == 1


async def test_a_gateway_whose_login_service_is_down(
    fetching: Settings, login: LoginService
) -> None:
    """It starts, says so, and lets nobody in: not as refused, but as not verifiable now."""
    await login.down()
    async with Gateway(fetching) as gateway, aiohttp.ClientSession() as http:
        base = f"http://127.0.0.1:{gateway.port}"
        bearer = {"Authorization": f"Bearer {good_token()}"}
        await eventually(
            lambda: gateway.node.ready and gateway.node.probe.round_trip_ms is not None
        )
        async with http.get(f"{base}/ws/health") as response:
            health = await response.json()
            assert (response.status, health["status"]) == (200, "degraded")
            failing = [name for name, each in health["checks"].items() if not each["ok"]]
            assert failing == ["keys"]
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await http.ws_connect(f"{base}/ws", headers=bearer)
        assert refused.value.status == 503
        assert refused.value.headers is not None
        assert refused.value.headers["Retry-After"] == "1"
        async with http.get(f"{base}/ws/stats", headers=bearer) as response:
            told = await response.json()
            assert (response.status, told["code"]) == (503, "keys_unavailable")
            assert told["detail"] == "Tokens cannot be verified now; try again."
        async with http.ws_connect(f"{base}/ws", headers={**bearer, "Origin": base}) as ws:
            assert (await ws.receive()).type is aiohttp.WSMsgType.CLOSE
            assert ws.close_code == 4503
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await http.ws_connect(f"{base}/ws")
        assert refused.value.status == 401, "no token at all is no question of keys"


async def test_a_refresh_that_cannot_be_verified_now_may_be_tried_again(
    fetching: Settings, login: LoginService
) -> None:
    async with (
        Gateway(fetching) as gateway,
        Client(f"http://127.0.0.1:{gateway.port}", token=good_token()) as client,
    ):
        await client.first("live")
        await client.send("auth_refresh", {"token": good_token("new")}, ref="r")
        error = await client.reply("r")
        assert error["payload"]["code"] == "broker_unavailable"
        assert error["payload"]["retryable"] is True
        await client.send("ping", ref="p")
        assert (await client.reply("p"))["type"] == "pong"


# --- runcast check


async def check(settings: Settings) -> tuple[bool, str]:
    (found,) = [each for each in await findings(settings) if each.name == "token keys"]
    return found.ok, found.detail


async def test_check_tells_the_keys(login: LoginService, tmp_path: Path) -> None:
    login.document = key_set(NEW, OLD, jwk(RSA_KEY))
    ok, told = await check(Settings(jwt_jwks_url=login.url))
    assert ok
    assert told.startswith("3 from RUNCAST_JWT_JWKS_URL (new, old); accepts ES256, RS256")
    assert "RUNCAST_JWT_AUDIENCE is not set" in told
    _, told = await check(Settings(jwt_jwks_url=login.url, jwt_audience="gw"))
    assert "RUNCAST_JWT_AUDIENCE" not in told
    ok, told = await check(Settings(jwt_secret="x" * 32))
    assert (ok, told) == (True, "1 from RUNCAST_JWT_SECRET (no kid); accepts HS256")
    file = tmp_path / "keys.json"
    file.write_bytes(key_set(jwk(SECRET_KEY, "s")))
    ok, told = await check(Settings(jwt_jwks_url=f"file://{file}", jwt_audience="gw"))
    assert (ok, told) == (True, "1 from RUNCAST_JWT_JWKS_URL (s); accepts HS256")


async def test_check_says_what_is_wrong_with_a_key_set(login: LoginService) -> None:
    settings = Settings(jwt_jwks_url=login.url)
    login.answer = status(404)
    ok, told = await check(settings)
    assert not ok
    assert "HTTP 404" in told
    assert "Check the address" in told
    login.answer = login.published
    login.document = key_set()
    ok, told = await check(settings)
    assert not ok
    assert "no key that can be used" in told
    await login.down()
    ok, told = await check(settings)
    assert not ok
    assert "Cannot connect" in told
