"""How long a chat that was aborted is waited for, by the test and not by the clock."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import pytest

from gateway import chat_socket
from tests.support.clients import eventually

HELD_SECONDS: Final = 3599.0
"""Nothing else waits for as long."""


class HeldStops:
    """Holds the looks that follow aborts of resumed requests, from now on in this event loop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        call_later = loop.call_later
        self._looks: list[tuple[Callable[..., None], str, Callable[[str], None]]] = []

        def hold(
            delay: float, callback: Callable[..., None], *given: Any, **named: Any
        ) -> asyncio.TimerHandle:
            if delay == HELD_SECONDS:
                self._looks.append((callback, *given))
                return asyncio.TimerHandle(loop.time() + delay, callback, given, loop)
            return call_later(delay, callback, *given, **named)

        monkeypatch.setattr(chat_socket, "RESUMED_SECONDS", HELD_SECONDS)
        monkeypatch.setattr(loop, "call_later", hold)

    @property
    def held(self) -> int:
        """How many aborts there were whose time is not over."""
        return len(self._looks)

    async def over(self) -> list[str]:
        """The time after the next abort is over: which runs are stopped."""
        await eventually(lambda: self.held > 0)
        look, run_id, stop = self._looks.pop(0)
        stopped: list[str] = []

        def noted(which: str) -> None:
            stopped.append(which)
            stop(which)

        look(run_id, noted)
        return stopped
