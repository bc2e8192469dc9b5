"""Events as CloudEvents 1.0, judged by the official package."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_structured_event
from cloudevents.core.v1.event import CloudEvent as Official
from hypothesis import given
from hypothesis import strategies as st

from broker.channels import Owner
from broker.codec import Entry, from_live, head
from broker.events import encode
from gateway.dialects.cloudevents import CONTENT_TYPE, CloudEvent, cloud_event

ALICE = Owner("", "alice")
POSITION = b"1763861234999-7"
PAYLOAD = {
    "response": "Grüße",
    "complete": True,
    "status": "succeeded",
    "duration_ms": 12,
    "missing": [],
}


def entry(
    owner: Owner = ALICE,
    thread: str = "t1",
    run: str = "r1",
    seq: int = 5,
    *,
    event_id: bytes = b"1763861234567-3",
    body: bytes | None = None,
) -> Entry:
    body = body or encode(
        event_type="agent_completed",
        user_id=owner.user,
        thread_id=thread,
        run_id=run,
        agent_name="analyst",
        epoch_ms=1763861234123,
        payload=PAYLOAD,
        seq=seq,
    )
    words = b"%b 0-0 %b %d agent_completed" % (event_id, head(owner, thread, run), seq)
    return from_live(words + b"\n" + body)


def made(found: Entry, *, prefix: str = "rc", position: bytes = POSITION) -> CloudEvent:
    return cloud_event(found, prefix=prefix, position=position)


def read(event: CloudEvent) -> Any:
    """As the official package reads it; it refuses what is no CloudEvent."""
    return from_structured_event(HTTPMessage({"content-type": CONTENT_TYPE}, event.body))


def test_the_official_package_reads_it() -> None:
    event = made(entry())
    official = read(event)
    assert isinstance(official, Official)
    assert official.get_specversion() == "1.0"
    assert official.get_id() == event.id
    assert official.get_source() == "/runcast/rc"
    assert official.get_type() == "runcast.agent_completed.v3"
    assert official.get_subject() == "t1/r1"
    assert official.get_time() == datetime(2025, 11, 23, 1, 27, 14, 123000, UTC)
    assert official.get_datacontenttype() == "application/json"
    assert official.get_extension("sequence") == "00000001763861234999-00000000000000000007"
    assert official.get_extension("partitionkey") == ":alice:t1"
    assert official.get_extension("traceparent") is None


def test_data_is_the_event_as_every_client_gets_it() -> None:
    assert read(made(entry())).get_data() == {
        "id": "1763861234567-3",
        "type": "agent_completed",
        "user_id": "alice",
        "thread_id": "t1",
        "run_id": "r1",
        "agent_name": "analyst",
        "seq": 5,
        "timestamp": "2025-11-23T01:27:14.123Z",
        "payload": PAYLOAD,
    }


def test_an_event_keeps_its_id_wherever_it_stands() -> None:
    """In another place of outbox and log, as after a failover, it is the same event."""
    again = made(entry(event_id=b"1763861999999-1"), position=b"1763861999999-0")
    assert again.id == made(entry()).id


@pytest.mark.parametrize(
    "other",
    [
        entry(seq=6),
        entry(run="r2"),
        entry(Owner("", "bob")),
        entry(Owner("acme", "alice")),
        entry(Owner("", "alice"), run="r1 5", seq=5),
    ],
)
def test_another_event_has_another_id(other: Entry) -> None:
    assert made(other).id != made(entry()).id


def test_a_tenant_is_a_source_of_its_own() -> None:
    assert read(made(entry(Owner("a/b", "u")), prefix="x")).get_source() == "/runcast/x/a%2Fb"


def test_a_trace_goes_with_it() -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    body = entry().body[:-1] + b',"traceparent":"%b"}' % trace.encode()
    assert read(made(entry(body=body))).get_extension("traceparent") == trace


@given(st.tuples(*[st.integers(0, 2**64 - 1)] * 2), st.tuples(*[st.integers(0, 2**64 - 1)] * 2))
def test_sequence_sorts_as_the_outbox_does(one: tuple[int, int], other: tuple[int, int]) -> None:
    first, second = (
        orjson.loads(made(entry(), position=b"%d-%d" % at).body)["sequence"] for at in (one, other)
    )
    assert (first < second) == (one < other)


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=40)


@given(NAMES, NAMES, NAMES, NAMES)
def test_any_ids_can_be_told(tenant: str, user: str, thread: str, run: str) -> None:
    official = read(made(entry(Owner(tenant, user), thread, run)))
    data = official.get_data()
    assert (data["user_id"], data["thread_id"], data["run_id"]) == (user, thread, run)
    assert official.get_subject().isascii()


@pytest.mark.parametrize(
    "body", [b"[]", b"{", b'{"type":"agent_completed"}', b'{"timestamp":1}', b' {"timestamp":"x"}']
)
def test_what_is_no_event_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"event|JSON|unexpected|character"):
        made(entry(body=body))
