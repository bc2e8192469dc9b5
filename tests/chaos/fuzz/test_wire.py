"""Bytes of any kind on an open WebSocket: RFC 6455 decides the close code, and nothing hangs."""

import asyncio
import uuid

import pytest

from tests.support.chaos_report import Report
from tests.support.fuzz_wire import LEGAL_TO_RECEIVE, Stream, streams
from tests.support.fuzzing import Bench, fuzz, judged, row
from tests.support.servers import token
from tests.support.wire import CLOSE, PONG, End, exchange, handshake, server_frames

pytestmark = [pytest.mark.chaos]


async def write(bench: Bench, stream: Stream, user: str, bearer: str) -> None:
    """One connection: handshake, the stream, no more; what the server answers is lawful."""
    request = handshake(bench.port, f"/ws?user_id={user}", (f"Authorization: Bearer {bearer}",))
    # A close or a violation ends the connection by itself; anything else ends with ours.
    end = End.CLOSED if stream.closes else End.UPGRADED
    got = await exchange(bench.port, request, *stream.pieces, end=end)
    told = f"{stream!r:.800}: "
    assert got.status == 101, f"{told}{got}"
    try:
        frames = server_frames(got.body)
    except (ValueError, IndexError) as error:
        if stream.closes:
            raise AssertionError(f"{told}{error} in {got.body[-300:]!r}") from None
        return  # cut off by our own end
    codes = [each.code for each in frames if each.opcode == CLOSE]
    assert len(codes) < 2, f"{told}closed twice: {codes}"
    for code in codes:
        assert code in LEGAL_TO_RECEIVE or 3000 <= code < 5000, f"{told}close code {code}"
    if stream.closes:
        assert codes, f"{told}no close frame"
        assert set(codes) <= stream.closes, f"{told}closed with {codes}"
        assert frames[-1].opcode == CLOSE, f"{told}frames after the close frame"
    pongs = tuple(each.payload for each in frames if each.opcode == PONG)
    if stream.closes:
        assert pongs == stream.pongs, f"{told}pongs {pongs!r:.300}"


def _run(bench: Bench, report: Report, cases: int) -> None:
    user = f"fuzz-{uuid.uuid4().hex[:8]}"
    bearer = token(user)
    with judged(bench, "bytes on a WebSocket") as judge:

        async def check(some: list[Stream]) -> None:
            await asyncio.gather(*(write(bench, each, user, bearer) for each in some))

        fuzz(judge, streams, check, cases=cases, batch=12)
    report(row(judge))


@pytest.mark.timeout(300)
def test_bytes(bench: Bench, report: Report) -> None:
    _run(bench, report, 600)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_many_bytes(bench: Bench, report: Report) -> None:
    """Longer than a minute allows: it is their number that finds something."""
    _run(bench, report, 8_000)
