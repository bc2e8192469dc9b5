"""What the requests of an AI SDK chat do: begin a run, answer it, read it again, stop it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from broker.errors import BrokerUnavailable
from gateway import run_reading
from gateway.chats import answer, begun_by, open_run
from gateway.command_queue import CommandQueue, unavailable
from gateway.dialects.ai_sdk import AiSdk
from gateway.dialects.ai_sdk_request import Abort, Answer, Resume, Send
from gateway.run_reading import Reading
from gateway.session import Command, FrameError

if TYPE_CHECKING:
    from gateway.chat_socket import ChatSocket


class ChatConversation(CommandQueue):
    """The requests of one :class:`~gateway.chat_socket.ChatSocket`."""

    __slots__ = ("_chat", "_stops")

    def __init__(self, socket: ChatSocket) -> None:
        super().__init__(socket)
        self._chat = socket
        self._stops: set[asyncio.Task[None]] = set()

    def is_message(self, command: Command) -> bool:
        """Whether it is something to begin a run with."""
        return isinstance(command, Send)

    async def carry_out(self, command: Command) -> None:
        """Do it, and answer it."""
        chat, ref = self._chat, command.ref or ""
        if isinstance(command, Abort):
            chat.abort(ref, self._stop)
            return
        chat.admit(ref)
        if isinstance(command, Send | Answer | Resume):
            if command.token is not None and not await self.renew(command.token):
                return
            try:
                reading = await self._reading(command)
            except BrokerUnavailable:
                raise unavailable() from None
            if reading is None:
                chat.tell("no-active", ref)
            else:
                chat.read(ref, reading, resumed=isinstance(command, Resume))

    async def _reading(self, command: Send | Answer | Resume) -> Reading | None:
        socket = self.socket
        node, owner, opening = socket.node, socket.identity.owner, socket.opening
        last = None
        match command:
            case Send():
                message = begun_by(node, socket.identity, opening, command.message)
                return await run_reading.of_message(node, message, speak=AiSdk)
            case Answer():
                await answer(node, owner, command)
                run_id, last = command.run_id, command.position
            case Resume():
                found = command.run_id or await open_run(
                    node, owner, command.chat, agent=self._chat.agent, scope=opening.scope
                )
                if found is None:
                    return None
                run_id = found
        return await run_reading.of_run(
            node, owner, run_id, scope=opening.scope, speak=AiSdk, last=last
        )

    def _stop(self, run_id: str) -> None:
        """Ask it to stop; whoever aborted does not hear of it, so nobody waits for the answer."""
        task = asyncio.get_running_loop().create_task(self._stopped(run_id))
        self._stops.add(task)
        task.add_done_callback(self._stops.discard)

    async def _stopped(self, run_id: str) -> None:
        try:
            await self.socket.node.commands.stop(self.socket.identity.owner, run_id)
        except FrameError as error:
            self.socket.node.tally.refuse(error.code, self.socket.identity.owner.tenant)
