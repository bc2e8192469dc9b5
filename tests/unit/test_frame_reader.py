"""Client frames: RFC 6455 to the letter, whatever the network cuts, and nothing held when idle."""

from __future__ import annotations

import asyncio
import sys
import tracemalloc
from typing import Final

import pytest
from aiohttp._websocket.reader import WebSocketDataQueue, WebSocketReader
from aiohttp.base_protocol import BaseProtocol
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.frame_reader import (
    BINARY,
    CLOSE,
    MAX_FRAGMENTS,
    PING,
    PONG,
    TEXT,
    Frame,
    FrameReader,
    close_of,
)
from gateway.frames import MAX_REASON_BYTES

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

LIMIT: Final = 70_000
"""Bytes of the largest message here: more than a length of two bytes can tell."""

MASK: Final = b"\x01\x80\xfe\x3c"
FIN: Final = 0x80
CONTINUE: Final = 0


def sent(first: int, payload: bytes = b"", *, mask: bytes = MASK, length: bytes = b"") -> bytes:
    """A client's frame; ``length`` instead of the shortest form."""
    size = len(payload)
    if not length and size < 126:
        length = bytes((size,))
    elif not length:
        length = b"\x7e" + size.to_bytes(2) if size < 65536 else b"\x7f" + size.to_bytes(8)
    masked = bytes(octet ^ mask[at % 4] for at, octet in enumerate(payload))
    return bytes((first, 0x80 | length[0])) + length[1:] + mask + masked


def text(payload: bytes = b"") -> bytes:
    return sent(FIN | TEXT, payload)


def closing(code: int, reason: bytes = b"") -> bytes:
    return sent(FIN | CLOSE, code.to_bytes(2) + reason)


def octets(kind: int, payload: bytes) -> bytes:
    """The message in fragments of one byte."""
    last = len(payload) - 1
    return b"".join(
        sent((CONTINUE if at else kind) | (FIN if at == last else 0), payload[at : at + 1])
        for at in range(len(payload))
    )


def read(pieces: list[bytes], limit: int = LIMIT) -> tuple[list[Frame], int]:
    """All frames, and the code of the violation that ended them; 0 = none."""
    reader = FrameReader(limit)
    frames = [frame for piece in pieces for frame in reader.feed(piece)]
    return frames, reader.violation.code if reader.violation else 0


def in_steps(data: bytes, step: int) -> list[bytes]:
    return [data[at : at + step] for at in range(0, len(data), step)]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    at = sorted({place % (len(data) + 1) for place in places})
    return [data[a:b] for a, b in zip([0, *at], [*at, len(data)], strict=True)]


def as_aiohttp_reads(pieces: list[bytes]) -> list[Frame]:
    """What aiohttp's own reader makes of the same bytes, in our words."""
    loop = asyncio.new_event_loop()
    try:
        queue = WebSocketDataQueue(BaseProtocol(loop), 2**20, loop=loop)
        reader = WebSocketReader(queue, 2**20, compress=False, decode_text=False)
        for piece in pieces:
            failed, _ = reader.feed_data(piece)
            assert not failed, queue.exception()
        frames = []
        for (kind, payload, reason), _ in queue._buffer:
            if kind == CLOSE:
                told = payload.to_bytes(2) + str(reason).encode() if payload else b""
                frames.append((CLOSE, told))
            else:
                frames.append((int(kind), bytes(payload)))
        return frames
    finally:
        loop.close()


# --- the cases of the Autobahn test suite, by their numbers there

HELLO: Final = b"Hello-\xc2\xb5@\xc3\x9f\xc3\xb6\xc3\xa4\xc3\xbc\xc3\xa0\xc3\xa1-UTF-8!!"
KOSME: Final = "κόσμε".encode()
FIRST: Final = sent(TEXT, b"fragment1")
LAST: Final = sent(FIN, b"fragment2")
JOINED: Final = (TEXT, b"fragment1fragment2")
PINGED: Final = sent(FIN | PING, b"ping")

Case = tuple[str, bytes, list[Frame], int]
"""Name, bytes, what is read, and the code that ends it; 0 = nothing does."""

