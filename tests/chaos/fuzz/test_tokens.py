"""No token opens anything unless it really is valid, wherever it stands; none gets into a log."""

import asyncio
import re
import uuid
from urllib.parse import quote

import pytest

from tests.support.chaos_report import Report
from tests.support.clients import Client
from tests.support.fuzz_requests import check_refusal
from tests.support.fuzz_tokens import HEADER as PLAIN_HEADER
from tests.support.fuzz_tokens import USER, Token, b64, claims, dumped, signed, tokens
from tests.support.fuzzing import Bench, fuzz, judged, row
from tests.support.wire import End, exchange, handshake

pytestmark = [pytest.mark.chaos]

WORD = re.compile(r"[A-Za-z0-9_.=+/-]+", re.ASCII)
"""What can stand in a header as it is."""

PLACES = ("authorization", "subprotocol", "jwt-auth", "query", "stats")


async def offer(bench: Bench, token: Token, place: str) -> None:
    """Bring the token at one place."""
    text = token.text
    told = f"{token!r:.1500} at {place}: "
    if place == "stats":
        lines = ("GET /ws/stats HTTP/1.1", "Host: x", f"Authorization: Bearer {text}", "", "")
        got = await exchange(bench.port, "\r\n".join(lines).encode(), end=End.UPGRADED)
        wanted = {200} if token.operator and token.valid else {403}
        if token.operator and len(token.statuses) > 1:
            wanted = {200, 403}
        assert got.status in wanted, f"{told}{got!r:.500}"
        return
    target = "/ws"
    headers: tuple[str, ...] = ()
    match place:
        case "authorization":
            headers = (f"Authorization: Bearer {text}",)
        case "subprotocol":
            headers = (f"Sec-WebSocket-Protocol: runcast.v3, jwt.{text}",)
        case "jwt-auth":
            headers = (f"Sec-WebSocket-Protocol: jwt-auth, jwt.{b64(text.encode())}",)
        case "query":
            target = f"/ws?token={quote(text, safe='', errors='surrogateescape')}"
    got = await exchange(bench.port, handshake(bench.port, target, headers), end=End.UPGRADED)
    if got.status == 400 and len(text) > 6000:
        return  # more than a head may have
    assert got.status in token.statuses, f"{told}{got!r:.500}"
    if got.status == 101:
        assert text not in got.headers.get("sec-websocket-protocol", ""), told
    else:
        check_refusal(got, told)
        assert len(text) < 20 or text.encode(errors="replace") not in got.body, told


async def refresh(bench: Bench, refused: list[Token]) -> None:
    """Offer bad tokens on a connection that is open: each is refused, and it stays open."""
    good = signed(PLAIN_HEADER, dumped(claims()))
    async with Client(bench.base, USER, token=good) as client:
        for at, token in enumerate(refused):
            await client.send("auth_refresh", {"token": token.text}, ref=f"a{at}")
        for at, token in enumerate(refused):
            answer = await client.reply(f"a{at}")
            assert answer["type"] == "error", f"{token!r:.1500} was taken: {answer}"
            assert answer["payload"]["code"] == "not_allowed", f"{token!r:.1500}: {answer}"
        assert client.close_code is None


def _place(token: Token, turn: int) -> str:
    place = PLACES[turn % len(PLACES)]
    if place == "jwt-auth" and token.text.isascii() and token.text:
        return place
    return place if WORD.fullmatch(token.text) and len(token.text) < 7000 else "query"


def _run(bench: Bench, report: Report, cases: int) -> None:
    turn = 0
    with judged(bench, "tokens", user=f"watcher-{uuid.uuid4().hex[:8]}") as judge:

        async def check(some: list[Token]) -> None:
            nonlocal turn
            offers = []
            for token in some:
                turn += 1
                offers.append(offer(bench, token, _place(token, turn)))
                if turn % 10 == 0 and len(token.text) > 40:
                    judge.tokens.add(token.text)
            bad = [
                each
                for each in some
                if each.statuses == {401} and not re.search("[\ud800-\udfff]", each.text)
            ]
            await asyncio.gather(refresh(bench, [*bad, *bad][:8]), *offers)

        fuzz(judge, tokens, check, cases=cases, batch=20)
    report(row(judge))


@pytest.mark.timeout(300)
def test_tokens(bench: Bench, report: Report) -> None:
    _run(bench, report, 1_800)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_many_tokens(bench: Bench, report: Report) -> None:
    """Longer than a minute allows: it is their number that finds something."""
    _run(bench, report, 10_000)
