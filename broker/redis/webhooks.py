"""The outbox of webhooks: what the scripts put in, read, taken out, or put aside.

Each partition has one, in the slot of its users, so that an event and its place in the outbox are
one write. A run knows from its registration which of its events go in (``register.lua``,
``publish.lua``); where no gateway has told so in the last days, nothing does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from broker.codec import Entry, from_live
from broker.redis import scripts
from broker.redis.store import Store

KEPT_SECONDS: Final = 7 * 86_400
"""How long events wait for a gateway with a webhook to come back, and stay where they were put
aside; for so long runs that begin without such a gateway still put their events in, too."""

PAGE: Final = 16
"""Entries per read of one outbox: they may be as large as events can be."""

Place = tuple[int, bytes]
"""A partition, and the id of an entry of its outbox."""


class Webhooks(Store):
    """What whoever posts to the webhook asks for."""

    async def want(self, events: Sequence[str], *, most: int) -> None:
        """Have these types of events of runs that begin from now on go into the outbox.

        ``most``: how many wait in one partition; further ones are counted, and dropped.
        """
        types = " ".join(events)
        commands: list[Sequence[bytes | str | int]] = []
        for partition in range(self.keys.partitions):
            wanted, outbox = (
                self.keys.webhooks_wanted(partition),
                self.keys.webhooks_outbox(partition),
            )
            told = b"%b %b %d %d %b " % (outbox, wanted, most, KEPT_SECONDS, types.encode())
            commands.append(("HSET", wanted, "events", told))
            commands.append(("EXPIRE", wanted, KEPT_SECONDS))
            commands.append(("EXPIRE", outbox, KEPT_SECONDS))
        await self.client.execute_many(commands)

    async def take_dropped(self) -> int:
        """How many events found no room since the last call; they are counted once."""
        dropped = [
            int(count or 0)
            for count in await self.client.execute_many(
                [
                    ("HGET", self.keys.webhooks_wanted(partition), "dropped")
                    for partition in range(self.keys.partitions)
                ]
            )
        ]
        await self.client.execute_many(
            [
                ("HINCRBY", self.keys.webhooks_wanted(partition), "dropped", -count)
                for partition, count in enumerate(dropped)
                if count
            ]
        )
        return sum(dropped)

    def outbox_connections(self) -> list[object]:
        """Over which connection each partition's outbox is read; equal while it is the same."""
        keys = self.keys
        return [
            self.client.connection_to(keys.webhooks_outbox(partition))
            for partition in range(keys.partitions)
        ]

    async def outboxes(
        self, after: Sequence[tuple[int, bytes]]
    ) -> list[list[tuple[bytes, Entry | None]]]:
        """A page of each partition's outbox: what is behind that id, oldest first.

        None stands for what is no event.
        """
        replies = await self.client.execute_many(
            [
                ("XRANGE", self.keys.webhooks_outbox(partition), start, "+", "COUNT", PAGE)
                for partition, start in [(each, _behind(last)) for each, last in after]
            ]
        )
        return [[(found[0], _event(found[1])) for found in reply] for reply in replies]

    async def outbox_entry(self, place: Place) -> Entry | None:
        """The event in this place. ``LookupError`` when it is gone; None when it is no event."""
        partition, entry_id = place
        outbox = self.keys.webhooks_outbox(partition)
        reply = await self.client.execute("XRANGE", outbox, entry_id, entry_id)
        return _event(reply[0][1])

    async def take_out(self, place: Place) -> None:
        """It was delivered. Twice is harmless."""
        await self.client.execute("XDEL", self.keys.webhooks_outbox(place[0]), place[1])

    async def put_aside(self, place: Place, why: str, *, most: int) -> None:
        """It will not be delivered: keep it, with the reason, among the ``most`` last of these."""
        partition, entry_id = place
        await self._run_script(
            scripts.ASIDE,
            [self.keys.webhooks_outbox(partition), self.keys.webhooks_aside(partition)],
            [entry_id, why, most, KEPT_SECONDS],
        )


def _behind(entry_id: bytes) -> bytes:
    return b"(" + entry_id if entry_id else b"-"


def _event(fields: Sequence[bytes]) -> Entry | None:
    try:
        return from_live(fields[1])
    except (ValueError, IndexError):
        return None
