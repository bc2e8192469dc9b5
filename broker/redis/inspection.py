"""Runs of anybody, for operators: where they are and how they are, never what was said in them.

Nothing here costs as much as there are runs: a page is asked for, and a run is looked up by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from broker.channels import Channel, Owner, Scope
from broker.errors import RunNotFound
from broker.lifecycle import State
from broker.redis.store import Store, unavailable_if_refused

_FIELDS: Final = (
    "owner", "agent", "thread", "scope", "name", "state", "status", "attempt", "worker", "seq",
    "sent", "stop", "held", "created", "started", "completed",
)  # fmt: skip
"""Of a run's hash. What its user said is in another field, which is not read."""


class Place(NamedTuple):
    """Where a page ended: a partition, and Redis' cursor in the set of its open runs."""

    partition: int
    cursor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSeen:
    """A run as an operator may see it; times by Redis' clock, in ms since 1970.

    ``held``: behind another run of its thread. ``events``: how many it has published; ``sent``:
    the letters of the five among them (:data:`~broker.lifecycle.FLAGS`).
    """

    run_id: str
    owner: Owner
    channel: Channel
    agent: str
    thread_id: str
    state: State
    status: str | None
    attempt: int
    worker: str | None
    events: int
    sent: str
    stop_requested: bool
    held: bool
    created_ms: int
    started_ms: int | None
    completed_ms: int | None


class Inspection(Store):
    """Looking at runs without knowing whose they are."""

    @unavailable_if_refused
    async def open_page(
        self, at: Place | None, *, most: int
    ) -> tuple[list[RunSeen], Place | None, int]:
        """Some of the open runs, where the next page begins, and how many there are of all.

        A page has about ``most`` runs, in no order; each run that is open all the while is on one
        of the pages, and may be on two.
        """
        partition, cursor = at or Place(0, 0)
        sizes = await self.client.execute_many(
            [("ZCARD", self.keys.leases(each)) for each in range(self.keys.partitions)]
        )
        asked: list[int] = []
        room = most
        for each in range(partition, self.keys.partitions):
            if sizes[each]:
                asked.append(each)
                room -= sizes[each]
            if room <= 0:
                break
        replies = await self.client.execute_many(
            [
                ("ZSCAN", self.keys.leases(each), cursor if each == partition else 0, "COUNT", most)
                for each in asked
            ]
        )
        found = [
            (each, run_id)
            for each, (_, members) in zip(asked, replies, strict=True)
            for run_id in dict.fromkeys(members[::2])
        ]
        # Of the partitions in between all was read, or a part: whichever comes first goes on.
        for each, (left, _) in zip(asked, replies, strict=True):
            if int(left):
                found = [pair for pair in found if pair[0] <= each]
                return await self._open(found), Place(each, int(left)), sum(sizes)
        following = asked[-1] + 1 if asked else self.keys.partitions
        end = not any(sizes[following:])
        return await self._open(found), None if end else Place(following, 0), sum(sizes)

    async def runs_called(self, run_id: str) -> list[RunSeen]:
        """The runs of this id, open or retained: ids are unique to a user, not among all of them.

        A run's partition is known by its user, so every partition is asked.
        """
        return await self._seen([(each, run_id) for each in range(self.keys.partitions)])

    async def run_seen(self, owner: Owner, run_id: str) -> RunSeen:
        """A run of this owner; RunNotFound for any other."""
        for run in await self._seen([(self.keys.partition(owner), run_id)]):
            if run.owner == owner:
                return run
        raise RunNotFound(subject=run_id)

    async def _open(self, found: Sequence[tuple[int, bytes]]) -> list[RunSeen]:
        named = [(each, run_id.decode(errors="replace")) for each, run_id in found]
        return [run for run in await self._seen(named) if run.state is not State.COMPLETED]

    @unavailable_if_refused
    async def _seen(self, named: Sequence[tuple[int, str]]) -> list[RunSeen]:
        """Those that are there."""
        stored = await self.client.execute_many(
            [("HMGET", self.keys.run(each, run_id), *_FIELDS) for each, run_id in named]
        )
        runs = [
            self._run(run_id, fields) for (_, run_id), fields in zip(named, stored, strict=True)
        ]
        return [run for run in runs if run is not None]

    def _run(self, run_id: str, stored: Sequence[bytes | None]) -> RunSeen | None:
        """None for what is none, whoever wrote it."""
        told = {
            name: value.decode(errors="replace")
            for name, value in zip(_FIELDS, stored, strict=True)
            if value is not None
        }
        try:
            owner = Owner.from_token(told["owner"])
            return RunSeen(
                run_id=run_id,
                owner=owner,
                channel=self.keys.channel(owner, Scope(told["scope"]), told["name"]),
                agent=told["agent"],
                thread_id=told["thread"],
                state=State(told["state"]),
                status=told.get("status"),
                attempt=int(told["attempt"]),
                worker=told.get("worker") or None,
                events=int(told["seq"]),
                sent=told.get("sent", ""),
                stop_requested="stop" in told,
                held="held" in told,
                created_ms=int(told["created"]),
                started_ms=_moment(told.get("started")),
                completed_ms=_moment(told.get("completed")),
            )
        except (ValueError, LookupError):
            return None


def _moment(text: str | None) -> int | None:
    return int(text) if text else None
