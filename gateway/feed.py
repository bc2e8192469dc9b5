"""What the hub knows of one channel and of those who read it. Pure.

Ten thousand of each fit into a gateway: what only some of them need is empty, or none, until then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from broker.channels import Channel
from broker.codec import Entry
from broker.cursor import ZERO
from broker.replay import Follower
from gateway.outbox import Outbox
from gateway.wires import Wire


class Member(Protocol):
    """A socket, as the hub sees it.

    ``thread``: only this thread's events, encoded; None = all. ``whole``: a WebSocket that gets
    every event of its channels as it is, so none of the three before has to be looked at.
    ``floors``: of runs whose text was given as a snapshot, up to where; None = of no run.
    """

    owner: bytes
    thread: bytes | None
    lifecycle_only: bool
    wire: Wire
    whole: bool
    outbox: Outbox
    floors: dict[bytes, int] | None


Batch = Sequence[tuple[bytes, bytes, bytes]]
"""Events as header, body and frame."""


@dataclass(slots=True, eq=False)
class Joining:
    """A socket that is being fed from the log until it is level with the channel.

    ``deltas``: those heard while the kept texts are fetched; ``ended``: the runs that ended then,
    as far as it was heard or read. ``doubted``: the log may not have its position any more.
    ``starved``: it did not get all of the text, so it has to be fed again. ``waits``: it has all,
    and the feed is not as far yet.
    """

    follower: Follower
    deltas: list[Entry] | None = None
    doubted: bool = False
    starved: bool = False
    waits: bool = False
    ended: set[bytes] = field(default_factory=set)


@dataclass(slots=True)
class Missed:
    """Deltas heard while the kept text of their run is read, from the one on that showed a hole.

    ``void``: another attempt has begun since, so nobody knows of which one the text was read.
    """

    deltas: list[Entry] = field(default_factory=list)
    void: bool = False


@dataclass(slots=True, eq=False)
class Feed:
    """One channel that this gateway listens to.

    ``texts``: bytes of streamed text heard of, by open run. ``missed_texts``: of runs whose kept
    text is being read. ``batch``: events heard in this read and not delivered yet, of a channel
    with many readers. ``seen``: where it was at the last tick of the tail check, and
    ``quiet_ticks``: for how many it has been there.
    """

    channel: Channel
    owner: bytes
    follower: Follower = field(default_factory=lambda: Follower(ZERO))
    live: dict[Member, None] = field(default_factory=dict)
    joining: dict[Member, Joining] = field(default_factory=dict)
    texts: dict[bytes, int] = field(default_factory=dict)
    open_runs: dict[bytes, None] = field(default_factory=dict)
    missed_texts: dict[bytes, Missed] = field(default_factory=dict)
    batch: list[tuple[bytes, bytes, bytes]] = field(default_factory=list)
    seen: bytes = b""
    quiet_ticks: int = 0

    @property
    def idle(self) -> bool:
        """Nobody reads it."""
        return not self.live and not self.joining

    @property
    def whose(self) -> dict[str, str]:
        """Its channel, for a log."""
        return {"user": self.channel.owner.pseudonym, "scope": self.channel.scope}

    def is_quiet(self) -> bool:
        """Asked once a tick: for one tick, and for every second one from then on."""
        if self.follower.raw != self.seen:
            self.seen = self.follower.raw
            self.quiet_ticks = 0
            return False
        self.quiet_ticks += 1
        return self.quiet_ticks % 2 == 1
