"""RFC 6455 by bytes: frames that break one of its rules, and frames that are merely strange."""

import json
import struct
from dataclasses import dataclass
from typing import Final

from hypothesis import strategies as st

from tests.support.wire import BINARY, CLOSE, PING, PONG, TEXT, frame

HARD_LIMIT: Final = 4 * 65536
CONTINUATION: Final = 0

LEGAL_TO_RECEIVE: Final = frozenset({0, 1000, 1001, 1002, 1003, *range(1007, 1015)})
"""Close codes of a server besides 3000 to 4999, the applications' own; 1010 only as an echo, and
1012 to 1014 stand in IANA's registry."""


@dataclass(frozen=True)
class Stream:
    """Bytes of a client after its handshake, in pieces.

    ``closes``: the codes with which the server has to close; empty = whatever is legal. ``pongs``:
    payloads that it has to send back, when it closes for nothing else before.
    """

    what: str
    pieces: tuple[bytes, ...]
    closes: frozenset[int] = frozenset()
    pongs: tuple[bytes, ...] = ()


def ping_text(number: int) -> bytes:
    return json.dumps({"type": "ping", "id": f"p{number}", "payload": {}}).encode()


def close_frame(code: int = 1000, reason: bytes = b"") -> bytes:
    return frame(CLOSE, struct.pack("!H", code) + reason)


def _split(data: bytes, cuts: list[int]) -> tuple[bytes, ...]:
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    return tuple(
        data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True) if b > a
    )


_cuts = st.lists(st.integers(0, 4000), max_size=4)
_payload = st.binary(max_size=125)
_bad_utf8 = st.sampled_from(
    [
        b"\xff",
        b"\xc0\xaf",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"abc\x80",
        b"\xe2\x82",
        b"\xf8\x88\x80\x80\x80",
    ]
)
_good_close = st.one_of(
    st.sampled_from(sorted(LEGAL_TO_RECEIVE - {0})),
    st.integers(3000, 4999),
)
_bad_close = st.one_of(
    st.integers(0, 999),
    st.sampled_from([1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999]),
    st.integers(5000, 65535),
)


def _one(what: str, data: bytes, cuts: list[int], *closes: int) -> Stream:
    return Stream(what, _split(data, cuts), frozenset(closes))


def _protocol_error(what: str, frames: st.SearchStrategy[bytes]) -> st.SearchStrategy[Stream]:
    return st.builds(lambda data, cuts: _one(what, data, cuts, 1002), frames, _cuts)


_opcode = st.sampled_from([3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF])
_known = st.sampled_from([TEXT, BINARY, PING, PONG])

violations: st.SearchStrategy[Stream] = st.one_of(
    _protocol_error("reserved opcode", st.builds(frame, _opcode, _payload)),
    _protocol_error(
        "reserved bits",
        st.builds(
            lambda opcode, payload, rsv: frame(opcode, payload, rsv=rsv),
            _known,
            _payload,
            st.integers(1, 7),
        ),
    ),
    _protocol_error(
        "fragmented control frame",
        st.builds(
            lambda opcode, payload: frame(opcode, payload, fin=False),
            st.sampled_from([CLOSE, PING, PONG]),
            _payload,
        ),
    ),
    _protocol_error(
        "long control frame",
        st.builds(
            lambda opcode, size: frame(opcode, bytes(size)),
            st.sampled_from([CLOSE, PING, PONG]),
            st.integers(126, 70_000),
        ),
    ),
    _protocol_error(
        "continuation of nothing",
        st.builds(
            lambda payload, fin: frame(CONTINUATION, payload, fin=fin), _payload, st.booleans()
        ),
    ),
    _protocol_error(
        "message within a message",
        st.builds(lambda payload: frame(TEXT, b"{", fin=False) + frame(TEXT, payload), _payload),
    ),
    _protocol_error("illegal close code", st.builds(close_frame, _bad_close)),
    _protocol_error(
        "half a close code",
        st.builds(lambda byte: frame(CLOSE, bytes((byte,))), st.integers(0, 255)),
    ),
    st.builds(
        lambda before, bad, cuts: _one("no UTF-8", frame(TEXT, before.encode() + bad), cuts, 1007),
        st.text(max_size=8),
        _bad_utf8,
        _cuts,
    ),
    st.builds(
        lambda bad, cuts: _one("no UTF-8 in a reason", close_frame(1000, bad), cuts, 1007),
        _bad_utf8,
        _cuts,
    ),
    st.builds(
        lambda opcode, more, cuts: _one(
            "too large", frame(opcode, b"{" * 64, size=HARD_LIMIT + more), cuts, 1009
        ),
        st.sampled_from([TEXT, BINARY]),
        st.sampled_from([1, 1000, 2**31, 2**32, 2**62, 2**63 - HARD_LIMIT - 1]),
        _cuts,
    ),
)

closes: st.SearchStrategy[Stream] = st.builds(
    lambda code, reason, cuts: _one("close", close_frame(code, reason.encode()), cuts, code),
    _good_close,
    st.text(st.characters(codec="utf-8"), max_size=30),
    _cuts,
)


@st.composite
def _talk(draw: st.DrawFn) -> Stream:
    """Pings and fragmented messages, interleaved, cut anywhere, then a lawful end."""
    data, pongs = b"", []
    for number in range(draw(st.integers(1, 5))):
        payload = draw(_payload)
        text = ping_text(number)
        cut = draw(st.integers(0, len(text)))
        data += frame(TEXT, text[:cut], fin=False) + frame(PING, payload)
        data += frame(PONG, draw(_payload)) + frame(CONTINUATION, text[cut:])
        pongs.append(payload)
    return Stream(
        "talk", _split(data + close_frame(), draw(_cuts)), frozenset({1000}), tuple(pongs)
    )


@st.composite
def _flood(draw: st.DrawFn) -> Stream:
    number = draw(st.integers(50, 400))
    payload = draw(_payload)
    data = frame(draw(st.sampled_from([PING, PONG])), payload) * number
    pongs = (payload,) * number if data[0] & 0xF == PING else ()
    return Stream("flood", _split(data + close_frame(), draw(_cuts)), frozenset({1000}), pongs)


@st.composite
def _mangled(draw: st.DrawFn) -> Stream:
    """A lawful stream with bytes changed, inserted or cut out."""
    data = bytearray(b"".join(draw(_talk()).pieces))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.integers(0, 3)):
            case 0:
                data[at : at + 1] = bytes((draw(st.integers(0, 255)),))
            case 1:
                data[at:at] = draw(st.binary(max_size=8))
            case 2:
                del data[at : at + draw(st.integers(1, 8))]
            case 3:
                del data[at:]
    return Stream("mangled", _split(bytes(data), draw(_cuts)))


streams: st.SearchStrategy[Stream] = st.one_of(
    violations,
    violations,
    closes,
    _talk(),
    _flood(),
    _mangled(),
    _mangled(),
    st.builds(
        lambda data, cuts: Stream("noise", _split(data, cuts)), st.binary(max_size=300), _cuts
    ),
    st.builds(
        lambda size, given: Stream("half a frame", (frame(TEXT, b"{" * given, size=size + given),)),
        st.integers(1, 60_000),
        st.integers(0, 500),
    ),
)
"""What a client may write after its handshake."""
