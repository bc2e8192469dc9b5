"""Thousands of clients at one place, in a process of their own, and what they got for the judge."""

import asyncio
import json
import math
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.support.clients import PATIENCE_SECONDS
from tests.support.history import Epoch, Place, Reader
from tests.support.servers import token

ANSWER_BYTES = 1 << 20


@dataclass(frozen=True)
class Kept:
    """One connection of one client; moments are of the monotonic clock, None: it did not happen."""

    opened: float
    live_at: float | None
    draining_at: float | None
    code: int | None
    status: int | None
    after: str | None
    frames: Sequence[dict[str, Any]]

    @property
    def live(self) -> float:
        """When it was live; for ever later when it was not."""
        return math.inf if self.live_at is None else self.live_at

    @property
    def gone(self) -> float:
        """When its gateway sent the client away; 0 when it did not."""
        return self.draining_at or 0.0

    @property
    def back_seconds(self) -> float:
        """After how long its draining gateway told the client to come back."""
        told: int = next(f["payload"]["reconnect_after_ms"] for f in self.frames if _drains(f))
        return told / 1000


@dataclass
class Crowd:
    """``users`` have one client each. :attr:`kept` and :attr:`readers` are there at the end."""

    users: Sequence[str]
    process: asyncio.subprocess.Process
    kept: dict[str, list[Kept]] = field(default_factory=dict)
    readers: list[Reader] = field(default_factory=list)

    async def until(self, name: str, *, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until all of them are ``live``, or ``ended``: have heard the end of their run."""
        deadline = asyncio.get_running_loop().time() + seconds
        while (told := await self._ask())[name] < len(self.users):
            late = asyncio.get_running_loop().time() > deadline
            assert not late, f"{told[name]} of {len(self.users)} are {name}: {told}"
            await asyncio.sleep(0.1)

    async def close(self, file: Path) -> None:
        """They go, and what they got is here."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert await self.process.wait() == 0
        for told in await asyncio.to_thread(_read, file):
            user, connections = told["user"], told["connections"]
            kept = [_kept(**each) for each in connections]
            self.kept[user] = kept
            epochs = [Epoch(each.after, each.frames) for each in kept if each.frames]
            self.readers.append(
                Reader(f"{user} of the crowd", Place("user", user), epochs, connected=told["live"])
            )

    def connections(self) -> Iterator[Kept]:
        for kept in self.kept.values():
            yield from kept

    def returns(self) -> Iterator[tuple[Kept, Kept]]:
        """A connection that a draining gateway ended, and the one after it."""
        for kept in self.kept.values():
            for before, next_one in pairwise(kept):
                if before.draining_at is not None:
                    yield before, next_one

    def longest_away(self) -> float:
        """Seconds from a draining gateway's goodbye until that client was live again."""
        away = 0.0
        for kept in self.kept.values():
            for number, each in enumerate(kept):
                if each.draining_at is not None:
                    away = max(away, min(after.live for after in kept[number + 1 :]) - each.gone)
        return away

    async def _ask(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"\n")
        told: dict[str, Any] = json.loads(await self.process.stdout.readline())
        assert not told["broken"], told
        return told


@asynccontextmanager
async def crowd(base: str, users: Sequence[str], folder: Path) -> AsyncIterator[Crowd]:
    """All of them are live when this is entered."""
    place = urlsplit(base)
    handle, name = tempfile.mkstemp(prefix="crowd-", dir=folder)
    os.close(handle)
    file = Path(name)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.crowd_client", str(place.hostname), str(place.port),
        str(file), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        limit=ANSWER_BYTES, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    try:
        assert process.stdin is not None
        tokens = {user: token(user, ttl_seconds=3600) for user in users}
        process.stdin.write(json.dumps(tokens).encode() + b"\n")
        everybody = Crowd(users, process)
        await everybody.until("live", seconds=2 * PATIENCE_SECONDS)
        yield everybody
        await everybody.close(file)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _drains(frame: dict[str, Any]) -> bool:
    return bool(frame["type"] == "draining")


def _read(file: Path) -> list[dict[str, Any]]:
    with file.open() as lines:
        return list(map(json.loads, lines))


def _kept(*, frames: Sequence[str], **rest: Any) -> Kept:
    return Kept(**rest, frames=[json.loads(each) for each in frames])
