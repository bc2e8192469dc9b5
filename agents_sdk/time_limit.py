"""An agent's ``timeout_seconds``: the time that it takes, without the time that its user takes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class TimeLimit:
    """Calls ``expired`` once, after so many seconds in which nobody was waited for.

    ``seconds``: ``None`` = never. One for a run and its sub-agents: while any of them waits for the
    user, the time stands still.
    """

    def __init__(self, seconds: float | None, expired: Callable[[], object]) -> None:
        self._left, self._expired = seconds, expired
        self._waiting = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """The time counts from now on."""
        if self._left is not None and self._waiting == 0:
            self._timer = asyncio.get_running_loop().call_later(self._left, self._expired)

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """It does not count inside."""
        if self._waiting == 0:
            self._stop()
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
            self.start()

    def end(self) -> None:
        """The agent is done."""
        self._stop()
        self._left = None

    def _stop(self) -> None:
        if self._timer is not None and self._left is not None:
            self._timer.cancel()
            self._left = max(0.0, self._timer.when() - asyncio.get_running_loop().time())
            self._timer = None
