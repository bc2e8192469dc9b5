"""HTTP of any kind: refused with the right status and a problem report, and never with a 500."""

import asyncio
import uuid

import pytest

from tests.support.chaos_report import Report
from tests.support.fuzz_requests import USER, Request, check_refusal, requests
from tests.support.fuzzing import Bench, fuzz, judged, row
from tests.support.servers import token
from tests.support.wire import Answer, End, exchange, handshake, server_frames

pytestmark = [pytest.mark.chaos]

LAWFUL = frozenset({101, 200, 304, 400, 401, 403, 404, 405, 413, 417, 426, 431})
INSIDE = (b"root:x:", b"import ", b"from __future__")
"""In files that nobody may read here."""


async def request(bench: Bench, asked: Request, user: str, bearer: str) -> None:
    told = f"{asked!r:.1500}: "
    if asked.raw:
        # Patience is for what may stay without an answer: what has one may be late.
        end = End.UPGRADED if asked.statuses else End.PATIENT
        got = await exchange(bench.port, asked.raw, end=end)
    else:
        headers = (*asked.headers, f"Authorization: Bearer {bearer}")
        data = handshake(bench.port, asked.target.replace(USER, user), headers)
        got = await exchange(bench.port, data, end=End.UPGRADED)
    if got.status == 0:
        assert not asked.statuses, f"{told}no answer"
        return  # half a request has no answer
    assert got.status in LAWFUL, f"{told}{got}"
    status = _status(got)
    assert not asked.statuses or status in asked.statuses, f"{told}{got}"
    if got.status >= 400:
        check_refusal(got, told, head=asked.raw.startswith(b"HEAD"))
    if got.status == 200 and "/static/" in asked.target:
        assert not any(each in got.body for each in INSIDE), f"{told}{got.body[:200]!r}"
    if got.status == 101:
        assert asked.authorized, f"{told}a WebSocket without a token"
        name = got.headers.get("sec-websocket-protocol")
        assert name in (None, "runcast.v3", "jwt-auth"), f"{told}subprotocol {name!r}"


def _status(got: Answer) -> int:
    """A browser is told a refusal by close code: 4401 and 4403 instead of 401 and 403."""
    if got.status == 101 and got.body[:1] == b"\x88":
        return server_frames(got.body)[0].code - 4000
    return got.status


def _run(bench: Bench, report: Report, cases: int) -> None:
    user = f"fuzz-{uuid.uuid4().hex[:8]}"
    bearer = token(user)
    with judged(bench, "HTTP requests") as judge:
        judge.tokens.add(bearer)

        async def check(some: list[Request]) -> None:
            await asyncio.gather(*(request(bench, each, user, bearer) for each in some))

        fuzz(judge, requests, check, cases=cases, batch=20)
    report(row(judge))


@pytest.mark.timeout(300)
def test_requests(bench: Bench, report: Report) -> None:
    _run(bench, report, 1_500)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_many_requests(bench: Bench, report: Report) -> None:
    """Longer than a minute allows: it is their number that finds something."""
    _run(bench, report, 10_000)
