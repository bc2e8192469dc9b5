"""One connection's commands, carried out one after the other, whatever they are.

A task lives only while there are commands. Whatever goes wrong is answered; the next command comes
all the same.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Final

import structlog

from broker.errors import BrokerUnavailable
from gateway import close_codes
from gateway.credentials import AuthError, KeyMissing
from gateway.session import Command, FrameError

if TYPE_CHECKING:
    from gateway.websocket import WebSocket

log = structlog.get_logger(__name__)

MAX_QUEUED_COMMANDS: Final = 64
"""Commands waiting on one connection; beyond that the client is not read from."""

_OURS: Final = frozenset({"broker_unavailable", "internal"})


class CommandQueue(ABC):
    """One connection's commands."""

    __slots__ = ("_commands", "_task", "socket")

    def __init__(self, socket: WebSocket) -> None:
        self.socket = socket
        self._commands: deque[Command] = deque()
        self._task: asyncio.Task[None] | None = None

    @abstractmethod
    async def carry_out(self, command: Command) -> None:
        """Do it; :class:`FrameError` when it cannot be done."""

    @abstractmethod
    def is_message(self, command: Command) -> bool:
        """Whether it is something to begin a run with."""

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
        structlog.contextvars.bind_contextvars(
            connection=self.socket.connection_id, user=self.socket.identity.owner.pseudonym
        )
        try:
            while self._commands:
                command = self._commands.popleft()
                try:
                    await self.carry_out(command)
                except FrameError as error:
                    error.ref = command.ref
                    self.socket.refuse(error)
                    self._check_flood(command, error)
                except Exception:
                    log.exception("command_failed", command=type(command).__name__)
                    self.socket.refuse(
                        FrameError("internal", "it was logged", ref=command.ref, bad=False)
                    )
                self.socket.resume_reading()
        finally:
            self._task = None

    def _check_flood(self, command: Command, error: FrameError) -> None:
        """Whoever goes on sending what is refused is sent away; not for what is our doing."""
        if not self.is_message(command) or error.code in _OURS:
            return
        if self.socket.node.admission.flooded(self.socket.identity):
            self.socket.close(close_codes.TOO_MANY)

    async def renew(self, token: str) -> bool:
        """A new token for the same subject. False: it is somebody else's, and the socket closed."""
        socket = self.socket
        try:
            identity = await socket.node.verifier.authenticate(token, time.time())
            await socket.node.revocations.check(identity)
            socket.node.revocations.recheck(identity)
        except BrokerUnavailable:
            raise unavailable() from None
        except AuthError as error:
            log.info("refresh_refused", reason=error.log_reason, token_hash=error.token_hash)
            if isinstance(error, KeyMissing):
                raise unavailable() from None
            raise FrameError("not_allowed", "the token is not valid", bad=False) from None
        forbidden = identity.modes is not None and socket.opening.mode not in identity.modes
        if identity.owner != socket.identity.owner or forbidden or identity.operator:
            socket.close(close_codes.FORBIDDEN)
            return False
        socket.identity = identity
        socket.renewed()
        return True


def unavailable() -> FrameError:
    """Redis is away."""
    return FrameError("broker_unavailable", "try again in a moment", retryable=True, bad=False)
