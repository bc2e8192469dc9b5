"""The ways in C and in Python bring the same bytes to the same sockets (promises G2, G4, G7).

What the hub does with events is tested on both ways in ``test_hub.py``; here are the bytes around
them: reads that end anywhere, replies between messages, messages of every other form, and sockets
that take some of what they are sent.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import socket
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.channels import Channel, Keys, Owner, Scope
from broker.cursor import ZERO
from broker.redis.connection import RedisConnection
from broker.replay import Follower
from gateway.fastpath import NEVER, FastPath, number_of, send
from gateway.feed import Feed, Member
from gateway.hub import NOTED, Hub
from gateway.outbox import MAX_UNSENT_BYTES, Outbox
from gateway.secured import Secured
from gateway.wires import WEBSOCKET
from tests.support.fastpath import BUILT_HERE
from tests.support.pushes import KIND, PREFIX, push

USERS: Final = ("alice", "bob", "carol")
CHANNELS: Final = [Keys().channel(Owner("", user), Scope.USER) for user in USERS]
BODY: Final = b'{"type":"agent_thinking","payload":{"thoughts":"%b"}}'


pytestmark = BUILT_HERE


class Socket:
    """A member with a real socket, or with none."""

    __slots__ = (
        "_closing", "_fd", "floors", "flushed", "lifecycle_only", "outbox", "owner", "thread",
        "whole", "wire",
    )  # fmt: skip

    def __init__(self, user: str, *, whole: bool = True, fd: int = NEVER) -> None:
        self.owner = Owner("", user).token.encode()
        self.wire, self.whole = WEBSOCKET, whole
        self.thread: bytes | None = None
        self.floors: dict[bytes, int] | None = None
        self.lifecycle_only = not whole
        self.outbox = Outbox()
        self._fd, self._closing = fd, False
        self.flushed: list[bytes] = []

    def flush(self) -> None:
        """What was left to it."""
        self.flushed.append(self.outbox.take())


class Needs:
    """What the hub asked for, in words that can be compared."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []

    def __getattr__(self, name: str) -> Any:
        def asked(*what: object) -> None:
            self.asked.append((name, *(each for each in what if isinstance(each, bytes))))

        return asked


class House:
    """A connection to Redis, a hub, and three users' sockets: on one way or the other."""

    def __init__(self, *, fast: bool) -> None:
        self.needs, self.told = Needs(), list[Any]()
        self.hub = Hub(self.needs)
        self.feeds: list[Feed] = []
        self.sockets: list[Member] = []
        for user, channel in zip(USERS, CHANNELS, strict=True):
            feed = self.hub.add(channel)
            feed.follower = Follower(ZERO, level=True)
            for number in range(1 + (user == "carol")):  # whose events go to two sockets
                member = Socket(user, whole=user != "bob" or number > 0)
                feed.live[member] = None
                self.sockets.append(member)
            self.feeds.append(feed)
        path = FastPath(self.hub, member=Socket) if fast else None
        self.connection = RedisConnection(
            self.told.append, self.told.append, self.hub.read_ended,
            kind=KIND, on_message=self.hub.on_message, on_read=path.on_read if path else None,
        )  # fmt: skip

        self.connection._transport = self  # type: ignore[assignment]  # of which this much is used
        self.ended = False

    def abort(self) -> None:
        """What is read is not Redis' protocol."""
        self.ended = True

    def read(self, *data: bytes) -> None:
        for each in data:
            if not self.ended:
                self.connection.data_received(each)

    def seen(self) -> tuple[object, ...]:
        """Everything that anybody could see of it."""
        hub = self.hub
        return (
            [member.outbox.take() for member in self.sockets],
            [self.sockets.index(member) for member in hub.dirty],
            [(feed.follower.raw, feed.follower.trail, feed.follower.level) for feed in self.feeds],
            (hub.counters, hub.first_heard, hub.first_body, self.needs.asked),
            ([str(each) for each in self.told], self.ended),
        )


def message(
    user: str,
    at: int,
    *,
    prev: int | None = None,
    kind: bytes = b"agent_thinking",
    size: int = 200,
    to: Channel | None = None,
) -> bytes:
    """The user's event at this millisecond, on his channel."""
    owner = Owner("", user).token.encode()
    words = (at, at - 1 if prev is None else prev, owner, at, kind, BODY % (b"x" * size))
    text = b"%d-0 %d-0 %b t r %d %b\n%b" % words
    return push((to or CHANNELS[USERS.index(user)]).live, text)


