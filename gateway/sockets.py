"""The sockets of one gateway: counted by owner and mode, and taken in turns.

Pure. What a gateway does for each of its sockets again and again (heartbeats) it does for a few at
a time: a thousand writes at once would hold up every delivery behind them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from typing import ClassVar, Generic, Protocol, TypeVar

from broker.channels import Owner
from gateway.claims import Identity
from gateway.handshake import Opening


class Connected(Protocol):
    """A connection that is there."""

    transport: ClassVar[str]
    """What it is made of, in a word: ``websocket``, ``sse``."""

    identity: Identity
    opening: Opening
    connection_id: str


S = TypeVar("S", bound=Connected)


class Sockets(Generic[S]):
    """All of them, in ``turns`` groups of about the same size."""

    def __init__(self, turns: int) -> None:
        self._groups: list[set[S]] = [set() for _ in range(turns)]
        self._owners: Counter[Owner] = Counter()
        self.there: Counter[tuple[str, str]] = Counter()
        """(mode, transport) → how many there are now."""
        self.came: Counter[tuple[str, str]] = Counter()
        """The same of all that have ever been."""

    def __len__(self) -> int:
        return self.there.total()

    def __iter__(self) -> Iterator[S]:
        for group in self._groups:
            yield from group

    def turn(self, at: int) -> Collection[S]:
        """One group; each socket is in one, for as long as it lives."""
        return self._groups[at % len(self._groups)]

    @property
    def turns(self) -> int:
        """How many groups there are."""
        return len(self._groups)

    @property
    def modes(self) -> Counter[str]:
        """How many there are now, by mode."""
        modes: Counter[str] = Counter()
        for (mode, _), count in self.there.items():
            modes[mode] += count
        return modes

    @property
    def owners(self) -> Collection[Owner]:
        """Whose they are: users, and tenants as such (:attr:`Owner.group`)."""
        return self._owners.keys()

    def of(self, owner: Owner) -> int:
        """How many are the owner's."""
        return self._owners.get(owner, 0)

    def add(self, socket: S) -> None:
        """A socket is there."""
        self._group(socket).add(socket)
        for owner in _owners(socket):
            self._owners[owner] += 1
        kind = _kind(socket)
        self.there[kind] += 1
        self.came[kind] += 1

    def discard(self, socket: S) -> None:
        """A socket is gone; twice is once."""
        group = self._group(socket)
        if socket not in group:
            return
        group.discard(socket)
        for owner in _owners(socket):
            self._owners[owner] -= 1
            if not self._owners[owner]:
                del self._owners[owner]
        self.there[_kind(socket)] -= 1

    def _group(self, socket: S) -> set[S]:
        return self._groups[hash(socket.connection_id) % len(self._groups)]


def _kind(socket: Connected) -> tuple[str, str]:
    return socket.opening.mode.value, socket.transport


def _owners(socket: Connected) -> tuple[Owner, ...]:
    owner = socket.identity.owner
    group = owner.group
    return (owner,) if group is None else (owner, group)
