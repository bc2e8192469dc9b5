"""Frames on the wire: read back by another WebSocket parser, and within RFC 6455's limits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import orjson
import pytest
from aiohttp import WSMsgType
from aiohttp._websocket.reader import WebSocketDataQueue, WebSocketReader
from aiohttp.base_protocol import BaseProtocol
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.codec import from_log
from broker.events import LIFECYCLE, encode
from gateway import close_codes
from gateway.frames import (
    FIVE,
    MAX_REASON_BYTES,
    control,
    legacy_control,
    legacy_event,
    reply,
    ws_close,
    ws_ping,
    ws_pong,
    ws_text,
)

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

BORDERS = [0, 1, 124, 125, 126, 127, 128, 65534, 65535, 65536, 65537, 200_000]
PAYLOADS = st.dictionaries(st.text(max_size=5), st.text(max_size=5) | st.integers(0, 9), max_size=3)


def read_back(data: bytes, pieces: int = 1) -> list[tuple[WSMsgType, object, object]]:
    """What aiohttp's own reader makes of the bytes, arriving in so many pieces."""
    loop = asyncio.new_event_loop()
    try:
        queue = WebSocketDataQueue(BaseProtocol(loop), 2**20, loop=loop)
        reader = WebSocketReader(queue, 2**20, compress=False, decode_text=True)
        step = max(1, -(-len(data) // pieces))
        for at in range(0, len(data), step):
            failed, _ = reader.feed_data(data[at : at + step])
            assert not failed, queue.exception()
        return [(message.type, message.data, message.extra) for message, *_ in queue._buffer]
    finally:
        loop.close()


@pytest.mark.parametrize("size", BORDERS)
@pytest.mark.parametrize("pieces", [1, 3])
def test_a_text_frame_of_any_size_is_read_back(size: int, pieces: int) -> None:
    """The three forms of the length, and both sides of each border."""
    text = b"\xc3\xa9" * (size // 2) + b"x" * (size % 2)
    framed = ws_text(text)
    header = 2 if size < 126 else 4 if size < 65536 else 10
    assert len(framed) == size + header, "the shortest form of the length is required"
    assert framed[1] & 0x80 == 0, "a server does not mask"
    assert read_back(framed, pieces) == [(WSMsgType.TEXT, text.decode(), "")]


@relaxed
@given(st.lists(st.sampled_from(["text", "ping", "pong"]), max_size=6), st.integers(1, 9))
def test_frames_written_in_one_piece_are_told_apart(kinds: list[str], pieces: int) -> None:
    """What leaves in one write arrives as the messages that it was made of."""
    make: dict[str, Callable[[bytes], bytes]]
    make = {"text": ws_text, "ping": ws_ping, "pong": ws_pong}
    types = {"text": WSMsgType.TEXT, "ping": WSMsgType.PING, "pong": WSMsgType.PONG}
    data = b"".join(make[kind](f"{n}".encode()) for n, kind in enumerate(kinds))
    assert [kind for kind, _, _ in read_back(data, pieces)] == [types[kind] for kind in kinds]


@pytest.mark.parametrize("size", [0, 125])
def test_heartbeats_carry_their_payload(size: int) -> None:
    """A pong answers with the bytes of its ping."""
    assert read_back(ws_ping(bytes(size))) == [(WSMsgType.PING, bytes(size), "")]
    assert read_back(ws_pong(bytes(size))) == [(WSMsgType.PONG, bytes(size), "")]
    assert ws_ping() == b"\x89\x00"


@relaxed
@given(
    st.sampled_from(sorted(close_codes.CLOSE_CODES)),
    st.text(max_size=70) | st.text(st.sampled_from("aé€\U0001f642"), min_size=25, max_size=130),
)
def test_a_close_reason_fits_a_control_frame_and_stays_utf8(code: int, reason: str) -> None:
    """At most 123 bytes, cut at a character, never in the middle of one."""
    framed = ws_close(code, reason)
    ((kind, data, told),) = read_back(framed)
    assert (kind, data) == (WSMsgType.CLOSE, code)
    assert isinstance(told, str)
    assert reason.startswith(told)
    assert len(told.encode()) <= MAX_REASON_BYTES
    if told != reason:
        assert len((told + reason[len(told)]).encode()) > MAX_REASON_BYTES, "cut too early"


@relaxed
@given(PAYLOADS, st.none() | st.text(max_size=8))
def test_control_frames_have_type_payload_and_a_ref_only_in_replies(
    payload: dict[str, object], ref: str | None
) -> None:
    """Protocol section 6: every field is under ``payload``, but for ``type`` and ``ref``."""
    assert orjson.loads(control("live", payload)) == {"type": "live", "payload": payload}
    answer = {"type": "ok", "ref": ref, "payload": payload}
    assert orjson.loads(reply("ok", ref, payload)) == answer


def test_a_control_frame_in_the_old_shape_keeps_everything_under_data() -> None:
    """Also the ``ref`` of a reply."""
    frame = orjson.loads(legacy_control(reply("pong", "m1", {"a": 1}), 0))
    assert frame == {
        "type": "pong", "ref": "m1", "data": {"a": 1}, "timestamp": "1970-01-01T00:00:00.000Z",
    }  # fmt: skip


@pytest.mark.parametrize("kind", LIFECYCLE)
def test_an_event_in_the_old_shape_has_no_id(kind: str) -> None:
    """Protocol section 4: type, data, timestamp, thread_id, run_id, and nothing else."""
    body = encode(
        event_type=kind, user_id="u", thread_id="t", run_id="r", agent_name="a", epoch_ms=1,
        payload={"x": 1}, seq=3, attempt=2, parent_run_id="p",
    )  # fmt: skip
    entry = from_log(b"5-0", b"4-0 :u t r 3 " + kind.encode() + b"\n" + body)
    assert orjson.loads(legacy_event(entry)) == {
        "type": kind, "data": {"x": 1}, "timestamp": "1970-01-01T00:00:00.001Z", "thread_id": "t",
        "run_id": "r",
    }  # fmt: skip


def test_the_five_are_known_as_bytes() -> None:
    """The filter of ``events=lifecycle`` reads the header only."""
    assert {name.decode() for name in FIVE} == set(LIFECYCLE)
