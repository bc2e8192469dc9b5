"""All chat clients of the bench, spread over processes of their own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Final

import orjson

from broker.embedded import tethered
from gateway.bench.account import Faults
from gateway.bench.crowd import LONGEST_LINE
from gateway.bench.failure import BenchFailed, refusal
from gateway.bench.histogram import Histogram
from gateway.bench.installation import child_environment, wait_or_kill
from gateway.bench.plan import CONNECTING_AT_ONCE
from gateway.bench.wire import Target

_LOOK_SECONDS: Final = 0.02


@dataclass(frozen=True, slots=True)
class Heard:
    """What came since the last time it was asked: durations, and CPU seconds per process."""

    took: Histogram
    to_all: Histogram
    cpu: tuple[float, ...]


class Audience:
    """The clients, by their users' numbers."""

    def __init__(
        self, target: Target, *, url: str, own: bool, sign: Callable[[str], str], name: str
    ) -> None:
        self._target, self._url, self._own = target, url, own
        self._sign, self._name = sign, name
        self._processes: list[asyncio.subprocess.Process] = []
        self._closed: dict[int, int] = {}

    def user_id(self, user: int) -> str:
        """A name that nobody has."""
        return f"{self._name}-{user}"

    @property
    def closed(self) -> Mapping[int, int]:
        """Close code → how many connections ended with it without the bench's doing."""
        return self._closed

    async def start(self, processes: int) -> None:
        """Start the processes; they end with this one, however it ends."""
        command = [sys.executable, "-m", "gateway.bench.crowd"]
        for _ in range(processes):
            self._processes.append(
                await asyncio.create_subprocess_exec(
                    *tethered(command, signal.SIGKILL),
                    env=child_environment(),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    limit=LONGEST_LINE,
                    start_new_session=True,  # a Ctrl-C on the terminal is the bench's to handle
                )
            )

    async def stop(self) -> None:
        """End them: the connections close with them."""
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.close()
        for process in self._processes:
            await wait_or_kill(process)

    # --- connections

    async def join(self, users: Sequence[int], *, size: int = 1) -> Histogram:
        """Connect users that are not there yet, with ``size`` connections each; time to ``live``.

        :raises BenchFailed: one of them was refused.
        """
        rows = [(user, self.user_id(user), self._sign(self.user_id(user)), size) for user in users]
        return await self._connected(
            "join", lambda at: {"users": self._share(rows, at), "target": asdict(self._target)}
        )

    async def resume(self, users: Sequence[int], published: Sequence[int]) -> Histogram:
        """Bring users back who were dropped; the time until each has all that was published."""
        return await self._connected(
            "resume", lambda at: {"users": self._share(users, at), "published": published}
        )

    async def drop(self, users: Sequence[int]) -> None:
        """Lose the connections of these users."""
        await self._ask("drop", lambda at: {"users": self._share(users, at)})

    async def leave(self, users: Sequence[int]) -> None:
        """Close the connections of these users for good; nothing is asked of them any more."""
        await self._ask("leave", lambda at: {"users": self._share(users, at)})

    async def _connected(self, verb: str, asked: Callable[[int], dict[str, Any]]) -> Histogram:
        at_once = max(1, CONNECTING_AT_ONCE // len(self._processes))
        answers = await self._ask(verb, lambda at: {**asked(at), "at_once": at_once})
        took = Histogram()
        for answer in answers:
            if "refused" in answer:
                raise refusal(answer["refused"], url=self._url, own=self._own)
            took.add_all(answer["ns"])
        return took

    # --- what they heard

    async def level(self, published: Sequence[int], *, seconds: float) -> int:
        """Wait until everything has come, no longer than that; how many events have not."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while True:
            answers = await self._ask("owed", lambda _: {"published": published})
            owed: int = sum(answer["owed"] for answer in answers)
            if not owed or loop.time() > deadline:
                return owed
            await asyncio.sleep(_LOOK_SECONDS)

    async def take(self) -> Heard:
        """The durations since the last time."""
        took, to_all, cpu = Histogram(), Histogram(), []
        for answer in await self._ask("take", lambda _: {}):
            took.merge(Histogram(dict(answer["took"])))
            to_all.merge(Histogram(dict(answer["to_all"])))
            cpu.append(answer["cpu"])
        return Heard(took, to_all, tuple(cpu))

    async def close(self, published: Sequence[int]) -> Faults:
        """Close the accounts: what is owed now counts as lost."""
        faults = Faults()
        for answer in await self._ask("close", lambda _: {"published": published}):
            faults += Faults(**answer["faults"])
            for code, count in answer["codes"]:
                self._closed[code] = self._closed.get(code, 0) + count
        return faults

    # --- inside

    def _share(self, rows: Sequence[Any], at: int) -> list[Any]:
        """Those of process ``at``; a user is always in the same one."""
        count = len(self._processes)
        return [row for row in rows if (row if isinstance(row, int) else row[0]) % count == at]

    async def _ask(self, verb: str, asked: Callable[[int], dict[str, Any]]) -> list[dict[str, Any]]:
        asking = (
            self._ask_one(process, {"do": verb, **asked(at)})
            for at, process in enumerate(self._processes)
        )
        return list(await asyncio.gather(*asking))

    async def _ask_one(
        self, process: asyncio.subprocess.Process, asked: dict[str, Any]
    ) -> dict[str, Any]:
        line = b""
        if process.stdin is not None and process.stdout is not None:
            with suppress(ConnectionError):
                process.stdin.write(orjson.dumps(asked) + b"\n")
                await process.stdin.drain()
                line = await process.stdout.readline()
        if not line:
            raise BenchFailed(
                why=f"A process with clients (pid {process.pid}) has ended",
                todo="What it wrote stands above; with too little memory, use fewer --connections.",
            )
        answer: dict[str, Any] = orjson.loads(line)
        return answer


def how_many(cores: int, connections: int) -> int:
    """Client processes: half of the cores, and no more than there is work for."""
    return max(1, min(cores // 2, -(-connections // 250), os.cpu_count() or 1))
