"""A process full of chat clients: ``python -m gateway.bench.crowd``, for the bench alone.

One JSON object per line comes in on standard input, and one goes out for each on standard output.
It ends when its input does, so it cannot outlive the bench.
"""

from __future__ import annotations

import asyncio
import sys
import time
from array import array
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

import orjson
import uvloop

from gateway.bench.account import Faults
from gateway.bench.histogram import Histogram
from gateway.bench.member import Member, Refused, Tabs
from gateway.bench.wire import Target

LONGEST_LINE: Final = 1 << 27
"""A line has the tokens of all users of a process."""


class Crowd:
    """The members, and what can be asked of them."""

    def __init__(self) -> None:
        self._members: dict[int, list[Member]] = {}
        self._took_ns: array[int] = array("q")
        self._tabs: list[Tabs] = []
        self._target: Target | None = None

    async def join(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Connect new members. ``users``: [number, id, token, how many connections]."""
        self._target = Target(**asked["target"])
        new: list[Member] = []
        for user, user_id, token, size in asked["users"]:
            tabs = Tabs(size) if size > 1 else None
            if tabs is not None:
                self._tabs.append(tabs)
            members = [Member(user, user_id, token, self._took_ns, tabs) for _ in range(size)]
            self._members.setdefault(user, []).extend(members)
            new += members
        return await self._connect(new, asked["at_once"], lambda _: None)

    async def resume(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Bring those who were dropped back; level when they have all that was published."""
        published = asked["published"]
        back = [each for user in asked["users"] for each in self._members.get(user, ())]
        return await self._connect(back, asked["at_once"], lambda each: published[each.user])

    async def _connect(
        self, members: list[Member], at_once: int, goal: Callable[[Member], int | None]
    ) -> dict[str, Any]:
        gate = asyncio.Semaphore(at_once)
        target = self._target
        assert target is not None  # noqa: S101 - the first command is join

        async def one(member: Member) -> int:
            async with gate:
                return await member.connect(target, goal=goal(member))

        tasks = [asyncio.create_task(one(member)) for member in members]
        try:
            took = await asyncio.gather(*tasks)
        except (Refused, OSError) as error:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            return {"refused": _told(error)}
        return {"ns": took}

    async def owed(self, asked: dict[str, Any]) -> dict[str, Any]:
        """How many events have not come yet; a member that was closed will get none any more."""
        published = asked["published"]
        return {
            "owed": sum(
                each.account.owed(published[each.user])
                for each in self._everybody()
                if each.closed is None
            )
        }

    async def take(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The durations since the last time, and this process's CPU seconds so far."""
        del asked
        took, to_all = Histogram(), Histogram()
        took.add_all(self._took_ns)
        del self._took_ns[:]
        for tabs in self._tabs:
            to_all.add_all(tabs.all_ns)
            del tabs.all_ns[:]
        return {
            "took": [*took.counts.items()],
            "to_all": [*to_all.counts.items()],
            "cpu": time.process_time(),
        }

    async def close(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Close the accounts of a measure."""
        published = asked["published"]
        faults, codes = Faults(), Counter[int]()
        for each in self._everybody():
            faults += each.account.close(published[each.user])
            if each.closed is not None and not each.closed_told:
                codes[each.closed] += 1
                each.closed_told = True
        faults += Faults(closed=codes.total())
        return {"faults": _as_dict(faults), "codes": [*codes.items()]}

    async def drop(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Lose the connections of these users."""
        for user in asked["users"]:
            for each in self._members.get(user, ()):
                each.drop()
        return {}

    async def leave(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Close the connections of these users for good."""
        for user in asked["users"]:
            for each in self._members.pop(user, ()):
                each.leave()
        return {}

    def _everybody(self) -> list[Member]:
        return [each for members in self._members.values() for each in members]


def _as_dict(faults: Faults) -> dict[str, int]:
    return {name: getattr(faults, name) for name in Faults.__dataclass_fields__}


def _told(error: Exception) -> dict[str, Any]:
    if isinstance(error, Refused):
        return {"status": error.status, "code": error.code, "detail": error.detail}
    number = error.errno if isinstance(error, OSError) else None
    detail = "no answer in time" if isinstance(error, TimeoutError) else str(error)
    return {"status": None, "code": "", "detail": detail, "errno": number}


async def _serve() -> None:
    crowd = Crowd()
    verbs: dict[str, Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]] = {
        verb.__name__: verb
        for verb in (
            crowd.join, crowd.resume, crowd.owed, crowd.take, crowd.close, crowd.drop, crowd.leave,
        )
    }  # fmt: skip
    reader = asyncio.StreamReader(limit=LONGEST_LINE)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        asked = orjson.loads(line)
        answer = await verbs[asked["do"]](asked)
        sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve())
