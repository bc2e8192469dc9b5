"""What a client can ask for, carried out: the same for every transport.

Each verb either succeeds, or raises a :class:`~gateway.session.FrameError` with a code of protocol
section 6.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import structlog

from broker.channels import Channel, Owner
from broker.errors import (
    BrokerUnavailable,
    LimitReached,
    NotWaiting,
    QueueFull,
    Refused,
    RunNotFound,
    ThreadBusy,
    UnknownAgent,
)
from broker.ids import RANDOM_BYTES, ulid
from broker.lifecycle import State
from broker.limits import LIMITS, Allowance
from broker.redis.broker import Broker
from broker.redis.records import UNREADABLE, AgentSpec, Registered, RunRequest, cause
from broker.redis.threads import OpenRun
from broker.trace_context import TraceContext
from gateway import message_trace
from gateway.closing import closing
from gateway.patience import patiently
from gateway.session import FrameError

if TYPE_CHECKING:
    from broker.tracing.tracer import Tracing

log = structlog.get_logger(__name__)

DEADLINE_SECONDS: Final = 3.0
"""How long a request waits for Redis before ``broker_unavailable``."""

RETRY_MS: Final = 1000
"""What a client is told to wait when it depends on others: on a run's end, say."""

LOOK_SECONDS: Final = 1.0
MOST_LOOKED: Final = 1000
"""Tenants whose last look is remembered; forgetting one costs a look."""

_SHARED: Final = ("messages_per_minute", "runs")
"""Those of a tenant's limits that a message is measured by."""

_CODES: Final[dict[type[Refused], tuple[str, bool]]] = {
    UnknownAgent: ("unknown_agent", False),
    QueueFull: ("queue_full", True),
    ThreadBusy: ("queue_full", True),
    RunNotFound: ("run_not_found", False),
    NotWaiting: ("not_allowed", False),
}
"""Refusal → error code, and whether the same request may succeed later."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A user's message on its way to an agent, and what limits it: the user's, his tenant's."""

    run_id: str
    owner: Owner
    channel: Channel
    thread_id: str
    agent: str | None
    content: Any
    metadata: dict[str, Any]
    message_id: str
    allowance: Allowance
    shared: Mapping[str, int]
    trace: TraceContext | None = None


