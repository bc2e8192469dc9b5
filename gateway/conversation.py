"""What one connection's commands do, carried out one after the other.

A task lives only while there are commands. Whatever goes wrong is answered; the next command comes
all the same.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import structlog

from broker.channels import Channel, Level
from broker.cursor import ZERO, Cursor
from broker.errors import BrokerUnavailable
from broker.events import timestamp
from gateway import close_codes, session
from gateway.commands import DEADLINE_SECONDS, new_id
from gateway.credentials import AuthError, KeyMissing
from gateway.feed import Feed
from gateway.messages import message_of
from gateway.resync import Beginning
from gateway.session import Command, FrameError

if TYPE_CHECKING:
    from gateway.websocket import WebSocket

log = structlog.get_logger(__name__)

MAX_QUEUED_COMMANDS: Final = 64
"""Commands waiting on one connection; beyond that the client is not read from."""

_OURS: Final = frozenset({"broker_unavailable", "internal"})


class Conversation:
    """One connection's commands."""

    __slots__ = ("_commands", "_socket", "_task", "_thread")

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._commands: deque[Command] = deque()
        self._task: asyncio.Task[None] | None = None
        self._thread = socket.opening.thread_id

    @property
    def full(self) -> bool:
        """Whether the client has asked for more than is done for it now."""
        return len(self._commands) > MAX_QUEUED_COMMANDS

    def add(self, command: Command) -> None:
        """Carry the command out when those before it are done."""
        self._commands.append(command)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())

    def end(self) -> None:
        """Nothing of what waits is begun any more; what is under way is finished."""
        self._commands.clear()

    async def _work(self) -> None:
        try:
            while self._commands:
                command = self._commands.popleft()
                try:
                    await self._carry_out(command)
                except FrameError as error:
                    error.ref = command.ref
                    self._socket.refuse(error)
                    self._check_flood(command, error)
                except Exception:
                    log.exception("command_failed", command=type(command).__name__)
                    self._socket.refuse(
                        FrameError("internal", "it was logged", ref=command.ref, bad=False)
                    )
                self._socket.resume_reading()
        finally:
            self._task = None

    def _check_flood(self, command: Command, error: FrameError) -> None:
        """Whoever goes on sending what is refused is sent away; not for what is our doing."""
        if not isinstance(command, session.SendMessage) or error.code in _OURS:
            return
        if self._socket.node.admission.flooded(self._socket.identity):
            self._socket.close(close_codes.TOO_MANY)

    async def _carry_out(self, command: Command) -> None:
        commands, owner = self._socket.node.commands, self._socket.identity.owner
        match command:
            case session.SendMessage():
                await self._send_message(command)
            case session.StopAgent():
                await commands.stop(owner, command.run_id)
                self._socket.answer("ok", command.ref, {})
            case session.Attach():
                await self._attach(command)
            case session.Detach():
                await self._detach(command)
            case session.UserInput():
                await commands.answer(owner, command.run_id, command.request_id, command.content)
                self._socket.answer("ok", command.ref, {})
            case session.AuthRefresh():
                await self._refresh(command)

    async def _send_message(self, command: session.SendMessage) -> None:
        node, opening = self._socket.node, self._socket.opening
        identity = self._socket.identity
        fixed = self._socket.thread is not None or opening.level is Level.STANDARD
        if fixed and command.thread_id not in (None, opening.thread_id):
            raise FrameError(
                "not_allowed", f"this connection is for thread {opening.thread_id}", bad=False
            )
        if command.thread_id is None and self._thread is None:
            self._thread = new_id()
        try:
            spec = await node.commands.agent(command.agent)
        except FrameError as error:
            if error.code == "unknown_agent" and not node.ready:
                # Redis has just come back, perhaps empty: the workers announce themselves again.
                raise _unavailable() from None
            raise
        message = message_of(
            node,
            identity,
            opening,
            command,
            connection_id=self._socket.connection_id,
            thread_id=command.thread_id or self._thread or "",
        )
        own_feed: Feed | None = None
        if opening.level is Level.STRICT:
            own_feed = await self._open(message.channel)
            self._socket.join(own_feed, Beginning(ZERO))
        # What the run publishes from now on waits until the client knows which run it is.
        self._socket.hold()
        try:
            registered = await node.commands.register(message, spec)
            if not registered.duplicate:
                node.tally.accept(identity.owner.tenant)
            elif own_feed is not None:
                self._socket.leave(own_feed)
                await self._read_run(registered.run_id, ZERO, bad_cursor=False)
            self._socket.answer_first("run_accepted", command.ref, registered.told)
        except FrameError:
            if own_feed is not None:
                self._socket.leave(own_feed)
            raise
        finally:
            self._socket.let_go()
        await node.commands.enqueue(registered, spec, identity.owner)

    async def _attach(self, command: session.Attach) -> None:
        if self._socket.opening.level is not Level.STRICT:
            raise FrameError("not_allowed", "attach is for factory strict connections", bad=False)
        # ``ok`` comes first, and then the replay.
        self._socket.hold()
        try:
            feed = await self._read_run(
                command.run_id, command.after, bad_cursor=command.bad_cursor
            )
            self._socket.answer_first("ok", command.ref, _at(feed))
        finally:
            self._socket.let_go()

    async def _detach(self, command: session.Detach) -> None:
        node, owner = self._socket.node, self._socket.identity.owner
        channel = await node.commands.channel(owner, command.run_id)
        feed = node.relay.hub.feed(channel)
        if self._socket.opening.level is not Level.STRICT or feed not in self._socket.feeds:
            raise FrameError("run_not_found", "not attached to this run", bad=False)
        self._socket.leave(feed)
        self._socket.answer("ok", command.ref, _at(feed))

    async def _refresh(self, command: session.AuthRefresh) -> None:
        socket = self._socket
        try:
            identity = await socket.node.verifier.authenticate(command.token, time.time())
            await socket.node.revocations.check(identity)
            socket.node.revocations.recheck(identity)
        except BrokerUnavailable:
            raise _unavailable() from None
        except AuthError as error:
            log.info("refresh_refused", reason=error.log_reason, token_hash=error.token_hash)
            if isinstance(error, KeyMissing):
                raise _unavailable() from None
            raise FrameError("not_allowed", "the token is not valid", bad=False) from None
        forbidden = identity.modes is not None and socket.opening.mode not in identity.modes
        if identity.owner != socket.identity.owner or forbidden or identity.operator:
            socket.close(close_codes.FORBIDDEN)
            return
        socket.identity = identity
        socket.renewed()
        expires_at = timestamp(int(identity.expires_at * 1000))
        socket.answer("ok", command.ref, {"expires_at": expires_at})

    async def _read_run(self, run_id: str, after: Cursor | None, *, bad_cursor: bool) -> Feed:
        """Read a run's channel too, unless this connection does so already."""
        node, owner = self._socket.node, self._socket.identity.owner
        channel = await node.commands.channel(owner, run_id)
        if channel.scope is not self._socket.opening.scope:
            raise FrameError("run_not_found", f"no strict run of yours is {run_id}", bad=False)
        feed = await self._open(channel)
        if feed in self._socket.feeds:
            return feed
        try:
            beginning = await node.relay.begin(feed, after, bad_cursor=bad_cursor)
        except BrokerUnavailable:
            raise _unavailable() from None
        if beginning.resync is not None:
            self._socket.send(beginning.resync.frame())
        self._socket.join(feed, beginning)
        return feed

    async def _open(self, channel: Channel) -> Feed:
        try:
            relay = self._socket.node.relay
            return await relay.open(channel, timeout_seconds=DEADLINE_SECONDS)
        except BrokerUnavailable:
            raise _unavailable() from None


def _at(feed: Feed) -> dict[str, Any]:
    return {"cursor": str(feed.follower.position)}


def _unavailable() -> FrameError:
    return FrameError("broker_unavailable", "try again in a moment", retryable=True, bad=False)
