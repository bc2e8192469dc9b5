"""What an agent asks its user: how a question is known again, and how its answer is waited for.

The id of a question is made of what it says and of how often the run has asked that, so an attempt
that asks what a lost one has asked gets the answer that was given to that.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from agents_sdk.errors import InputExpired, Reason, RunStopped
from agents_sdk.outages import delays
from broker import events
from broker.composer import ask_seconds
from broker.errors import BrokerUnavailable, PublishError, Refused
from broker.redis.steering import Asked, Look

if TYPE_CHECKING:
    from agents_sdk.emitter import Emitter
    from agents_sdk.host import Host

LOOKS_PER_LEASE: Final = 3
"""An answer whose notice was lost is found with the next look: as a stop is, by the renewal."""

SOON_SECONDS: Final = 0.05
"""Redis decides what is too late, by its own clock; this process's may be a little ahead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question. ``seconds``: for how long it can be answered."""

    request_id: str
    prompt: str
    schema: dict[str, Any] | None
    seconds: float

    @property
    def payload(self) -> dict[str, Any]:
        """What its ``input_required`` says of it."""
        told: dict[str, Any] = {"request_id": self.request_id, "prompt": self.prompt}
        return told if self.schema is None else told | {"schema": self.schema}


class Questions:
    """The questions of one run, in one attempt."""

    def __init__(self, emitter: Emitter, host: Host) -> None:
        self._emitter, self._host = emitter, host
        self._asked: Counter[str] = Counter()

    async def ask(
        self, prompt: str, *, schema: dict[str, Any] | None, expires_seconds: float | None
    ) -> Any:
        """The user's answer. See :meth:`agents_sdk.run.Run.ask`."""
        question = self._question(prompt, schema, expires_seconds)
        claim = self._emitter.claim
        self._host.listen(claim, self._emitter.news.tell)
        try:
            # What a lost attempt asked and nobody has answered is asked again, with all its time.
            look = await self._look(question) if claim.attempt > 1 else Look(Asked.UNKNOWN)
            if look.asked is not Asked.ANSWERED:
                look = await self._outcome(question)
        except BaseException:
            # Cancelled above all, by a time limit of the agent's own for example: nobody waits for
            # the answer, so nobody is to be told that it has arrived.
            self._host.take_back(claim, question.request_id)
            raise
        if look.asked is Asked.EXPIRED:
            raise InputExpired(run_id=claim.run_id, prompt=prompt, seconds=question.seconds)
        return look.answer

    def _question(
        self, prompt: str, schema: dict[str, Any] | None, expires_seconds: float | None
    ) -> Question:
        limits = self._emitter.limits
        seconds = ask_seconds(
            expires_seconds, default=limits.input_seconds, longest=limits.history_ttl_seconds
        )
        said = events.to_json(events.INPUT_REQUIRED, [prompt, schema])
        digest = sha256(said).hexdigest()[:16]
        self._asked[digest] += 1
        return Question(
            request_id=f"{digest}-{self._asked[digest]}",
            prompt=prompt,
            schema=schema,
            seconds=seconds,
        )

    async def _outcome(self, question: Question) -> Look:
        """Ask, and again should a failover take the question back, until it is answered or late."""
        with self._emitter.news.listening() as news:
            while True:
                event = self._emitter.ask(question)
                while event.id is None:
                    with suppress(PublishError):  # it is said when Redis is back; nothing is urgent
                        await self._emitter.confirmed(event)
                look = await self._closed(question, news)
                if look.asked is not Asked.UNKNOWN:
                    return look

    async def _closed(self, question: Question, news: asyncio.Event) -> Look:
        """What became of it, once it is not open any more."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + question.seconds
        most = self._emitter.limits.lease_seconds / LOOKS_PER_LEASE
        while True:
            news.clear()
            look = await self._look(question)
            if look.asked is not Asked.OPEN:
                return look
            with suppress(TimeoutError):
                async with asyncio.timeout(min(most, max(SOON_SECONDS, deadline - loop.time()))):
                    await news.wait()

    async def _look(self, question: Question) -> Look:
        """Through outages of Redis: it alone knows whether there is an answer."""
        waits = delays()
        while True:
            self._emitter.check()
            try:
                return await self._host.look(self._emitter.claim, question.request_id)
            except BrokerUnavailable:
                await asyncio.sleep(next(waits))
            except Refused as refused:
                run_id = self._emitter.claim.run_id
                raise RunStopped(run_id=run_id, reason=Reason.LOST) from refused
