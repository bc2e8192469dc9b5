"""What one connection's commands do (protocol section 6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.channels import Channel, Level
from broker.cursor import ZERO, Cursor
from broker.errors import BrokerUnavailable
from broker.events import timestamp
from gateway import session
from gateway.command_queue import CommandQueue, unavailable
from gateway.commands import DEADLINE_SECONDS, new_id
from gateway.feed import Feed
from gateway.message_trace import Acceptance, accepting
from gateway.messages import message_of
from gateway.resync import Beginning
from gateway.session import Command, FrameError

if TYPE_CHECKING:
    from gateway.websocket import WebSocket


class Conversation(CommandQueue):
    """The commands of protocol 3."""

    __slots__ = ("_thread",)

    def __init__(self, socket: WebSocket) -> None:
        super().__init__(socket)
        self._thread = socket.opening.thread_id

    def is_message(self, command: Command) -> bool:
        """Whether it is something to begin a run with."""
        return isinstance(command, session.SendMessage)

    async def carry_out(self, command: Command) -> None:
        """Do it, and answer it."""
        commands, owner = self.socket.node.commands, self.socket.identity.owner
        match command:
            case session.SendMessage():
                await self._send_message(command)
            case session.StopAgent():
                await commands.stop(owner, command.run_id)
                self.socket.answer("ok", command.ref, {})
            case session.Attach():
                await self._attach(command)
            case session.Detach():
                await self._detach(command)
            case session.UserInput():
                await commands.answer(owner, command.run_id, command.request_id, command.content)
                self.socket.answer("ok", command.ref, {})
            case session.AuthRefresh():
                await self._refresh(command)

    async def _send_message(self, command: session.SendMessage) -> None:
        node, opening = self.socket.node, self.socket.opening
        identity = self.socket.identity
        fixed = self.socket.thread is not None or opening.level is Level.STANDARD
        if fixed and command.thread_id not in (None, opening.thread_id):
            raise FrameError(
                "not_allowed", f"this connection is for thread {opening.thread_id}", bad=False
            )
        if command.thread_id is None and self._thread is None:
            self._thread = new_id()
        message = message_of(
            node,
            identity,
            opening,
            command,
            connection_id=self.socket.connection_id,
            thread_id=command.thread_id or self._thread or "",
        )
        with accepting(node.tracing, message, node_id=node.node_id) as acceptance:
            await self._begin(command, acceptance)

    async def _begin(self, command: session.SendMessage, acceptance: Acceptance) -> None:
        node, message = self.socket.node, acceptance.message
        try:
            spec = await node.commands.agent(command.agent)
        except FrameError as error:
            if error.code == "unknown_agent" and not node.ready:
                # Redis has just come back, perhaps empty: the workers announce themselves again.
                raise unavailable() from None
            raise
        own_feed: Feed | None = None
        if self.socket.opening.level is Level.STRICT:
            own_feed = await self._open(message.channel)
            self.socket.join(own_feed, Beginning(ZERO))
        # What the run publishes from now on waits until the client knows which run it is.
        self.socket.hold()
        try:
            registered = await node.commands.register(message, spec)
            acceptance.accepted(registered)
            if not registered.duplicate:
                node.tally.accept(message.owner.tenant)
            elif own_feed is not None:
                self.socket.leave(own_feed)
                await self._read_run(registered.run_id, ZERO, bad_cursor=False)
            self.socket.answer_first("run_accepted", command.ref, registered.told)
        except FrameError:
            if own_feed is not None:
                self.socket.leave(own_feed)
            raise
        finally:
            self.socket.let_go()
        await node.commands.enqueue(registered, spec, message.owner)

    async def _attach(self, command: session.Attach) -> None:
        if self.socket.opening.level is not Level.STRICT:
            raise FrameError("not_allowed", "attach is for factory strict connections", bad=False)
        # ``ok`` comes first, and then the replay.
        self.socket.hold()
        try:
            feed = await self._read_run(
                command.run_id, command.after, bad_cursor=command.bad_cursor
            )
            self.socket.answer_first("ok", command.ref, _at(feed))
        finally:
            self.socket.let_go()

    async def _detach(self, command: session.Detach) -> None:
        node, owner = self.socket.node, self.socket.identity.owner
        channel = await node.commands.channel(owner, command.run_id)
        feed = node.relay.hub.feed(channel)
        if self.socket.opening.level is not Level.STRICT or feed not in self.socket.feeds:
            raise FrameError("run_not_found", "not attached to this run", bad=False)
        self.socket.leave(feed)
        self.socket.answer("ok", command.ref, _at(feed))

    async def _refresh(self, command: session.AuthRefresh) -> None:
        if await self.renew(command.token):
            expires_at = timestamp(int(self.socket.identity.expires_at * 1000))
            self.socket.answer("ok", command.ref, {"expires_at": expires_at})

    async def _read_run(self, run_id: str, after: Cursor | None, *, bad_cursor: bool) -> Feed:
        """Read a run's channel too, unless this connection does so already."""
        node, owner = self.socket.node, self.socket.identity.owner
        channel = await node.commands.channel(owner, run_id)
        if channel.scope is not self.socket.opening.scope:
            raise FrameError("run_not_found", f"no strict run of yours is {run_id}", bad=False)
        feed = await self._open(channel)
        if feed in self.socket.feeds:
            return feed
        try:
            beginning = await node.relay.begin(feed, after, bad_cursor=bad_cursor)
        except BrokerUnavailable:
            raise unavailable() from None
        if beginning.resync is not None:
            self.socket.send(beginning.resync.frame())
        self.socket.join(feed, beginning)
        return feed

    async def _open(self, channel: Channel) -> Feed:
        try:
            relay = self.socket.node.relay
            return await relay.open(channel, timeout_seconds=DEADLINE_SECONDS)
        except BrokerUnavailable:
            raise unavailable() from None


def _at(feed: Feed) -> dict[str, Any]:
    return {"cursor": str(feed.follower.position)}
