"""Client frames of any shape: each is answered as protocol section 6 says, and hurts nobody."""

import asyncio
import uuid
from collections import Counter

import pytest

from tests.support.chaos_report import Report
from tests.support.clients import Client, payload_of
from tests.support.fuzz_frames import Frame, expected, frames
from tests.support.fuzzing import Bench, fuzz, judged, row

pytestmark = [pytest.mark.chaos]

MODES = (
    {"mode": "main"},
    {"mode": "legacy"},
    {"mode": "factory", "isolation_level": "strict"},
    {"mode": "isolated"},
    {"mode": "main", "thread_id": "t1"},
    {"mode": "factory"},
)
PER_CONNECTION = 16
"""Fewer than the 20 bad frames within a minute that close a connection."""


async def converse(base: str, mode: dict[str, str], sent: list[Frame]) -> None:
    """Send frames on one connection, then a command that is answered after all of them."""
    async with Client(base, f"fuzz-{uuid.uuid4().hex[:8]}", query=mode) as client:
        await client.first("connection_established")
        for each in sent:
            if isinstance(each.data, bytes):
                await client.ws.send_bytes(each.data)
            else:
                await client.ws.send_str(each.data)
        await client.send("stop_agent", {"run_id": "none"}, ref="barrier")
        await client.reply("barrier")
        assert client.close_code is None
        _check_answers(client, sent, mode["mode"])


def _check_answers(client: Client, sent: list[Frame], mode: str) -> None:
    wanted = [expected(each, mode) for each in sent]
    replies: dict[str | None, list[str]] = {}
    for frame in client.frames:
        if "ref" in frame:
            kind, fields = frame["type"], payload_of(frame)
            told = fields["code"] if kind == "error" else kind
            replies.setdefault(frame["ref"], []).append(told)
    errors = Counter(replies.pop(None, []))
    replies.pop("barrier")
    owed = Counter(want.ref for want in wanted if want.ref is not None)
    assert {ref: len(told) for ref, told in replies.items()} == dict(owed), (
        f"not one reply each: got {replies}, sent {sent!r}"
    )
    for want, asked in zip(wanted, sent, strict=True):
        if want.ref is not None:
            told = replies[want.ref]
            assert want.types.issuperset(told) or owed[want.ref] > 1, (
                f"{told} instead of one of {sorted(want.types)} to {asked!r:.600} in mode {mode}"
            )
    nameless = [want for want in wanted if want.ref is None]
    must = [want for want in nameless if not want.silent]
    assert len(must) <= errors.total() <= len(nameless), (
        f"{errors} for {len(must)} to {len(nameless)} frames of {sent!r} in mode {mode}"
    )
    possible: set[str] = set().union(*(want.types for want in nameless))
    assert set(errors) <= possible, f"{errors} of {possible} for {sent!r:.2000} in mode {mode}"


def _run(bench: Bench, report: Report, cases: int) -> None:
    turn = 0
    with judged(bench, "client frames") as judge:

        async def check(sent: list[Frame]) -> None:
            nonlocal turn
            parts = [sent[at : at + PER_CONNECTION] for at in range(0, len(sent), PER_CONNECTION)]
            turn += len(parts)
            await asyncio.gather(
                *(
                    converse(bench.base, MODES[(turn + number) % len(MODES)], part)
                    for number, part in enumerate(parts)
                )
            )

        fuzz(judge, frames, check, cases=cases, batch=PER_CONNECTION * 3)
    report(row(judge))


@pytest.mark.timeout(300)
def test_client_frames(bench: Bench, report: Report) -> None:
    _run(bench, report, 3_000)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_many_client_frames(bench: Bench, report: Report) -> None:
    """Longer than a minute allows: it is their number that finds something."""
    _run(bench, report, 20_000)
