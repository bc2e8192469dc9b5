"""The bench's WebSocket bytes, against the gateway's own framing."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.bench import wire
from gateway.frames import ws_close, ws_ping, ws_text

KEY = "dGhlIHNhbXBsZSBub25jZQ=="


@given(st.lists(st.binary(max_size=300)), st.lists(st.integers(0, 2000)))
def test_frames_come_out_whole_however_they_are_cut(texts: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(map(ws_text, texts))
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    got: list[wire.Frame] = []
    rest = b""
    for begin, end in pairwise(edges):
        frames, rest = wire.split(rest + stream[begin:end])
        got += frames
    assert got == [(wire.TEXT, text) for text in texts]
    assert rest == b""


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_every_length_form(size: int) -> None:
    assert wire.split(ws_text(b"x" * size)) == ([(wire.TEXT, b"x" * size)], b"")


def test_control_frames() -> None:
    frames, rest = wire.split(ws_ping(b"hi") + ws_close(4408, "too slow") + b"\x81")
    assert frames == [(wire.PING, b"hi"), (wire.CLOSE, b"\x11\x38too slow")]
    assert rest == b"\x81"


@pytest.mark.parametrize("data", [b"\x81\x80\0\0\0\0", b"\x01\x00"], ids=["masked", "in parts"])
def test_what_a_gateway_never_sends_is_refused(data: bytes) -> None:
    with pytest.raises(wire.NotSpoken):
        wire.split(data)


def test_a_client_masks() -> None:
    assert wire.frame(wire.PONG, b"abcde", b"\x01\x02\x03\x04") == (
        b"\x8a\x85\x01\x02\x03\x04" + bytes([97 ^ 1, 98 ^ 2, 99 ^ 3, 100 ^ 4, 101 ^ 1])
    )


def test_the_handshake() -> None:
    request = wire.handshake(host="h:1", target="/ws?after=1-0", token="t", key=KEY).decode()
    assert request.startswith("GET /ws?after=1-0 HTTP/1.1\r\nHost: h:1\r\n")
    assert request.endswith("\r\nAuthorization: Bearer t\r\n\r\n")


def test_an_upgrade_and_what_follows_it() -> None:
    head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
    assert wire.answer(head[:-1]) is None
    assert wire.answer(head + b"\x81\x00") == wire.Answer(101, b"", b"\x81\x00")


def test_a_refusal_is_read_to_its_end() -> None:
    head = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\n"
    assert wire.answer(head + b"{") is None
    assert wire.answer(head + b"{}") == wire.Answer(401, b"{}", b"")
    assert wire.answer(head + b"{", ended=True) == wire.Answer(401, b"{", b"")


@pytest.mark.parametrize(
    ("data", "ended"),
    [
        (b"-ERR unknown command", False),
        (b"HT", True),
        (b"HTTP/1.1 x\r\n\r\n", False),
        (b"\r\n\r\n", False),
    ],
)
def test_what_is_not_http_is_told(data: bytes, *, ended: bool) -> None:
    with pytest.raises(wire.NotSpoken):
        wire.answer(data, ended=ended)


@pytest.mark.parametrize(
    ("url", "http", "path"),
    [
        ("ws://127.0.0.1:8080/ws", "http://127.0.0.1:8080", "/ws"),
        ("wss://chat.example", "https://chat.example", "/ws"),
        ("https://chat.example:8443/a/ws", "https://chat.example:8443", "/a/ws"),
        ("ws://[::1]:9/", "http://[::1]:9", "/ws"),
    ],
)
def test_addresses(url: str, http: str, path: str) -> None:
    target = wire.target(url)
    assert (target.http, target.path) == (http, path)


@pytest.mark.parametrize("url", ["redis://h", "ws://", "nothing"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="ws://host:port/ws"):
        wire.target(url)
