"""A process's tie to Redis for carrying runs; what :class:`Worker` and :class:`Publisher` share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, get_args

import structlog

from agents_sdk.emitter import Emitter
from agents_sdk.errors import Reason
from agents_sdk.ids import new_id
from agents_sdk.leases import Leases
from agents_sdk.outages import delays
from agents_sdk.voice import Voice
from broker import tracing
from broker.channels import Keys
from broker.config import Durability, Settings
from broker.errors import (
    BrokerUnavailable,
    ConfigurationError,
    PublishError,
    Refused,
)
from broker.redis.broker import Broker, Limits
from broker.redis.records import AgentSpec, Claim, RunRequest
from broker.redis.steering import Look
from broker.redis.topology import new_client, new_subscriber

log = structlog.get_logger(__name__)

START_SECONDS: Final = 10.0
"""How long a start waits for Redis."""


class Link:
    """One process's connections, the leases that it keeps, and its ear for stop notices.

    Implements :class:`~agents_sdk.host.Host`.
    """

    def __init__(self, settings: Settings, *, kind: str, publish_timeout_seconds: float) -> None:
        if settings.redis_url is None:
            raise ConfigurationError(
                setting="RUNCAST_REDIS_URL",
                why=f"a {kind} needs the Redis that its gateways use, and none is given",
                todo="Set it, for example to redis://127.0.0.1:6379 (`runcast redis` starts one).",
            )
        self.url = settings.redis_url
        self.id = f"{kind}-{new_id()}"
        self.keys = Keys(settings.prefix, settings.partitions)
        limits = Limits.of(settings)
        self.tracing = tracing.start(settings, service=f"runcast-{kind}", instance=self.id)
        self.voice = Voice(
            limits=limits,
            publish_timeout_seconds=publish_timeout_seconds,
            tracing=self.tracing,
        )
        self.client = new_client(self.url, name=self.id)
        self.broker = self.sink = Broker(self.client, keys=self.keys, limits=limits)
        self._leases = Leases(self.url, keys=self.keys, limits=limits, name=self.id)
        self._subscriber = new_subscriber(
            self.url,
            on_message=self._on_notice,
            on_restored=lambda _channels: self._wake_all(),
            name=f"{self.id} notices",
        )
        self._listening: dict[str, Callable[[], None]] = {}
        self._taking_back: set[asyncio.Task[None]] = set()
        self._leaving: dict[asyncio.Task[None], Emitter] = {}

    async def start(self) -> None:
        """Connect, and stay connected from then on.

        :class:`~broker.errors.BrokerUnavailable` when Redis is not there in time; once started, it
        outlives every later absence.
        """
        await self.client.start(timeout_seconds=START_SECONDS)
        try:
            await self._subscriber.start(timeout_seconds=START_SECONDS)
            await self._listen()
            await self._leases.start()
        except BaseException:
            await self._disconnect()
            raise

    async def _listen(self) -> None:
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._subscriber.subscribe(self.keys.control(self.id))
        except TimeoutError:
            why = self._subscriber.why or "it did not acknowledge a subscription"
            raise BrokerUnavailable(why=why) from None

    async def stop(self, *, timeout_seconds: float) -> None:
        """Wait until what was said is in the log, but no longer than that; then disconnect.

        What is given up then is ended by the sweeper.
        """
        if self._leaving:
            await asyncio.wait(list(self._leaving), timeout=timeout_seconds)
        for task, emitter in list(self._leaving.items()):
            log.error("events_given_up", run_id=emitter.claim.run_id)
            emitter.close()
            await asyncio.wait([task])
        await self._disconnect()

    async def open_run(self, request: RunRequest) -> Claim:
        """Register and claim a run that no client began; it waits for no other of its thread.

        Tried again for the publish time-out: the same worker's second registration is the first
        one. Then :class:`~broker.errors.BrokerUnavailable`.
        """
        spec = AgentSpec(name=request.agent, on_busy="parallel")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.voice.publish_timeout_seconds
        waits = delays()
        while True:
            try:
                return await self.broker.open_run(request, spec, worker_id=self.id)
            except BrokerUnavailable:
                if loop.time() >= deadline:
                    raise
                await asyncio.sleep(next(waits))

    def hold(self, claim: Claim, notify: Callable[[Reason], None]) -> None:
        """Keep the lease of ``claim``."""
        self._leases.hold(claim, notify)

    def listen(self, claim: Claim, wake: Callable[[], None]) -> None:
        """For notices of answers, and when some may have been missed, until the run has left."""
        self._listening[claim.run_id] = wake

    async def look(self, claim: Claim, request_id: str) -> Look:
        """What became of a question."""
        return await self.broker.look(claim, request_id)

    def take_back(self, claim: Claim, request_id: str) -> None:
        """Try to: should Redis be away, the question stays open until its time is over."""
        task = asyncio.create_task(self._take_back(claim, request_id))
        self._taking_back.add(task)
        task.add_done_callback(self._taking_back.discard)

    async def _take_back(self, claim: Claim, request_id: str) -> None:
        try:
            await self.broker.look(claim, request_id, take_back=True)
        except (BrokerUnavailable, Refused) as error:
            log.debug("question_left_open", run_id=claim.run_id, why=str(error))

    def leave(self, claim: Claim, emitter: Emitter) -> asyncio.Task[None]:
        """See the run off: send the rest, however long Redis is away, then let the lease go."""
        task = asyncio.create_task(self._see_off(claim, emitter), name=f"end of {claim.run_id}")
        self._leaving[task] = emitter
        task.add_done_callback(lambda done: self._leaving.pop(done, None))
        return task

    async def _see_off(self, claim: Claim, emitter: Emitter) -> None:
        while True:
            try:
                await emitter.flushed()
                break
            except PublishError as error:
                log.warning("run_waits_for_redis", run_id=claim.run_id, why=str(error))
        self._leases.release(claim)
        self._listening.pop(claim.run_id, None)
        emitter.close()

    def _on_notice(self, _channel: bytes, payload: bytes) -> None:
        word, _, rest = payload.decode(errors="replace").partition(" ")
        _partition, _, run_id = rest.partition(" ")
        if word == "stop":
            self._leases.tell(run_id, Reason.STOP)
        elif word == "answer" and (wake := self._listening.get(run_id)) is not None:
            wake()

    def _wake_all(self) -> None:
        for wake in self._listening.values():
            wake()

    async def _disconnect(self) -> None:
        await self._leases.stop()
        await self._subscriber.stop()
        await self.client.stop()
        await tracing.flush(self.tracing)


def checked_durability(durability: Durability | None) -> Durability | None:
    """``durability`` as it is; :class:`~broker.errors.ConfigurationError` for an unknown one."""
    if durability not in (None, *get_args(Durability)):
        raise ConfigurationError(
            setting="durability",
            why=f"{durability!r} is unknown",
            todo=f"Use {' or '.join(get_args(Durability))}.",
        )
    return durability