LENGTHS: Final[list[Case]] = [
    (f"{case} {size}", sent(FIN | kind, b"*" * size), [(kind, b"*" * size)], 0)
    for case, kind in (("1.1", TEXT), ("1.2", BINARY))
    for size in (0, 1, 125, 126, 127, 128, 1024, 1025, 65535, 65536, LIMIT)
]
CONTROL: Final[list[Case]] = [
    ("2.1", sent(FIN | PING), [(PING, b"")], 0),
    ("2.2", PINGED, [(PING, b"ping")], 0),
    ("2.3", sent(FIN | PING, b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff"),
     [(PING, b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff")], 0),
    ("2.4", sent(FIN | PING, b"\xfe" * 125), [(PING, b"\xfe" * 125)], 0),
    ("2.5", sent(FIN | PING, b"\xfe" * 126), [], 1002),
    ("2.7", sent(FIN | PONG), [(PONG, b"")], 0),
    ("2.8", sent(FIN | PONG, b"unasked"), [(PONG, b"unasked")], 0),
    ("2.9", sent(FIN | PONG, b"unasked") + PINGED, [(PONG, b"unasked"), (PING, b"ping")], 0),
    ("2.10", PINGED * 10, [(PING, b"ping")] * 10, 0),
]  # fmt: skip
RESERVED: Final[list[Case]] = [
    ("3.1", sent(0x90 | TEXT, b"x"), [], 1002),
    ("3.2", text(b"x") + sent(0xA0 | TEXT, b"y") + PINGED, [(TEXT, b"x")], 1002),
    ("3.3", text(b"x") + sent(0xB0 | TEXT, b"y") + PINGED, [(TEXT, b"x")], 1002),
    ("3.4", text(b"x") + sent(0xC0 | TEXT, b"y") + PINGED, [(TEXT, b"x")], 1002),
    ("3.5", sent(0xD0 | BINARY, b"x"), [], 1002),
    ("3.6", sent(0xE0 | PING, b"x"), [], 1002),
    ("3.7", sent(0xF0 | CLOSE), [], 1002),
    *((f"4 opcode {n}", text(b"x") + sent(FIN | n, b"y") + PINGED, [(TEXT, b"x")], 1002)
      for n in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)),
]  # fmt: skip
FRAGMENTS: Final[list[Case]] = [
    ("5.1", sent(PING, b"fragment1") + LAST, [], 1002),
    ("5.2", sent(PONG, b"fragment1") + LAST, [], 1002),
    ("5.3", FIRST + LAST, [JOINED], 0),
    ("5.6", FIRST + PINGED + LAST, [(PING, b"ping"), JOINED], 0),
    ("5.9", LAST + text(b"x"), [], 1002),
    ("5.12", sent(CONTINUE, b"x") + text(b"x"), [], 1002),
    ("5.15", FIRST + LAST + sent(CONTINUE, b"x") + text(b"x"), [JOINED], 1002),
    ("5.17", FIRST + LAST + LAST + text(b"x"), [JOINED], 1002),
    ("5.18", FIRST + text(b"fragment2"), [], 1002),
    ("5.18 non-final", FIRST + sent(BINARY, b"fragment2"), [], 1002),
    ("5.19", sent(TEXT, b"1") + sent(CONTINUE, b"2") + PINGED + sent(CONTINUE, b"3") + PINGED
     + sent(CONTINUE, b"4") + sent(FIN, b"5"),
     [(PING, b"ping"), (PING, b"ping"), (TEXT, b"12345")], 0),
    ("an empty message is begun too", sent(TEXT) + text(b"x"), [], 1002),
]  # fmt: skip
UTF8: Final[list[Case]] = [
    ("6.1.1", text(), [(TEXT, b"")], 0),
    ("6.1.2", sent(TEXT) + sent(CONTINUE) + sent(FIN), [(TEXT, b"")], 0),
    ("6.1.3", sent(TEXT) + sent(CONTINUE, b"middle") + sent(FIN), [(TEXT, b"middle")], 0),
    ("6.2.1", text(HELLO), [(TEXT, HELLO)], 0),
    ("6.2.2", sent(TEXT, HELLO[:11]) + sent(FIN, HELLO[11:]), [(TEXT, HELLO)], 0),
    ("6.2.3", octets(TEXT, HELLO), [(TEXT, HELLO)], 0),
    ("6.2.4", octets(TEXT, KOSME), [(TEXT, KOSME)], 0),
    ("6.3.1", text(KOSME + b"\xed\xa0\x80edited"), [], 1007),
    ("6.3.2", octets(TEXT, KOSME + b"\xed\xa0\x80edited"), [], 1007),
    ("6.4.1", sent(TEXT, KOSME) + sent(CONTINUE, b"\xf4\x90\x80\x80") + sent(FIN, b"x"), [], 1007),
    *((f"6 valid {good.hex()}", text(good), [(TEXT, good)], 0)
      for good in (KOSME, b"\x00", b"\x7f", b"\xc2\x80", b"\xdf\xbf", b"\xe0\xa0\x80",
                   b"\xed\x9f\xbf", b"\xee\x80\x80", b"\xef\xbf\xbd", b"\xef\xbf\xbf",
                   b"\xf0\x90\x80\x80", b"\xf4\x8f\xbf\xbf")),
    *((f"6 invalid {bad.hex()}", text(b"x") + text(bad) + PINGED, [(TEXT, b"x")], 1007)
      for bad in (b"\xce", b"\xce\xba\xe1", b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80",
                  b"\xf7\xbf\xbf\xbf", b"\xf4\x90\x80\x80", b"\x80", b"\xbf", b"\x80\xbf\x80",
                  b"\xc0 ", b"\xe0 ", b"\xfe", b"\xff", b"\xc0\xaf", b"\xe0\x80\xaf", b"\xc1\xbf",
                  b"\xf0\x8f\xbf\xbf", b"\xc0\x80", b"\xed\xa0\x80", b"\xed\xaf\xbf\xed\xbf\xbf")),
    ("binary is no text", sent(FIN | BINARY, b"\xff"), [(BINARY, b"\xff")], 0),
    ("binary in fragments is none either", octets(BINARY, b"\xff\xfe"), [(BINARY, b"\xff\xfe")], 0),
]  # fmt: skip
CLOSED: Final = (CLOSE, b"\x03\xe8")
CLOSES: Final[list[Case]] = [
    ("7.1.1", text(b"x") + closing(1000), [(TEXT, b"x"), CLOSED], 0),
    ("7.1.2", closing(1000) * 2, [CLOSED] * 2, 0),
    ("7.1.3", closing(1000) + PINGED, [CLOSED, (PING, b"ping")], 0),
    ("7.1.5", FIRST + closing(1000) + LAST, [CLOSED, JOINED], 0),
    ("7.3.1", sent(FIN | CLOSE), [(CLOSE, b"")], 0),
    ("7.3.2", sent(FIN | CLOSE, b"a"), [], 1002),
    ("7.3.4", closing(1000, "schön".encode()), [(CLOSE, b"\x03\xe8sch\xc3\xb6n")], 0),
    ("7.3.5", closing(1000, b"*" * MAX_REASON_BYTES), [(CLOSE, b"\x03\xe8" + b"*" * 123)], 0),
    ("7.3.6", closing(1000, b"*" * (MAX_REASON_BYTES + 1)), [], 1002),
    ("7.5.1", closing(1000, KOSME + b"\xed\xa0\x80"), [], 1007),
    *((f"7.7 {code}", closing(code), [(CLOSE, code.to_bytes(2))], 0)
      for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000,
                   3999, 4000, 4999)),
    *((f"7.9 {code}", closing(code), [], 1002)
      for code in (0, 3, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)),
]  # fmt: skip
STRICT: Final[list[Case]] = [
    ("not masked", b"\x81\x01x", [], 1002),
    ("a close frame that is not masked", b"\x88\x00", [], 1002),
    ("length in two bytes", sent(FIN | TEXT, b"x", length=b"\x7e\x00\x7d"), [], 1002),
    ("length in eight bytes", sent(FIN | TEXT, length=b"\x7f" + (65535).to_bytes(8)), [], 1002),
    ("length with the top bit", sent(FIN | TEXT, length=b"\x7f\x80" + bytes(7)), [], 1002),
    ("the longest length", sent(FIN | TEXT, length=b"\x7f\x7f" + b"\xff" * 7), [], 1009),
    ("too long", sent(FIN | TEXT, length=b"\x7f" + (LIMIT + 1).to_bytes(8)), [], 1009),
    ("too long to begin", sent(BINARY, length=b"\x7f" + (LIMIT + 1).to_bytes(8)), [], 1009),
    ("too long together", sent(BINARY, b"*" * LIMIT) + PINGED + sent(FIN, b"*"),
     [(PING, b"ping")], 1009),
    ("as long as may be together", sent(TEXT, b"*" * (LIMIT - 1)) + PINGED + sent(FIN, b"*"),
     [(PING, b"ping"), (TEXT, b"*" * LIMIT)], 0),
    ("in as many fragments as may be", octets(BINARY, bytes(MAX_FRAGMENTS)),
     [(BINARY, bytes(MAX_FRAGMENTS))], 0),
    ("in too many", octets(BINARY, bytes(MAX_FRAGMENTS + 1)), [], 1009),
    ("in empty ones without end", sent(TEXT) + sent(CONTINUE) * MAX_FRAGMENTS, [], 1009),
    ("counted by message", octets(TEXT, b"x" * MAX_FRAGMENTS) + octets(TEXT, b"yz"),
     [(TEXT, b"x" * MAX_FRAGMENTS), (TEXT, b"yz")], 0),
]  # fmt: skip
CASES: Final = [*LENGTHS, *CONTROL, *RESERVED, *FRAGMENTS, *UTF8, *CLOSES, *STRICT]


@pytest.mark.parametrize(
    ("data", "frames", "code"), [pytest.param(*rest, id=name) for name, *rest in CASES]
)
def test_the_rfc_is_kept_to_the_letter(data: bytes, frames: list[Frame], code: int) -> None:
    """What comes before a violation is told, nothing after it, and the split does not matter."""
    for step in (len(data), 997, 1):
        assert read(in_steps(data, step)) == (frames, code), f"in steps of {step}"


# --- laws over all inputs

payloads = st.binary(max_size=40) | st.binary(min_size=120, max_size=300)
texts = st.text(max_size=40).map(str.encode)
masks = st.binary(min_size=4, max_size=4)
codes = st.sampled_from([1000, 1001, 1003, 1011, 3000, 4999])
reasons = st.text(max_size=30).map(str.encode)  # at most four bytes each
closes = st.just(b"") | st.builds(lambda code, why: code.to_bytes(2) + why, codes, reasons)
control = st.tuples(st.sampled_from([PING, PONG]), st.binary(max_size=125)) | st.tuples(
    st.just(CLOSE), closes
)
messages = st.tuples(st.just(TEXT), texts) | st.tuples(st.just(BINARY), payloads)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[bytes, list[Frame]]:
    """Bytes of a lawful client, and what it said: fragments, with control frames in between."""
    data, said = b"", []
    for kind, payload in draw(st.lists(messages | control, max_size=6)):
        fragments = draw(st.integers(0, 3)) if kind < CLOSE else 0
        rest, first = payload, kind
        for _ in range(fragments):
            at = draw(st.integers(0, len(rest)))
            data += sent(first, rest[:at], mask=draw(masks))
            rest, first = rest[at:], CONTINUE
            for between, told in draw(st.lists(control, max_size=2)):
                data += sent(FIN | between, told, mask=draw(masks))
                said.append((between, told))
        data += sent(FIN | first, rest, mask=draw(masks))
        said.append((kind, payload))
    return data, said


places = st.lists(st.integers(0, 5000), max_size=8)


@relaxed
@given(conversations(), places)
def test_lawful_frames_come_out_as_they_were_said(
    conversation: tuple[bytes, list[Frame]], where: list[int]
) -> None:
    """In any pieces, down to single bytes, and as aiohttp's reader has them."""
    data, said = conversation
    pieces = cut(data, where)
    assert read(pieces) == (said, 0)
    assert read(in_steps(data, 1)) == (said, 0)
    assert as_aiohttp_reads(pieces) == said


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """A lawful client's bytes, with some changed, left out or put in."""
    data = bytearray(draw(conversations())[0])
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(data)


@relaxed
@given(mutations() | st.binary(max_size=200), places, st.sampled_from([0, 50, 300, LIMIT]))
def test_rubbish_is_a_violation_and_never_an_error_of_ours(
    data: bytes, where: list[int], limit: int
) -> None:
    """It is the same one however the bytes are cut, and the last that is read."""
    reader = FrameReader(limit)
    frames = reader.feed(data)
    why = reader.violation
    assert why is None or (why.code in (1002, 1007, 1009) and 0 < len(why.name) <= MAX_REASON_BYTES)
    assert all(len(payload) <= max(limit, 125) for _, payload in frames)
    told = (frames, why.code if why else 0)
    assert read(cut(data, where), limit) == told
    assert read(in_steps(data, 1), limit) == told
    for kind, payload in frames:
        if kind == TEXT:
            payload.decode()
        elif kind == CLOSE:
            close_of(payload)
    if why is not None:
        assert reader.feed(text(b"x")) == []
        assert reader.violation is why
        assert not reader.idle, "a new reader would read on"


@relaxed
@given(st.binary(max_size=3000) | st.integers(60_000, 140_000).map(bytes), masks)
def test_every_size_is_unmasked(payload: bytes, mask: bytes) -> None:
    """By whichever way is the fastest for it."""
    assert read([sent(FIN | BINARY, payload, mask=mask)], 2**20) == ([(BINARY, payload)], 0)


@relaxed
@given(conversations())
def test_idle_is_when_nothing_is_half_read(conversation: tuple[bytes, list[Frame]]) -> None:
    """Then a new reader goes on as well; so does one made wherever it is idle."""
    data, said = conversation
    reader = FrameReader(LIMIT)
    frames = []
    for piece in in_steps(data, 1):
        frames += reader.feed(piece)
        if reader.idle:
            reader = FrameReader(LIMIT)
    assert frames == said
    assert reader.idle


# --- the rest of the contract


def test_idle_ends_with_the_first_byte_and_comes_back_with_the_last() -> None:
    """Also between fragments something is held: what came before."""
    reader = FrameReader(LIMIT)
    assert reader.idle
    told = []
    for piece in (b"", *in_steps(FIRST, 5), *in_steps(LAST, 5)):
        reader.feed(piece)
        told.append(reader.idle)
    assert told == [True, False, False, False, False, False, True]


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        (b"", (0, "")),
        (b"\x03\xe8", (1000, "")),
        ((4000).to_bytes(2) + "é".encode(), (4000, "é")),
    ],
)
def test_a_close_frame_has_a_code_and_a_reason(payload: bytes, told: tuple[int, str]) -> None:
    """0 stands for no code, as the answer to it expects."""
    ((kind, through),) = FrameReader(LIMIT).feed(sent(FIN | CLOSE, payload))
    assert kind == CLOSE
    assert close_of(through) == told


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x81\x00", "frame not masked"),
        (sent(0xC1), "reserved bits set"),
        (sent(0x83), "unknown opcode"),
        (sent(PING), "control frame in fragments"),
        (sent(FIN | PING, bytes(126)), "control frame over 125 bytes"),
        (sent(TEXT) * 2, "message within a message"),
        (sent(FIN), "continuation of nothing"),
        (sent(FIN | TEXT, length=b"\x7e\x00\x00"), "length not in its shortest form"),
        (text(b"\xff"), "text is not UTF-8"),
        (closing(1005), "illegal close code"),
        (closing(1000, b"\xff"), "close reason is not UTF-8"),
        (text(bytes(LIMIT + 1)), "message too large"),
        (sent(TEXT) + sent(CONTINUE) * MAX_FRAGMENTS, "message in too many fragments"),
    ],
)
def test_a_violation_says_what_was_wrong(data: bytes, reason: str) -> None:
    """The author of a client reads it in the close frame."""
    reader = FrameReader(LIMIT)
    reader.feed(data)
    assert reader.violation is not None
    assert reader.violation.name == reason


