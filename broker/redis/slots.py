"""Which node of a Cluster a command belongs to (Redis Cluster specification). Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from redis.crc import key_slot

from broker.redis.connection import Argument

SLOTS: Final = 16384


class Server(NamedTuple):
    """Where a node is."""

    host: str
    port: int


_KEY_AT: Final[Mapping[str, int | None]] = {
    "EVAL": 3,
    "EVALSHA": 3,
    "XGROUP": 2,
    "XINFO": 2,
    "OBJECT": 2,
    "MEMORY": 2,
    "PING": None,
    "TIME": None,
    "INFO": None,
    "ROLE": None,
    "SCRIPT": None,
    "CLUSTER": None,
}
"""Command → which of its words is its first key; None = it has none. Otherwise word 1."""
_STREAMS_FROM: Final[Mapping[str, int]] = {"XREAD": 1, "XREADGROUP": 4}
"""Command → from which word on STREAMS is the keyword: a group may have that name."""


def key_of(command: Sequence[Argument]) -> bytes | None:
    """The first key of a command; None when any node will do.

    All keys of one command are in one slot (see ``broker.channels``), so the first one tells.
    """
    verb = _text(command[0]).upper()
    if verb in _STREAMS_FROM:
        words = [_text(word).upper() if isinstance(word, (bytes, str)) else "" for word in command]
        return _bytes(command[words.index("STREAMS", _STREAMS_FROM[verb]) + 1])
    at = _KEY_AT.get(verb, 1)
    return None if at is None or at >= len(command) else _bytes(command[at])


def slot_of(key: bytes) -> int:
    """The slot of a key or of a sharded channel: CRC16 of its hash tag."""
    return key_slot(key)


class SlotMap:
    """Who serves which slot, as one node told it."""

    __slots__ = ("_masters", "servers")

    def __init__(self, masters: Sequence[Server | None]) -> None:
        self._masters = list(masters)
        self.servers = frozenset(each for each in masters if each is not None)

    @classmethod
    def nothing(cls) -> SlotMap:
        """Before anybody was asked."""
        return cls([None] * SLOTS)

    @classmethod
    def told(cls, reply: Sequence[Any], asked: Server) -> SlotMap:
        """From a ``CLUSTER SLOTS`` reply. A node that does not know its own name is ``asked``."""
        masters: list[Server | None] = [None] * SLOTS
        for first, last, master, *_replicas in reply:
            host = (master[0] or b"").decode()
            server = Server(host if host not in ("", "?") else asked.host, int(master[1]))
            masters[first : last + 1] = [server] * (last - first + 1)
        return cls(masters)

    @property
    def complete(self) -> bool:
        """Whether every slot is served."""
        return None not in self._masters

    def server(self, slot: int) -> Server | None:
        """The slot's master; None when nobody serves it."""
        return self._masters[slot]

    def with_moved(self, slot: int, server: Server) -> SlotMap:
        """The same map, but for one slot: a node said MOVED."""
        masters = self._masters.copy()
        masters[slot] = server
        return SlotMap(masters)


class Redirect(NamedTuple):
    """A node's answer: ask another one. ``once``: only for this command (ASK)."""

    slot: int
    server: Server
    once: bool


def redirect(text: str, asked: Server) -> Redirect | None:
    """What a MOVED or ASK error says; None for any other error."""
    word, _, rest = text.partition(" ")
    if word not in ("MOVED", "ASK"):
        return None
    slot, _, place = rest.partition(" ")
    host, _, port = place.rpartition(":")
    return Redirect(int(slot), Server(host or asked.host, int(port)), word == "ASK")


def _text(word: Argument) -> str:
    return word.decode() if isinstance(word, bytes) else str(word)


def _bytes(word: Argument) -> bytes:
    return word if isinstance(word, bytes) else str(word).encode()