REPLIES: Final = (
    b"+PONG\r\n", b">3\r\n$9\r\nsubscribe\r\n$1\r\nx\r\n:1\r\n", b"-ERR no\r\n", b"$-1\r\n",
    b">3\r\n$7\r\nmessage\r\n:1\r\n$1\r\nx\r\n", b">2\r\n$7\r\nmessage\r\n$1\r\nx\r\n",
    b">3\r\n$8\r\nsmessage\r\n$1\r\nx\r\n$1\r\ny\r\n", b":1\r\n", b"_\r\n", b"*0\r\n", b"~0\r\n",
    b"*1\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$1\r\ne\r\n$4\r\n0-0 \r\n", b"~2\r\n$1\r\nr\r\n$1\r\ns\r\n",
    b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n",  # a reply that looks like a message
)  # fmt: skip
HEADERS: Final = (
    b"1-0 0-0 :alice t r 1 agent_thinking\n", b"1-0 0-0 :alice t r 1 agent_thinking\n{}",
    b"1-0 0-0 :alice t r 1 agent_thinking {}", b"1-0 0-0 :alice t r 1 a b\n{}", b"", b"\n", b"\n\n",
    b"1-0  :alice t r 1 agent_thinking\n{}", b"x 0-0 :alice t r 1 agent_thinking\n{}",
    b"1-0 0-0 :alice t r agent_thinking\n{}" + b" " * 200,
    b"1-0- 0-0 :alice t r 1 agent_thinking\n{}" + b" " * 200,
    b"123456789012345678901-0 0-0 :alice t r 1 agent_thinking\n{}" + b" " * 200,
    b"- 5 :alice t r 0 agent_delta\n{}", b"- 0 :alice - - 1 taken_over\n{}",
    b"\xff-0 0-0 :alice t r 1 agent_thinking\n{}",
)  # fmt: skip


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Mostly the users' next events; between them whatever else may come."""
    said, data = dict.fromkeys(USERS, 0), b""
    for _ in range(draw(st.integers(1, 12) | st.integers(13, 40))):  # more than are read ahead
        user = draw(st.sampled_from(USERS))
        match draw(st.sampled_from("nnnnnnnnnkskofhru")):
            case "n":
                said[user] += 1
                data += message(user, said[user], size=draw(st.sampled_from((80, 200, 65_500))))
            case "k":
                said[user] += 1
                data += message(user, said[user], kind=draw(st.sampled_from(sorted(NOTED))))
            case "s":
                said[user] += 1
                data += message(user, said[user], size=draw(st.integers(0, 60)))
            case "o":
                data += message(user, said[user])  # once more
            case "f":
                data += message(user, said[user] + 1, to=draw(st.sampled_from(CHANNELS)))
            case "h":
                data += push(CHANNELS[0].live, draw(st.sampled_from(HEADERS)))
            case "r":
                data += draw(st.sampled_from(REPLIES))
            case "u":
                data += push(b"rc:{0}:probe:me", b"probe")
            case _:
                said[user] += 2  # one is lost on the way
                data += message(user, said[user])
    return data


@st.composite
def reads(draw: st.DrawFn) -> list[bytes]:
    """A stream in pieces."""
    data = draw(streams())
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=5)))
    pieces = zip([0, *cuts], [*cuts, len(data)], strict=True)
    return [data[start:end] for start, end in pieces if end > start]


@given(reads())
def test_both_ways_do_the_same(pieces: list[bytes]) -> None:
    slow, fast = House(fast=False), House(fast=True)
    for each in pieces:
        slow.read(each)
        fast.read(each)
        assert fast.seen() == slow.seen()


@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_read_may_end_anywhere(size: int) -> None:
    """All is heard once, when all of it is there."""
    data = b"".join(message("alice", at) + message("bob", at) for at in range(1, 6))
    whole, house = House(fast=True), House(fast=True)
    whole.read(data)
    house.read(*(data[at : at + size] for at in range(0, len(data), size)))
    assert house.feeds[0].follower.raw == b"5-0"
    assert house.sockets[0].outbox.take() == whole.sockets[0].outbox.take() != b""


