"""What is said by code that cannot wait: callbacks, plain functions, other threads.

One line for all of them: what is posted is taken in the order of posting, in the run's loop, and
before anything that the run says there afterwards. So a tool that ran in a thread has its
``tool_completed`` before the model that reads its result is asked.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from broker.errors import RuncastError

if TYPE_CHECKING:
    from agents_sdk.emitter import Emitter

log = structlog.get_logger(__name__)


class Posts:
    """Posting is for any thread; taking belongs to the loop.

    What is posted of a run that was told to end is left out. What is refused is logged: nobody is
    there to be told. After a text that was refused no more is taken: it would not be the text.
    """

    __slots__ = ("_emitter", "_taking", "_text_refused", "_waiting")

    def __init__(self, emitter: Emitter) -> None:
        self._emitter = emitter
        self._waiting: deque[Callable[[], object]] = deque()
        self._taking = self._text_refused = False

    def event(self, event_type: str, payload: Mapping[str, Any]) -> None:
        """Post one of the five, in plain or full form."""
        self.add(partial(self._emitter.say, event_type, payload))

    def text(self, text: str) -> None:
        """Post streamed text."""
        self.add(partial(self._append, text))

    def add(self, say: Callable[[], object]) -> None:
        """Have ``say`` called in its turn: at once, if this is the loop's own thread."""
        self._waiting.append(say)
        if is_running(self._emitter.loop):
            self.take()
        else:
            with suppress(RuntimeError):  # the loop is closed, and the run with it
                self._emitter.loop.call_soon_threadsafe(self.take)

    def take(self) -> None:
        """Say all that was posted."""
        if self._taking:
            return
        self._taking = True
        try:
            while self._waiting:
                self._say(self._waiting.popleft())
        finally:
            self._taking = False

    def _say(self, say: Callable[[], object]) -> None:
        if self._emitter.told is not None:
            return
        try:
            say()
        except RuncastError as refusal:
            log.warning("post_refused", run_id=self._emitter.claim.run_id, why=str(refusal))

    def _append(self, text: str) -> None:
        if text and not self._text_refused:
            self._text_refused = True
            self._emitter.append(text)
            self._text_refused = False


def is_running(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether this code runs in that loop."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
