"""A publisher of many users' events at a steady rate: ``python -m tests.support.pouring``.

Each user has one run, which is open until standard input ends. Every emission is noted in the
journal. The one line on standard output is ``{run id: user}``, once all runs are open.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import uvloop

from agents_sdk import Publisher, Run
from broker.config import load_settings
from tests.support.journal import FOLDER, Journal, emit_noted

THREAD: Final = "poured"
"""Of all of its runs."""

OPENING_AT_ONCE: Final = 50


@dataclass
class Pouring:
    """``period_seconds``: between two events of one user."""

    publisher: Publisher
    users: int
    period_seconds: float
    journal: Journal = field(default_factory=lambda: Journal(Path(os.environ[FOLDER])))
    runs: dict[str, str] = field(default_factory=dict)
    all_open: asyncio.Event = field(default_factory=asyncio.Event)
    begin: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    gate: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(OPENING_AT_ONCE))

    async def user(self, user: str, phase: float) -> None:
        """One user's run; ``phase``: where in the period its events are."""
        await self.gate.acquire()
        scope = self.publisher.run(user_id=user, agent_name="pouring", thread_id=THREAD)
        async with scope as run:
            self.gate.release()
            self.runs[run.id] = user
            if len(self.runs) == self.users:
                self.all_open.set()
            await self.begin.wait()
            await self._emit(run, time.monotonic() + phase * self.period_seconds)

    async def _emit(self, run: Run, due: float) -> None:
        """One event that waits makes the next ones later."""
        number = 0
        while not self.over.is_set():
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await emit_noted(run, self.journal, f"{run.id} {number}")
            due, number = max(due + self.period_seconds, time.monotonic()), number + 1


async def pour(users: list[str], per_second: float) -> None:
    async with Publisher(settings=load_settings()) as publisher:
        pouring = Pouring(publisher, len(users), len(users) / per_second)
        async with asyncio.TaskGroup() as group:
            for number, user in enumerate(users):
                group.create_task(pouring.user(user, number / len(users)))
            await pouring.all_open.wait()
            sys.stdout.write(json.dumps(pouring.runs) + "\n")
            sys.stdout.flush()
            pouring.begin.set()
            await asyncio.to_thread(sys.stdin.read)
            pouring.over.set()
    pouring.journal.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-second", type=float, required=True)
    parser.add_argument("users", nargs="+")
    asked = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(pour(asked.users, asked.per_second))
