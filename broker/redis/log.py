"""Reading a channel's log: pages, what lies around a cursor, where it ends, and streamed text."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from broker.channels import Channel
from broker.codec import Entry, from_log, unreadable
from broker.cursor import LAST, ZERO, Cursor, from_redis
from broker.errors import BrokerUnavailable
from broker.events import encode_delta
from broker.redis.connection import Command
from broker.redis.store import Store, unavailable_if_refused
from broker.replay import Glance

PAGE: Final = 128
"""Entries per read: a page of the largest events stays well under Redis' output limits."""


@dataclass(frozen=True, slots=True)
class Text:
    """The streamed text of one run; ``head`` is the run's part of an event header."""

    run_id: str
    thread_id: str
    agent: str
    head: bytes
    text: bytes

    def until(self, size: int) -> Text:
        """Its first ``size`` bytes, or fewer: all there are, and never a part of a character."""
        return replace(self, text=self.text[:size].decode(errors="ignore").encode())

    def delta(self, offset: int) -> Entry:
        """The text from byte ``offset`` on, as one live delta."""
        body, following = encode_delta(
            run_id=self.run_id,
            thread_id=self.thread_id,
            agent_name=self.agent,
            offset=offset,
            text=self.text[offset:].decode(),
        )
        header = b"- %d %b %d agent_delta" % (following, self.head, offset)
        return Entry(header, body)


class Log(Store):
    """The truth, read."""

    @unavailable_if_refused
    async def read(
        self, channel: Channel, after: Cursor, *, most: int = PAGE
    ) -> tuple[list[Entry], bool]:
        """Entries after ``after``, oldest first, and whether the log ended there."""
        if after == LAST:  # nothing lies above; Redis refuses it as a bound
            return [], True
        reply = await self.client.execute("XRANGE", channel.log, f"({after}", "+", "COUNT", most)
        entries: list[Entry] = []
        for each in reply:
            entries.append(_entry(each, entries[-1].id if entries else after.raw))
        return entries, len(reply) < most

    @unavailable_if_refused
    async def resume(self, channel: Channel, cursor: Cursor) -> list[Entry] | None:
        """A page of what follows ``cursor``, oldest first; None when the log does not have it."""
        reply = await self.client.execute(
            "XRANGE", channel.log, str(cursor), "+", "COUNT", PAGE + 1
        )
        if not reply or reply[0][0] != cursor.raw:
            return None
        entries: list[Entry] = []
        for each in reply[1:]:
            entries.append(_entry(each, entries[-1].id if entries else cursor.raw))
        return entries

    @unavailable_if_refused
    async def glance(
        self, channel: Channel, cursor: Cursor, trail: Sequence[Cursor] = ()
    ) -> Glance:
        """What :func:`~broker.replay.judge` needs to know about a ``cursor``.

        ``trail``: the positions that led to it, if they are known, oldest first.
        """
        log = channel.log
        below = (
            "0-0" if cursor == ZERO else f"({cursor}"
        )  # nothing lies below; Redis refuses "(0-0"
        client = self.client
        here, oldest, before, newest, (seconds, micros), *led = await asyncio.gather(
            client.submit("XRANGE", log, str(cursor), str(cursor)),
            client.submit("XRANGE", log, "-", "+", "COUNT", 1),
            client.submit("XREVRANGE", log, below, "-", "COUNT", 1),
            client.submit("XREVRANGE", log, "+", "-", "COUNT", 1),
            client.submit_to(log, "TIME"),
            *[client.submit("XRANGE", log, str(each), str(each)) for each in trail],
        )
        return Glance(
            found=bool(here),
            oldest=_first(oldest),
            before=_first(before),
            newest=_first(newest),
            shared=next(
                (each for each, found in zip(trail[::-1], led[::-1], strict=True) if found), None
            ),
            whole=not oldest or oldest[0][1][1].startswith(b"0-0 "),
            now_ms=int(seconds) * 1000 + int(micros) // 1000,
        )

    async def ends(self, channels: Sequence[Channel]) -> list[Cursor | None]:
        """The last id of each log, ``0-0`` when empty, None when it cannot be read now; pipelined.

        :class:`~broker.errors.BrokerUnavailable` when Redis is there for none of them.
        """
        asked = [("XREVRANGE", channel.log, "+", "-", "COUNT", 1) for channel in channels]
        replies = await self.client.submit_many(asked, keep_errors=True)
        away = [reply for reply in replies if isinstance(reply, BrokerUnavailable)]
        if away and len(away) == len(replies):
            raise away[0]
        return [
            None if isinstance(reply, BaseException) else _first(reply) or ZERO for reply in replies
        ]

    @staticmethod
    def state_questions(channel: Channel) -> tuple[Command, Command]:
        """What :meth:`state` asks for."""
        return ("XREVRANGE", channel.log, "+", "-", "COUNT", 1), ("SMEMBERS", channel.open)

    @unavailable_if_refused
    async def state(
        self, channel: Channel, replies: Sequence[Any] | None = None
    ) -> tuple[Cursor, list[str]]:
        """The last id of the channel's log, and its runs that have not ended.

        ``replies`` to :meth:`state_questions`, when they were asked elsewhere.
        """
        if replies is None:
            replies = await self.client.execute_many(self.state_questions(channel))
        newest, runs = replies
        return _first(newest) or ZERO, [run.decode(errors="replace") for run in runs]

    @unavailable_if_refused
    async def open_texts(self, channel: Channel) -> list[Text]:
        """The streamed text so far of every open run of the channel that has any."""
        runs = await self.client.execute("SMEMBERS", channel.open)
        return await self.texts(channel, [run.decode(errors="replace") for run in runs])

    async def texts(self, channel: Channel, runs: Sequence[str]) -> list[Text]:
        """The same of these runs."""
        texts = await asyncio.gather(*[self.text(channel, run) for run in runs])
        return [text for text in texts if text is not None]

    @unavailable_if_refused
    async def text(self, channel: Channel, run_id: str) -> Text | None:
        """A run's streamed text; None when there is none (any more)."""
        partition = channel.partition
        words, text = await self.client.execute_many(
            [
                ("HMGET", self.keys.run(partition, run_id), "head", "agent", "thread"),
                ("GET", self.keys.text(partition, run_id)),
            ]
        )
        head, agent, thread = words
        if head is None or agent is None or thread is None or not text:
            return None
        try:
            found = Text(run_id, thread.decode(), agent.decode(), head, text)
            found.delta(0)
        except ValueError:  # not what a worker wrote; the terminal event has the response
            return None
        return found


def _entry(raw: Any, prev: bytes) -> Entry:
    """``prev``: the entry before it as read, for one that does not say so itself."""
    try:
        return from_log(raw[0], raw[1][1])
    except ValueError:
        return unreadable(raw[0], prev)


def _first(reply: Sequence[Any]) -> Cursor | None:
    return from_redis(reply[0][0]) if reply else None
