"""One chat client of the bench: a socket, and the account of what comes over it."""

from __future__ import annotations

import asyncio
import base64
import os
import struct
import time
from array import array
from typing import Any, Final, cast

import orjson

from gateway.bench import wire
from gateway.bench.account import Account, read_mark

LOST_WITHOUT_CODE: Final = 1006
CONNECT_SECONDS: Final = 20.0
"""For one connection; behind a full backlog the kernel tries again after 1, 3 and 7 s."""

LEVEL_SECONDS: Final = 10.0
"""From ``live`` to the last event missed: ten times what a slow gateway needs for its log."""

_EVENT: Final = b'{"id":'
_CURSOR: Final = slice(len(_EVENT) + 1, None)


class Refused(Exception):
    """The gateway did not upgrade; ``status`` 0 when there was no HTTP answer."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        self.status, self.code, self.detail = status, code, detail
        super().__init__(detail)


class Tabs:
    """When the last of one user's connections has an event."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._had: dict[int, int] = {}
        self.all_ns: array[int] = array("q")

    def heard(self, number: int, took_ns: int) -> None:
        """One of them got the event, so long after it was sent."""
        had = self._had.get(number, 0) + 1
        if had < self._size:
            self._had[number] = had
            return
        self._had.pop(number, None)
        self.all_ns.append(took_ns)


class Member(asyncio.Protocol):
    """One user's connection. It can be made again after :meth:`drop`, and then resumes.

    :param took_ns: where publish-to-receive durations are collected, by all members.
    """

    def __init__(
        self, user: int, user_id: str, token: str, took_ns: array[int], tabs: Tabs | None = None
    ) -> None:
        self.user, self.user_id, self.token = user, user_id, token
        self.account = Account()
        self.closed: int | None = None
        self.closed_told = False
        self._owner = b'"user_id":"%b"' % user_id.encode()
        self._took_ns, self._tabs = took_ns, tabs
        self._transport: asyncio.Transport | None = None
        self._last = b""
        self._cursor = ""
        self._reset()

    def _reset(self) -> None:
        self._rest = b""
        self._upgraded = self._dropped = self._is_live = False
        self._live: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._goal = 0
        self._level: asyncio.Future[None] | None = None

    # --- what the crowd asks

    async def connect(self, target: wire.Target, *, goal: int | None = None) -> int:
        """Connect, resume if it was there before; nanoseconds until it is live and level.

        ``goal``: how many events the user has had by then; what does not come is not waited for
        any longer than :data:`LEVEL_SECONDS`, and the account tells it. Raises :class:`Refused` or
        OSError (``TimeoutError`` is one).
        """
        self._reset()
        loop = asyncio.get_running_loop()
        if goal is not None:
            self._goal, self._level = goal, loop.create_future()
        begun = time.monotonic_ns()
        async with asyncio.timeout(CONNECT_SECONDS):
            transport, _ = await loop.create_connection(
                lambda: self, target.host, target.port, ssl=target.tls or None
            )
            key = base64.b64encode(os.urandom(16)).decode()
            path = f"{target.path}?after={self._cursor}" if self._cursor else target.path
            transport.write(
                wire.handshake(host=target.authority, target=path, token=self.token, key=key)
            )
            await self._live
        if self._level is not None:
            await asyncio.wait({self._level}, timeout=LEVEL_SECONDS)
        return time.monotonic_ns() - begun

    def drop(self) -> None:
        """Be gone, as a closed laptop is: without a close frame."""
        self._keep_cursor()
        self._dropped = True
        if self._transport is not None:
            self._transport.abort()

    def leave(self) -> None:
        """Close as a tab does."""
        self._dropped = True
        if self._transport is not None:
            payload = struct.pack(">H", 1000)
            self._transport.write(wire.frame(wire.CLOSE, payload, os.urandom(4)))
            self._transport.close()

    def _keep_cursor(self) -> None:
        if self._last:
            self._cursor = self._last[_CURSOR].partition(b'"')[0].decode()

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Whole frames are read as they come."""
        now = time.monotonic_ns()
        data = self._rest + data if self._rest else data
        try:
            if not self._upgraded:
                answer = wire.answer(data)
                if answer is None:
                    self._rest = data
                    return
                data = self._upgrade(answer)
            frames, self._rest = wire.split(data)
        except wire.NotSpoken as error:
            self._fail(Refused(0, "no_gateway", str(error)))
            return
        for opcode, payload in frames:
            if opcode == wire.TEXT:
                self._text(payload, now)
            elif opcode == wire.PING and self._transport is not None:
                self._transport.write(wire.frame(wire.PONG, payload, os.urandom(4)))
            elif opcode == wire.CLOSE:
                self.closed = struct.unpack_from(">H", payload)[0] if payload else LOST_WITHOUT_CODE
        if self._level is not None:
            self._see_level()

    def connection_lost(self, exc: Exception | None) -> None:
        """Gone; unless it was the bench's doing, that is a fault."""
        self._transport = None
        if not self._upgraded and self._rest:
            try:
                answer = wire.answer(self._rest, ended=True)
                if answer is not None:
                    self._upgrade(answer)
            except wire.NotSpoken as error:
                self._fail(Refused(0, "no_gateway", str(error)))
        elif not self._dropped and self.closed is None:
            self.closed = LOST_WITHOUT_CODE
        self._fail(Refused(0, "lost", str(exc or "the connection was closed")))

    # --- inside

    def _upgrade(self, answer: wire.Answer) -> bytes:
        if answer.body or answer.status != 101:  # noqa: PLR2004 - Switching Protocols
            try:
                problem = orjson.loads(answer.body)
            except orjson.JSONDecodeError:
                problem = None
            told: dict[str, Any] = problem if isinstance(problem, dict) else {}
            code, detail = str(told.get("code", "")), str(told.get("detail", ""))
            self._fail(Refused(answer.status, code, detail))
            return b""
        self._upgraded = True
        return answer.rest

    def _text(self, payload: bytes, now: int) -> None:
        if not payload.startswith(_EVENT):
            self._control(payload)
            return
        mark = read_mark(payload)
        if mark is None or mark.user != self.user or self._owner not in payload:
            self.account.misdelivered()
            return
        took_ns = now - mark.sent_ns
        self._took_ns.append(took_ns)
        if self._tabs is not None:
            self._tabs.heard(mark.number, took_ns)
        self.account.heard(mark.number)
        self._last = payload

    def _control(self, payload: bytes) -> None:
        frame = orjson.loads(payload)
        kind = frame.get("type")
        if kind == "live":
            self._is_live = True
            if not self._last:
                self._cursor = frame["payload"]["cursor"]
            if not self._live.done():
                self._live.set_result(None)
        elif kind == "resync":
            self.account.resynced()

    def _see_level(self) -> None:
        level = self._level
        if level is None or level.done() or not self._is_live or self.account.owed(self._goal):
            return
        level.set_result(None)

    def _fail(self, why: Refused) -> None:
        for future in (self._live, self._level):
            if future is not None and not future.done():
                future.set_exception(why)
                future.exception()  # whoever awaits it is told; nobody else need be
        if self._transport is not None:
            self._transport.abort()