def test_a_message_that_is_too_large_is_refused_before_it_comes() -> None:
    """Its announced length is enough."""
    assert read([sent(FIN | TEXT, bytes(LIMIT + 1))[:14]]) == ([], 1009)


class Counting(FrameReader):
    """Counts how often it looks at what it has."""

    __slots__ = ("looks",)

    def __init__(self, max_message_bytes: int) -> None:
        super().__init__(max_message_bytes)
        self.looks = 0

    def _read(self, data: bytes | bytearray, frames: list[Frame]) -> int:
        self.looks += 1
        return super()._read(data, frames)


def test_a_message_that_comes_byte_by_byte_is_looked_at_four_times() -> None:
    """At its first byte, at two, with its header, and whole: no client can make that quadratic."""
    reader = Counting(2**18)
    data = b"\x82\xff" + (2**18).to_bytes(8) + bytes(4 + 2**18)
    frames = [frame for piece in in_steps(data, 1) for frame in reader.feed(piece)]
    assert frames == [(BINARY, bytes(2**18))]
    assert reader.looks == 4


@pytest.mark.parametrize("bad", [sent(FIN, b"\xff"), sent(FIN | TEXT), b"\x80\x00"])
def test_an_idle_reader_is_small_and_a_refused_message_is_not_kept(bad: bytes) -> None:
    """Promise G7: what one client sends costs the others no memory when it is read or refused."""
    whole = text(b'{"type":"ping"}') + octets(TEXT, b"fragments")
    refused = sent(TEXT, bytes(60_000)) + bad
    readers = [FrameReader(LIMIT) for _ in range(100)]
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for reader in readers:
            reader.feed(whole)
        idle, _ = tracemalloc.get_traced_memory()
        readers[0].feed(refused)
        assert readers[0].violation is not None
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (idle - before) / len(readers) < 20, "an idle reader holds nothing"
    assert after - idle < 1000
    assert sys.getsizeof(readers[0]) <= 88