@pytest.mark.parametrize("other", REPLIES)
def test_so_may_one_of_another_kind(other: bytes) -> None:
    """The parser gets it whole, and messages go on the fast way after it."""
    data = message("alice", 1) + other + message("alice", 2)
    for cut in range(len(data)):
        slow, fast = House(fast=False), House(fast=True)
        for house in (slow, fast):
            house.read(data[:cut], data[cut:])
            house.read(message("alice", 3))
        assert fast.seen() == slow.seen()
        assert fast.connection._begun == b""


@pytest.mark.parametrize(
    "strange", [b"%1\r\n+a\r\n+b\r\n", b"!rubbish\r\n", b"*1\r\n" * 9 + b":1\r\n"]
)
def test_what_it_cannot_read_ends_it_for_the_connection(strange: bytes) -> None:
    """The parser reads on; another protocol, or none, is its to judge."""
    slow, fast = House(fast=False), House(fast=True)
    for house in (slow, fast):
        house.read(message("alice", 1) + strange[:3], strange[3:] + message("alice", 2))
        house.read(message("alice", 3))
    assert fast.seen() == slow.seen()
    assert fast.connection._on_read is None


@pytest.mark.parametrize(
    "words",
    [
        b"$12345678901\r\n", b"$-1\r\n", b"$\r\n", b"$5x\r\n", b"$1\r\nx\r\n:5\r\n",
        b"$1\r\nx\r\n$999999999999\r\n", b"$1\r\nx\r\n$-1\r\n",
    ],
)  # fmt: skip
def test_sizes_that_are_none_are_the_parsers_to_judge(words: bytes) -> None:
    """Nothing is read beyond what is there."""
    slow, fast = House(fast=False), House(fast=True)
    for house in (slow, fast):
        house.read(PREFIX[:-1] + words)
        house.read(message("alice", 1))
    assert fast.seen() == slow.seen()


def test_an_outbox_without_room_is_left_to_the_hub() -> None:
    """G7: neither a stalled socket's nor a full one's takes anything more."""
    for stalled, size in ((True, 0), (False, MAX_UNSENT_BYTES + 1)):
        slow, fast = House(fast=False), House(fast=True)
        for house in (slow, fast):
            house.sockets[0].outbox.stalled = stalled
            house.sockets[0].outbox._size = size
            house.read(message("alice", 1))
            assert house.needs.asked == [("feed_from_log",)]
            assert house.sockets[0] not in house.feeds[0].live
        assert fast.seen() == slow.seen()


def test_nobody_gets_what_is_anothers() -> None:
    """G4: neither by the channel's owner nor by the socket's."""
    house = House(fast=True)
    house.sockets[0].owner = b":mallory"
    house.read(message("alice", 1))
    house.sockets[0].owner = b":bob"
    house.read(message("bob", 2, to=CHANNELS[0]))
    assert [member.outbox.take() for member in house.sockets] == [b""] * len(house.sockets)
    assert house.hub.counters.isolation_violations == 2


@pytest.mark.parametrize("fast", [False, True])
def test_what_comes_after_somebody_flushed_is_flushed_as_well(*, fast: bool) -> None:
    """In the middle of a read: then it is for the next flush."""
    house = House(fast=fast)
    flushed: list[object] = []

    def flush_now(*_: object) -> None:
        flushed.extend(house.hub.dirty)
        house.hub.dirty = {}

    house.needs.unclaimed = flush_now  # type: ignore[attr-defined]  # as any of its words
    house.read(message("alice", 1) + push(b"rc:{0}:probe:me", b"probe") + message("alice", 2))
    assert flushed == list(house.hub.dirty) == [house.sockets[0]]


def test_of_what_was_looked_at_ahead_of_an_error_nothing_is_passed_on_and_nothing_kept() -> None:
    house = House(fast=True)

    def fails(*_: object) -> None:
        raise ZeroDivisionError

    house.needs.unclaimed = fails  # type: ignore[attr-defined]  # as any of its words
    path = FastPath(house.hub, member=Socket)
    read = push(b"rc:{0}:probe:me", b"probe") + b"".join(message("alice", at) for at in range(1, 9))

    def blocks_after(reads: int) -> int:
        for _ in range(reads):
            with pytest.raises(ZeroDivisionError):
                path.on_read(read, 0, PREFIX)
        gc.collect()
        return sys.getallocatedblocks()

    before = blocks_after(10)
    assert blocks_after(1000) < before + 1000
    assert house.sockets[0].outbox.take() == b""


