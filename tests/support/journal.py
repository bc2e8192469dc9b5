"""Who was told what: a publisher's own notes on its emissions, which outlive its process.

One line when an emission is begun and one when its outcome is known. A line is one write to a file
opened for appending, so what was noted outlives SIGKILL.
"""

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Final, Self

from agents_sdk import Run, RunStopped
from broker.errors import PublishError, UsageError
from tests.support.history import Emission, Outcome

FOLDER: Final = "CHAOS_JOURNAL"
"""The environment variable that names the folder, for agents in a worker process."""


class Journal:
    """One process's notes, in a file of its own."""

    def __init__(self, folder: Path) -> None:
        flags = os.O_CREAT | os.O_APPEND | os.O_WRONLY
        self._file = os.open(folder / f"{os.getpid()}.jsonl", flags, 0o600)

    def note(self, run_id: str, marker: str, outcome: str, event_id: str | None = None) -> None:
        line = [run_id, marker, outcome, event_id, time.monotonic()]
        os.write(self._file, json.dumps(line).encode() + b"\n")

    def close(self) -> None:
        os.close(self._file)


class Notes:
    """All notes of a folder; :meth:`read` takes in what is new."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}
        self._found: dict[str, Emission] = {}
        self.begun: dict[str, float] = {}
        """Marker → when its emission began (monotonic clock)."""

    @property
    def emissions(self) -> list[Emission]:
        """What has no outcome is unknown: the publisher was killed, or waits still."""
        return list(self._found.values())

    def read(self) -> Self:
        for path in self._folder.glob("*.jsonl"):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                lines = file.read()
            whole = lines.rfind(b"\n") + 1
            self._read[path] = self._read.get(path, 0) + whole
            for line in lines[:whole].splitlines():
                self._take(*json.loads(line))
        return self

    def _take(
        self, run_id: str, marker: str, outcome: str, event_id: str | None, moment: float
    ) -> None:
        self.begun.setdefault(marker, moment)
        known = Outcome.UNKNOWN if outcome == "begun" else Outcome(outcome)
        self._found[marker] = Emission(run_id, marker, known, event_id or None)


async def emit_noted(run: Run, journal: Journal, marker: str) -> None:
    """One ``agent_thinking``, with its outcome noted as the SDK reports it."""
    journal.note(run.id, marker, "begun")
    try:
        event_id = await run.emit_event("agent_thinking", {"thoughts": marker})
    except PublishError:  # it is in the buffer and may still be sent
        journal.note(run.id, marker, Outcome.UNKNOWN)
    except RunStopped:  # before or after it was sent
        journal.note(run.id, marker, Outcome.UNKNOWN)
        raise
    except UsageError:
        journal.note(run.id, marker, Outcome.FAILED)
        raise
    else:
        journal.note(run.id, marker, Outcome.OK, event_id)


async def keep_emitting(run: Run, journal: Journal, *, count: int, per_second: float) -> None:
    """``count`` noted emissions, evenly spread, and text; one that waits makes the others later."""
    began = time.monotonic()
    for number in range(count):
        ahead = began + number / per_second - time.monotonic()
        await asyncio.sleep(max(0.0, ahead))
        await emit_noted(run, journal, f"{run.id} {run.attempt} {number}")
        await run.write(f"{number} è scritto; ")
