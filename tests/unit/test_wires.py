"""One event on every wire: written once for each, and read back as it was."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.codec import Entry
from broker.events import encode
from gateway.frames import sse_chunk, sse_comment, sse_message, sse_retry, ws_event
from gateway.wires import (
    STREAM,
    STREAM_LEGACY,
    WEBSOCKET,
    WEBSOCKET_LEGACY,
    Frames,
    Wire,
)

BODY = encode(
    event_type="agent_thinking", user_id="alice", thread_id="t", run_id="r", agent_name="a",
    epoch_ms=0, payload={"thoughts": "x\n\r\u2028y"}, seq=1,
)  # fmt: skip
EVENT = Entry(b"5-1 0-0 :alice t r 1 agent_thinking", BODY)


def unchunked(data: bytes) -> list[bytes]:
    """The chunks of an HTTP/1.1 body (RFC 9112 section 7.1)."""
    chunks = []
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        chunks.append(data[:length])
        assert data[length : length + 2] == b"\r\n"
        data = data[length + 2 :]
    return chunks


def fields(chunk: bytes) -> dict[str, str]:
    """One event's fields as the HTML standard has them parsed."""
    assert chunk.endswith(b"\n\n")
    assert b"\r" not in chunk
    lines = chunk[:-2].split(b"\n")
    return {name.decode(): value.decode() for name, _, value in (e.partition(b": ") for e in lines)}


def test_an_event_of_a_stream_has_its_cursor_and_is_what_a_websocket_gets() -> None:
    (chunk,) = unchunked(STREAM.event(EVENT))
    read = fields(chunk)
    assert read["id"] == "5-1"
    event = orjson.loads(read["data"])
    assert event == {"id": "5-1", **orjson.loads(BODY)}
    assert event["payload"]["thoughts"] == "x\n\r\u2028y"
    assert WEBSOCKET.event(EVENT) == ws_event(b"5-1", BODY)


def test_the_v2_shape_has_no_cursor_on_either_wire() -> None:
    (chunk,) = unchunked(STREAM_LEGACY.event(EVENT))
    assert fields(chunk).keys() == {"data"}
    assert orjson.loads(fields(chunk)["data"])["data"]["thoughts"] == "x\n\r\u2028y"
    assert b'"data":' in WEBSOCKET_LEGACY.event(EVENT)


@pytest.mark.parametrize("wire", [WEBSOCKET_LEGACY, STREAM_LEGACY])
def test_what_is_no_event_has_no_v2_shape(wire: Wire) -> None:
    with pytest.raises(ValueError, match="not an event"):
        wire.event(Entry(EVENT.header, b"{}"))


@given(text=st.text(), cursor=st.sampled_from([b"", b"7-0"]))
def test_any_json_is_one_event_whatever_stands_in_it(text: str, cursor: bytes) -> None:
    said = orjson.dumps({"text": text.encode("utf-8", "replace").decode()}, None)
    spread = b'{\r\n "text" :\n' + said.partition(b":")[2]
    for form in (said, spread):
        (chunk,) = unchunked(sse_message(form, cursor))
        read = fields(chunk)
        assert orjson.loads(read["data"]) == orjson.loads(said)
        assert read.get("id", "") == cursor.decode()


def test_what_is_written_once_is_written_once() -> None:
    frames = Frames(EVENT, b"plain")
    assert frames.on(WEBSOCKET) == b"plain"
    assert frames.on(STREAM) is frames.on(STREAM)
    assert frames.on(STREAM) == STREAM.event(EVENT)
    assert frames.on(WEBSOCKET_LEGACY) == WEBSOCKET_LEGACY.event(EVENT)


def test_comments_and_the_end() -> None:
    assert unchunked(sse_comment() + sse_retry(1500)) == [b":\n\n", b"retry: 1500\n\n"]
    assert sse_chunk(b"") == b"0\r\n\r\n"
