"""What a run needs of the process that carries it: a worker, a publisher, or a test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from agents_sdk.emitter import Emitter
from agents_sdk.errors import Reason
from agents_sdk.voice import Sink, Voice
from broker.redis.records import Claim, RunRequest
from broker.redis.steering import Look


class Host(Protocol):
    """Opens runs, keeps their leases, and sees them off."""

    @property
    def sink(self) -> Sink:
        """Where events go."""

    @property
    def voice(self) -> Voice:
        """The installation's limits and this process's patience."""

    async def open_run(self, request: RunRequest) -> Claim:
        """Register a run that no client began, and claim it."""

    def hold(self, claim: Claim, notify: Callable[[Reason], None]) -> None:
        """Keep the lease of ``claim``; ``notify`` is called, on the loop, when it is to end."""

    def listen(self, claim: Claim, wake: Callable[[], None]) -> None:
        """Call ``wake``, on the loop, when the run's user may have answered, until it has left."""

    async def look(self, claim: Claim, request_id: str) -> Look:
        """What became of a question, in one attempt.

        :class:`~broker.errors.BrokerUnavailable`, or a :class:`~broker.errors.Refused` when the run
        is not this process's any more.
        """

    def take_back(self, claim: Claim, request_id: str) -> None:
        """Nobody waits for the answer any more. One attempt, and nobody waits for that either."""

    def leave(self, claim: Claim, emitter: Emitter) -> asyncio.Task[None]:
        """The run has ended here.

        The task is done once its last event is in the log, or the run is lost; only then the lease
        is let go. Cancelling who waits for it does not cancel it.
        """