class Commands:
    """The verbs, over one broker; ``ending`` may end runs that are somebody else's to end."""

    def __init__(
        self,
        broker: Broker,
        *,
        ending: Broker,
        node_id: str,
        default_agent: str | None,
        tracing: Tracing | None = None,
    ) -> None:
        self._broker = broker
        self._ending = ending
        self._node_id, self._tracing = node_id, tracing
        self._default_agent = default_agent
        self._looked: dict[Owner, float] = {}

    async def agent(self, name: str | None) -> AgentSpec:
        """The agent that a message is for."""
        return await self._tried(lambda: self._agent(name))

    async def register(self, message: Message, spec: AgentSpec) -> Registered:
        """Register the run, once per message id. It will end, whatever happens from here on.

        What the message may not cost any more is refused: ``rate_limited`` or ``queue_full``. The
        same message again costs nothing.
        """
        request = RunRequest(
            run_id=message.run_id,
            owner=message.owner,
            channel=message.channel,
            thread_id=message.thread_id,
            agent=spec.name,
            content=message.content,
            metadata=message.metadata,
            message_id=message.message_id,
            allowance=message.allowance,
            trace=message.trace,
        )
        begun: str | None = None
        await self._take_share(message)
        try:
            # Tried again until the deadline: the message id makes that safe, lost replies included.
            registered = await self._tried(
                lambda: self._broker.register(request, spec, epoch_ms=time.time_ns() // 1_000_000)
            )
            begun = registered.run_id
        except LimitReached as reached:
            raise _too_much(reached, getattr(message.allowance, reached.subject), "user") from None
        except FrameError as error:
            if error.code == "broker_unavailable":
                begun = message.run_id  # perhaps; whoever needs its place looks at it then
            raise
        finally:
            if begun != message.run_id:
                await self._return_share(message)
        return registered

    async def begun_by(self, owner: Owner, message_id: str) -> Registered:
        """The run that a message began: ``run_not_found`` when none is known."""
        return await self._tried(lambda: self._broker.begun_by(owner, message_id))

    async def registered(self, owner: Owner, run_id: str) -> Registered:
        """A run of this owner: ``run_not_found`` with the same text for "not yours"."""
        return await self._tried(lambda: self._broker.registered(owner, run_id))

    async def _take_share(self, message: Message) -> None:
        """A message and a run of what the users of a tenant have together."""
        tenant, shared = message.owner.group, message.shared
        if tenant is None or shared.keys().isdisjoint(_SHARED):
            return
        partition = message.channel.partition
        messages, runs = shared.get("messages_per_minute"), shared.get("runs")

        def take() -> Awaitable[None]:
            return self._broker.take_share(
                tenant, partition, message.run_id, messages=messages, runs=runs
            )

        try:
            try:
                await self._tried(take)
            except LimitReached as reached:
                if reached.subject != "runs" or not await self._forget_ended(tenant):
                    raise
                await self._tried(take)
        except LimitReached as reached:
            raise _too_much(reached, shared[reached.subject], "tenant") from None

    async def _return_share(self, message: Message) -> None:
        tenant, shared = message.owner.group, message.shared
        if tenant is None or shared.keys().isdisjoint(_SHARED):
            return
        partition, messages = message.channel.partition, shared.get("messages_per_minute")
        with suppress(FrameError):  # the bucket fills again; the place is looked at when needed
            await self._tried(
                lambda: self._broker.return_share(
                    tenant, partition, message.run_id, messages=messages
                )
            )

    async def _forget_ended(self, tenant: Owner) -> bool:
        """Whether there is room after a look at a tenant's runs; many are looked at seldom."""
        now = asyncio.get_running_loop().time()
        if now < self._looked.get(tenant, -math.inf) + LOOK_SECONDS:
            return False
        if len(self._looked) > MOST_LOOKED:
            self._looked.clear()
        self._looked[tenant] = now
        return await self._tried(lambda: self._broker.forget_ended(tenant)) > 0

    async def enqueue(self, registered: Registered, spec: AgentSpec, owner: Owner) -> None:
        """Give the run to its agent's workers. When Redis stays away, the sweeper does it."""
        try:
            if spec.on_busy == "interrupt":  # of a repeated message too: who took it may have died
                for run_id in registered.busy:
                    await self.stop(owner, run_id)
            if registered.enqueue:
                # Tried again: a second entry in the queue is harmless, a lost one costs seconds.
                await self._tried(lambda: self._broker.enqueue(registered))
        except FrameError:
            return

    async def stop(self, owner: Owner, run_id: str) -> State:
        """Ask the run to stop; one that no worker has yet ends here and now."""
        state = await self._tried(lambda: self._broker.stop_run(owner, run_id))
        if state is not State.COMPLETED:
            await self._tried(lambda: self._end_unclaimed(owner, run_id))
        return state

    async def answer(self, owner: Owner, run_id: str, request_id: str, content: Any) -> None:
        """Answer what a run asked: the first answer counts, and the same one again is that one.

        Refused with ``not_allowed``, and why, when the run does not wait for it (any more).
        """
        # Tried again until the deadline, lost replies included.
        await self._tried(lambda: self._broker.answer_run(owner, run_id, request_id, content))

    async def channel(self, owner: Owner, run_id: str) -> Channel:
        """The channel of a run of this owner."""
        return await self._tried(lambda: self._broker.run_channel(owner, run_id))

    async def open_runs(self, owner: Owner, thread_id: str) -> list[OpenRun]:
        """What is under way in a thread, the one begun last first."""
        return await self._tried(lambda: self._broker.open_runs(owner, thread_id))

    async def run(self, owner: Owner, run_id: str) -> dict[str, Any]:
        """A run's state as protocol section 7 shows it."""
        return await self._tried(lambda: self._broker.run(owner, run_id))

    async def _agent(self, name: str | None) -> AgentSpec:
        wanted = name or self._default_agent
        if wanted is not None:
            return await self._broker.agent(wanted)
        known = await self._broker.agents()
        if len(known) != 1:
            names = ", ".join(sorted(known))
            raise FrameError(
                "unknown_agent",
                f"name one of {names}"
                if known
                else "no worker is known; start one that uses this Redis",
                retryable=not known,
                bad=False,
            )
        return await self._broker.agent(next(iter(known)))

    async def _end_unclaimed(self, owner: Owner, run_id: str) -> None:
        partition, node_id = self._broker.keys.partition(owner), self._node_id
        try:
            await end_run(
                self._ending,
                partition,
                run_id,
                node_id=node_id,
                unclaimed_only=True,
                tracing=self._tracing,
            )
        except Refused as refused:
            # A worker or the sweeper was faster; the stop is recorded and they know of it.
            log.info("end_of_run_refused", run_id=run_id, why=str(refused))

    async def _tried(self, call: Callable[[], Awaitable[T]]) -> T:
        """The call's result, tried again while Redis is away, for no longer than the deadline."""
        try:
            return await patiently(self._broker.client, call, deadline_seconds=DEADLINE_SECONDS)
        except BrokerUnavailable:
            raise FrameError(
                "broker_unavailable", "try again in a moment", retryable=True, bad=False
            ) from None
        except UNREADABLE as error:
            log.error("unreadable_in_redis", why=cause(error), at=place(error))  # noqa: TRY400 - the text says it
            raise FrameError("internal", "it was logged", bad=False) from None
        except LimitReached:
            raise  # what was asked for knows how much it may be
        except Refused as refused:
            code, retryable = _CODES[type(refused)]
            raise FrameError(
                code,
                str(refused),
                retryable=retryable,
                bad=False,
                retry_after_ms=RETRY_MS if retryable else None,
            ) from None


def _too_much(reached: LimitReached, most: int, whose: str) -> FrameError:
    limit, retry_after_ms = LIMITS[reached.subject], reached.retry_after_ms
    text = f"at most {most} {limit.what} per {whose}"
    if reached.subject == "threads" and retry_after_ms is not None:
        text += f"; the one used longest ago is forgotten in {math.ceil(retry_after_ms / 1000)} s"
    return FrameError(
        limit.code,
        text,
        retryable=True,
        bad=False,
        retry_after_ms=RETRY_MS if retry_after_ms is None else retry_after_ms,
    )


async def end_run(
    broker: Broker,
    partition: int,
    run_id: str,
    *,
    node_id: str,
    unclaimed_only: bool = False,
    spare: bool = False,
    tracing: Tracing | None = None,
) -> str | None:
    """Decide over a run whose time is up and end it if need be; its status when it was ended."""
    taken = await broker.take_over(
        partition, run_id, node_id=node_id, unclaimed_only=unclaimed_only, spare=spare
    )
    if taken is None:
        return None
    claim, status, code = taken
    said = closing(claim, status=status, code=code, epoch_ms=time.time_ns() // 1_000_000)
    # All of it is sent, in order, before anything is waited for: the end does not depend on whether
    # a replica confirms what comes before it.
    with message_trace.ending(tracing, claim, status=status, code=code, node_id=node_id):
        await asyncio.gather(*(broker.publish(claim, publication) for publication in said))
    return status


def place(error: BaseException) -> str:
    """Where it was raised, for a log line in place of a traceback."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno} {frame.name}"


def new_id() -> str:
    """A fresh ULID from the wall clock and the system's randomness."""
    return ulid(time.time_ns() // 1_000_000, os.urandom(RANDOM_BYTES))
