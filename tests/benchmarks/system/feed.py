"""Prepared publishing: commands packed before the measurement, sent by ``native/publish.c``."""

import json
import struct
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.system.clients import MARKER
from tests.benchmarks.system.native import built

SATURATED: Final = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How commands leave: ``rate`` a second in bursts of ``burst``.

    Rate 0: as soon as fewer than ``window`` are unanswered.
    """

    rate: float = SATURATED
    burst: int = 1
    window: int = 1


class Feed:
    """A file of packed commands, sent part by part, each command once."""

    def __init__(
        self, path: Path, commands: Iterable[bytes], *, port: int, replies: bool = True
    ) -> None:
        self.path, self.port, self.replies = path, port, replies
        self.total = 0
        self.sent = 0
        with path.open("wb") as file:
            for command in commands:
                file.write(struct.pack("<I", len(command)) + command)
                self.total += 1

    def start(self, count: int, pace: Pace) -> "Sending":
        """Send the next ``count`` commands in a process of its own."""
        if self.sent + count > self.total:
            raise ValueError(f"{self.total - self.sent} commands are left, not {count}")
        words = [
            built("publish"), self.port, self.path, MARKER, pace.rate, pace.burst,
            pace.window if self.replies else 0, self.sent, count,
        ]  # fmt: skip
        self.sent += count
        return Sending(
            subprocess.Popen([str(word) for word in words], stdout=subprocess.PIPE, text=True)
        )

    def send(self, count: int, pace: Pace) -> dict[str, Any]:
        """The same, to the end."""
        return self.start(count, pace).finished()


class Sending:
    """Commands on their way."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def finished(self, *, seconds: float = 120.0) -> dict[str, Any]:
        """What was sent; RuntimeError when Redis refused any of it."""
        try:
            text, _ = self.process.communicate(timeout=seconds)
        finally:
            self.process.kill()
        told: dict[str, Any] = json.loads(text) if text else {}
        if self.process.returncode:
            raise RuntimeError(f"the publisher failed: {told}")
        return told
