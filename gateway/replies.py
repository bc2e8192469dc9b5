"""What ``runcast chat`` answers when the run asks: what was given with it, or what is typed."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson

from broker import events
from gateway.client_errors import Rejected, Unanswered


class Replies:
    """``given`` first, one for each question; then, if ``typed``, lines of standard input."""

    def __init__(self, given: Sequence[str], *, typed: bool) -> None:
        self._given = list(given)
        self._typed = typed
        self._lines: asyncio.Queue[str] | None = None

    async def to(self, question: Mapping[str, Any]) -> Any:
        """The answer to the payload of an ``input_required``.

        :raises Unanswered: nothing is left, and nobody is there.
        """
        if self._given:
            return meant(self._given.pop(0), question.get("schema"))
        if not self._typed:
            raise Unanswered(question["prompt"], question["expires_at"])
        lines = self._reading()
        while not lines.empty():  # typed before it was asked: for another question, come too late
            lines.get_nowait()
        sys.stdout.write("  > ")
        sys.stdout.flush()
        line = await lines.get()
        if not line:
            raise Unanswered(question["prompt"], question["expires_at"])
        return meant(line.rstrip("\n"), question.get("schema"))

    def _reading(self) -> asyncio.Queue[str]:
        """The lines typed; the last one is empty.

        They are read by a thread that nobody waits for: the run may end, or be answered elsewhere,
        while the terminal is still asked.
        """
        if self._lines is None:
            self._lines = asyncio.Queue()
            reading = (asyncio.get_running_loop(), self._lines)
            threading.Thread(target=_read_lines, args=reading, daemon=True).start()
        return self._lines


class Questions:
    """What a run asks, answered one at a time; what is answered elsewhere is not asked here.

    ``failed`` gets the error when there is no answer, or no way to give it.
    """

    def __init__(
        self, answer: Callable[[str, str, object], Awaitable[None]], replies: Replies
    ) -> None:
        self._give, self._replies = answer, replies
        self._open: dict[tuple[str, str], Mapping[str, Any]] = {}
        self._answering: tuple[tuple[str, str], asyncio.Task[None]] | None = None
        self.failed: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def note(self, event: Mapping[str, Any]) -> None:
        """An event of the run, or of one of its sub-agents."""
        kind = event["type"]
        if kind == events.INPUT_REQUIRED:
            self._open[event["run_id"], event["payload"]["request_id"]] = event
        elif kind == events.USER_INPUT:
            self._close((event["run_id"], event["payload"]["request_id"]))
        elif kind in (events.AGENT_STARTED, events.AGENT_COMPLETED):
            for question in [each for each in self._open if each[0] == event["run_id"]]:
                self._close(question)
        self._go_on()

    def end(self) -> None:
        """No more answers."""
        if self._answering is not None:
            self._answering[1].cancel()
        if self.failed.done():
            self.failed.exception()  # the run has ended first: it does not matter any more
        self.failed.cancel()

    def _go_on(self) -> None:
        if self._answering is None and self._open:
            question = next(iter(self._open))
            task = asyncio.create_task(self._answer(question, self._open[question]))
            self._answering = question, task
            task.add_done_callback(self._answered)

    async def _answer(self, question: tuple[str, str], event: Mapping[str, Any]) -> None:
        payload = event["payload"]
        # Both by the worker's clock, whatever this one's says.
        asked, until = (
            datetime.fromisoformat(each) for each in (event["timestamp"], payload["expires_at"])
        )
        async with asyncio.timeout((until - asked).total_seconds()):
            content = await self._replies.to(payload)
        await self._give(*question, content)

    def _close(self, question: tuple[str, str]) -> None:
        self._open.pop(question, None)
        if self._answering is not None and self._answering[0] == question:
            self._answering[1].cancel()
            self._answering = None

    def _answered(self, task: asyncio.Task[None]) -> None:
        if self._answering is not None and self._answering[1] is task:
            self._close(self._answering[0])
        error = None if task.cancelled() else task.exception()
        if error is None or isinstance(error, Rejected | TimeoutError):
            self._go_on()  # refused: somebody else was faster, or it was too late
        elif not self.failed.done():
            self.failed.set_exception(error)


def meant(text: str, schema: Mapping[str, Any] | None) -> Any:
    """What was typed, as what is asked for: its JSON value, unless a string is wanted."""
    if schema is None or schema.get("type") == "string":
        return text
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _read_lines(loop: asyncio.AbstractEventLoop, lines: asyncio.Queue[str]) -> None:
    # Not sys.stdin: a thread that waits in it holds a lock that the interpreter wants at its end.
    pending = b""
    while data := os.read(0, 4096):
        *whole, pending = (pending + data).split(b"\n")
        for line in whole:
            loop.call_soon_threadsafe(lines.put_nowait, f"{line.decode(errors='replace')}\n")
    loop.call_soon_threadsafe(lines.put_nowait, pending.decode(errors="replace"))
