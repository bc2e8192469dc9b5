"""The connections of one gateway that do not take what they are sent (promise G7).

Pure: whoever has a clock looks at all sockets every few seconds, some at a time, and what was seen
goes into the gateway's report.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator, Mapping
from typing import Any, ClassVar, Final, Protocol, TypeVar

from gateway.claims import Identity
from gateway.handshake import Opening
from gateway.outbox import Outbox

LEAST_BYTES: Final = 16 * 1024
"""Unsent beyond what the kernel takes: of less, a peer that reads is behind for a moment."""

MOST_TOLD: Final = 50
"""In one gateway's report: it goes into Redis every few seconds."""

AT_ONCE: Final = 1000
"""Sockets looked at before others have their turn of the event loop."""

_FIELDS: Final[Mapping[str, type]] = {
    "connection_id": str, "tenant": str, "user_id": str, "mode": str, "transport": str,
    "unsent_bytes": int, "lagging": bool, "since": float,
}  # fmt: skip


class Unsent(Protocol):
    """A socket, as it is looked at."""

    transport: ClassVar[str]
    identity: Identity
    opening: Opening
    connection_id: str
    outbox: Outbox

    @property
    def unsent(self) -> int:
        """Bytes that the peer has not taken yet."""


S_co = TypeVar("S_co", bound=Unsent, covariant=True)


class InTurns(Protocol[S_co]):
    """Where they are (:class:`~gateway.sockets.Sockets`)."""

    @property
    def turns(self) -> int:
        """In how many groups."""

    def turn(self, at: int) -> Collection[S_co]:
        """One of them."""


class SlowClients:
    """What the last look saw."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self.unsent_bytes = 0
        self.told: list[dict[str, Any]] = []
        """Those with most bytes unsent, at most :data:`MOST_TOLD`, the worst first."""

    @property
    def figures(self) -> dict[str, Any]:
        """As a report has it."""
        return {
            "total": len(self._since),
            "unsent_bytes": self.unsent_bytes,
            "connections": self.told,
        }

    def look(self, sockets: InTurns[Unsent], now: float) -> Iterator[None]:
        """Look at all of them, until exhausted; whoever asks may do something else in between."""
        found: list[dict[str, Any]] = []
        total = seen = 0
        for turn in range(sockets.turns):
            for socket in list(sockets.turn(turn)):
                seen += 1
                unsent = socket.outbox.size + socket.unsent
                total += unsent
                if unsent >= LEAST_BYTES or socket.outbox.stalled:
                    found.append(self._row(socket, unsent, now))
            if seen >= AT_ONCE:
                seen = 0
                yield
        self._since = {each["connection_id"]: each["since"] for each in found}
        self.unsent_bytes = total
        self.told = heapq.nlargest(MOST_TOLD, found, key=lambda each: int(each["unsent_bytes"]))

    def _row(self, socket: Unsent, unsent: int, now: float) -> dict[str, Any]:
        owner = socket.identity.owner
        return {
            "connection_id": socket.connection_id,
            "tenant": owner.tenant,
            "user_id": owner.user,
            "mode": socket.opening.mode.value,
            "transport": socket.transport,
            "unsent_bytes": unsent,
            "lagging": socket.outbox.stalled,
            "since": self._since.get(socket.connection_id, now),
        }


def slow_of(stored: Mapping[str, Any]) -> dict[str, Any]:
    """What a gateway reported; ``TypeError`` or ``AttributeError`` for what is no such thing."""
    rows = stored.get("connections", [])
    numbers = {name: stored.get(name, 0) for name in ("total", "unsent_bytes")}
    sound = all(
        row.keys() == _FIELDS.keys()
        and all(isinstance(row[name], kind) for name, kind in _FIELDS.items())
        for row in rows
    )
    if not sound or not all(isinstance(number, int) for number in numbers.values()):
        raise TypeError("not what a gateway reports")
    return {**numbers, "connections": rows}
