"""``runcast chat`` and ``runcast tail``: a chat client whose page is the terminal."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import orjson
from rich.console import Console

from broker import events
from gateway.client import ChatClient
from gateway.console import show_delta, show_event
from gateway.replies import Questions, Replies
from gateway.requests import CONTROL


async def ask(
    client: ChatClient,
    content: str,
    *,
    thread: str | None,
    agent: str | None,
    as_json: bool,
    replies: Replies,
) -> bool:
    """Send one message and print its run's events; whether the run succeeded.

    What the run asks is answered by ``replies``.

    :raises Unanswered: they do not know an answer. The run waits on.
    """
    screen = _Screen(as_json=as_json)
    async with client as chat:
        run = await chat.send(content, thread_id=thread, agent=agent)
        questions = Questions(chat.answer, replies)
        reading = asyncio.create_task(_read(chat, run.id, screen, questions))
        try:
            await asyncio.wait({reading, questions.failed}, return_when=asyncio.FIRST_COMPLETED)
            return await (reading if reading.done() else questions.failed)
        finally:
            reading.cancel()
            questions.end()


async def _read(chat: ChatClient, run_id: str, screen: _Screen, questions: Questions) -> bool:
    async for event in chat.events():
        told = event["type"] in CONTROL  # a resync, or an error that nobody awaits
        if not told and run_id not in (event.get("run_id"), event.get("parent_run_id")):
            continue
        screen.show(event)
        questions.note(event)
        if event["type"] == events.AGENT_COMPLETED and event["run_id"] == run_id:
            payload: dict[str, Any] = event.get("payload") or event["data"]
            return bool(payload["status"] == "succeeded")
    return False


async def follow(client: ChatClient, *, as_json: bool) -> None:
    """Print every event of the client's channel, until cancelled."""
    screen = _Screen(as_json=as_json)
    async with client as chat:
        async for event in chat.events():
            screen.show(event)


class _Screen:
    """Standard output: one JSON object per line, or lines for people with streamed text between."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._console = Console(highlight=False)
        self._streamed: tuple[str, int] | None = None

    def show(self, event: dict[str, Any]) -> None:
        if self._as_json:
            sys.stdout.write(f"{orjson.dumps(event).decode()}\n")
            sys.stdout.flush()
            return
        if event["type"] == events.AGENT_DELTA:
            self._delta(event)
            return
        if self._streamed is not None:
            self._console.print()
            if event["type"] == events.AGENT_COMPLETED and event["run_id"] == self._streamed[0]:
                # The response has just been read as it was written.
                event = {**event, "payload": {**event["payload"], "response": None}}
            self._streamed = None
        show_event(self._console, event)

    def _delta(self, event: dict[str, Any]) -> None:
        payload, run_id = event["payload"], event["run_id"]
        if self._streamed != (run_id, payload["offset"]):
            if self._streamed is not None:
                self._console.print()
            if payload["offset"] != 0:
                return  # the gateway sends all of it again
        show_delta(self._console, event)
        self._streamed = (run_id, payload["next"])
