"""A channel's retained events, read in pages and not followed (protocol section 7).

What a page needs after a reload is put together from them: a thread's messages, and of each run
that has not ended what it has shown so far.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import orjson

from broker.channels import Channel, encode_id
from broker.codec import Entry
from broker.cursor import ZERO, Cursor
from broker.events import AGENT_COMPLETED, USER_MESSAGE
from broker.redis.broker import Broker
from broker.replay import judge
from gateway.frames import FIVE

MOST: Final = 500
"""Events per answer."""


async def page(
    broker: Broker,
    channel: Channel,
    *,
    after: Cursor,
    most: int,
    thread_id: str | None,
    lifecycle_only: bool,
) -> dict[str, Any]:
    """``{events, cursor, more, resync?}``: the channel's own events after a cursor, oldest first.

    ``cursor`` is a position in the whole log, so a filter may be changed between two pages.
    """
    told: dict[str, Any] = {}
    start = judge(after, await broker.glance(channel, after))
    if start.reason is not None:
        told["resync"] = {"reason": start.reason, "from": str(start.position)}
    position, more, events = start.position, True, list[Entry]()
    while more and len(events) < most:
        entries, end = await broker.read(channel, position, most=most)
        more = not end
        for entry in entries:
            if len(events) == most:
                more = True
                break
            position = entry.cursor
            if _is_wanted(entry, channel, thread_id, lifecycle_only=lifecycle_only):
                events.append(entry)
    shown = [orjson.Fragment(entry.text()) for entry in events]
    return {"events": shown, "cursor": str(position), "more": more, **told}


async def thread(broker: Broker, channel: Channel, thread_id: str) -> dict[str, Any]:
    """``{thread_id, messages, runs, cursor}``: what was said, and what is still being done.

    A run that has not ended comes with its events and its text so far; ``cursor`` is where to
    connect from to go on.
    """
    position, messages = ZERO, list[dict[str, Any]]()
    open_runs: dict[str, list[Any]] = {}
    async for entry in _all(broker, channel):
        position = entry.cursor
        if not _is_wanted(entry, channel, thread_id, lifecycle_only=False):
            continue
        event = orjson.loads(entry.text())
        run_id = event["run_id"]
        if entry.type == USER_MESSAGE.encode():
            open_runs[run_id] = []  # perhaps all that is said of it while it waits for a worker
            messages.append(_said(event, "user", event["payload"]["content"]))
        elif entry.type == AGENT_COMPLETED.encode():
            open_runs.pop(run_id, None)
            if "parent_run_id" not in event:
                messages.append(_said(event, "agent", event["payload"]["response"]))
        else:
            open_runs.setdefault(run_id, []).append(event)
    runs = [
        {**await broker.run(channel.owner, run_id), "events": events}
        for run_id, events in open_runs.items()
    ]
    return {
        "thread_id": thread_id,
        "messages": messages,
        "runs": runs,
        "cursor": str(position),
    }


async def _all(broker: Broker, channel: Channel) -> AsyncIterator[Entry]:
    position, end = ZERO, False
    while not end:
        entries, end = await broker.read(channel, position)
        for entry in entries:
            position = entry.cursor
            yield entry


def _is_wanted(
    entry: Entry, channel: Channel, thread_id: str | None, *, lifecycle_only: bool
) -> bool:
    # The owner is compared here as it is before every write to a socket.
    return (
        entry.owner == channel.owner.token.encode()
        and (thread_id is None or entry.thread == encode_id(thread_id).encode())
        and (not lifecycle_only or entry.type in FIVE)
    )


def _said(event: dict[str, Any], role: str, content: Any) -> dict[str, Any]:
    said = {
        "role": role,
        "content": content,
        "id": event["id"],
        "run_id": event["run_id"],
        "agent_name": event["agent_name"],
        "timestamp": event["timestamp"],
    }
    if role == "agent":
        said["status"] = event["payload"]["status"]
        if "error" in event["payload"]:
            said["error"] = event["payload"]["error"]
    else:
        said["message_id"] = event["payload"]["message_id"]
    return said