class _Bare:
    """Has none of what is needed."""


@pytest.mark.parametrize("missing", range(4))
def test_a_class_without_the_slots_is_refused(missing: int) -> None:
    """At the start, and not by reading what is not there."""
    module = importlib.import_module("gateway._fastpath")
    classes: list[type] = [Feed, Follower, Socket, Outbox]
    classes[missing] = _Bare
    with pytest.raises((AttributeError, TypeError)):
        module.FastPath(classes[0], classes[1], classes[2], classes[3], (), 1, 64, 32)


# --- what sockets take


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Ours, which never waits and holds little, and the peer's."""
    ours, peer = socket.socketpair()
    ours.settimeout(0)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with ours, peer:
        yield ours, peer


def flush(*members: Socket) -> None:
    FastPath(Hub(Needs()), member=Socket).flush(dict.fromkeys(members))


def test_what_is_there_goes_to_the_kernel_in_one_piece() -> None:
    with pair() as (ours, peer):
        member = Socket("alice", fd=ours.fileno())
        member.outbox.push(b"a frame")
        flush(member)
        assert peer.recv(100) == b"a frame"
        assert (member.outbox.size, member.outbox.take(), member.flushed) == (0, b"", [])


def test_what_the_kernel_does_not_take_is_left_to_the_transport() -> None:
    """Nothing twice, nothing lost: the rest, from the byte on at which it stopped."""
    frame = bytes(index % 251 for index in range(200_000))
    with pair() as (ours, peer):
        member = Socket("alice", fd=ours.fileno())
        member.outbox.push(frame)
        flush(member)
        (rest,) = member.flushed
        peer.settimeout(0)
        took = b""
        with suppress(BlockingIOError):
            while more := peer.recv(65_536):
                took += more
        assert 0 < len(took) < len(frame)
        assert took + rest == frame


@pytest.mark.parametrize("why", ["held", "several", "closing", "transport", "narrow", "gone"])
def test_what_is_not_that_simple_is_flushed_by_the_socket_itself(why: str) -> None:
    """It knows what to hold back, what to join, and how its connection ends."""
    with pair() as (ours, peer):
        member = Socket("alice", fd=ours.fileno(), whole=why != "narrow")
        member.outbox.push(b"first")
        member.outbox.held = why == "held"
        member._closing = why == "closing"
        if why == "several":
            member.outbox.push(b" second")
        elif why == "transport":
            member._fd = NEVER
        elif why == "gone":
            peer.close()
        flush(member)
        assert len(member.flushed) == 1
        assert member.flushed[0] == {"held": b"", "several": b"first second"}.get(why, b"first")
        if why != "gone":
            peer.settimeout(0)
            with pytest.raises(BlockingIOError):
                peer.recv(1)


def test_an_error_of_a_socket_is_its_callers_to_see() -> None:
    member = Socket("alice")
    member.outbox = None  # type: ignore[assignment]  # so that it fails
    with pytest.raises(AttributeError):
        flush(member)


# --- which socket may be written to by its number


class Below(asyncio.Transport):
    """A transport of a real socket, as an event loop has it."""

    def __init__(self, peer: socket.socket) -> None:
        super().__init__({"socket": peer})


def test_a_plain_socket_is_written_to_by_its_number() -> None:
    with pair() as (ours, peer):
        number = number_of(Below(ours))
        assert number == ours.fileno()
        assert send(number, b"as it is") == 8
        assert peer.recv(100) == b"as it is"


def test_what_is_encrypted_never_goes_past_its_transport() -> None:
    """Neither ours nor an event loop's own: what is below has a number all the same."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with pair() as (ours, _):
        secured = Secured(context, asyncio.Protocol())
        secured.connection_made(Below(ours))
        assert secured.get_extra_info("socket") is ours
        assert number_of(secured) == NEVER
        of_the_loop = asyncio.Transport({"socket": ours, "sslcontext": context})
        assert number_of(of_the_loop) == NEVER


def test_a_transport_without_a_socket_has_none() -> None:
    assert number_of(asyncio.Transport()) == NEVER
