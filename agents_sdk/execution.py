"""One call of an agent, from its claim to its one terminal event, whatever the agent does."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Final

import structlog

from agents_sdk import ending, spans
from agents_sdk.context import CURRENT
from agents_sdk.emitter import Emitter
from agents_sdk.ending import Outcome
from agents_sdk.errors import Reason, RunStopped
from agents_sdk.host import Host
from agents_sdk.run import Run, end_children
from agents_sdk.time_limit import TimeLimit
from broker.redis.records import AgentSpec, Claim

log = structlog.get_logger(__name__)

GRACE_SECONDS: Final = 5.0
"""How long a cancelled agent may clean up before its run ends without it: half the default stop
deadline, so that its own worker ends it and not the sweeper."""

CANCEL_AGAIN_SECONDS: Final = 2.0
"""How often an agent that swallowed its cancellation is cancelled again."""


class Execution:
    """Runs ``function(run)`` as a task of its own under a claim."""

    def __init__(
        self,
        host: Host,
        claim: Claim,
        function: Callable[[Run], Awaitable[Any]],
        spec: AgentSpec,
        *,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        self._host, self._function, self._spec = host, function, spec
        self._grace_seconds = grace_seconds
        voice = replace(host.voice, require_all_events=spec.require_all_events)
        self.span = None if voice.tracing is None else spans.attempt(voice.tracing, claim)
        self._emitter = Emitter(claim, host.sink, voice, self.span)
        self._emitter.on_lost = partial(self.cancel, Reason.LOST)
        self._time_limit = TimeLimit(spec.timeout_seconds, partial(self.cancel, Reason.TIMEOUT))
        self.run = Run(claim, self._emitter, host, self._time_limit)
        self.task: asyncio.Task[Any] | None = None
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._timers: list[asyncio.TimerHandle] = []
        self._cancelling = False

    @property
    def status(self) -> str:
        """How it ended: its terminal event's status, or ``lost`` when it had not to say one."""
        return self._emitter.status or Reason.LOST.value

    @property
    def told(self) -> Reason | None:
        """Why it was told to end, if it was."""
        return self._emitter.told

    async def conduct(self) -> None:
        """Return when the run's terminal event is in the log, or the run is lost."""
        with nullcontext() if self.span is None else self.span.current():
            await self._conduct()

    async def _conduct(self) -> None:
        claim, loop = self.run.claim, asyncio.get_running_loop()
        self._host.hold(claim, self.cancel)
        if claim.stop_requested:
            self.cancel(Reason.STOP)
        if not self.run.stop_requested:
            context = contextvars.copy_context()
            context.run(CURRENT.set, self.run)
            name = f"{claim.agent} run {claim.run_id}"
            self.task = loop.create_task(self._call(), name=name, context=context)
            self.task.add_done_callback(lambda _: self._end())
            loop.call_soon(self._emitter.begin)
            self._time_limit.start()
            await self._over
        outcome = None
        try:
            end_children(self.run)
            if not self._emitter.ended:
                outcome = self._outcome()
                self._emitter.finish(outcome)
                self._report()
        finally:  # whatever went wrong: without its lease the sweeper ends the run
            await asyncio.wait([self._host.leave(claim, self._emitter)])
            spans.ended(self.span, self._emitter.status, ending.code_of(outcome))

    async def wait_gone(self) -> None:
        """Return when the agent's task is done: one that ignores its cancellation still costs."""
        try:
            if self.task is not None:
                await asyncio.wait([self.task])
        finally:
            self._time_limit.end()
            for timer in self._timers:
                timer.cancel()

    def cancel(self, reason: Reason) -> None:
        """Tell the run to end and cancel the agent, again and again until it is gone."""
        self._emitter.tell(reason)
        if self.run.stop_requested and self.task is not None and not self._cancelling:
            self._cancelling = True
            self._later(self._grace_seconds, self._give_up)
            self._cancel_task()

    def _cancel_task(self) -> None:
        if self.task is not None and not self.task.done():
            self.task.cancel()
            self._later(CANCEL_AGAIN_SECONDS, self._cancel_task)

    def _give_up(self) -> None:
        if not self._over.done():
            log.warning("agent_ignores_cancellation", run_id=self.run.id, agent=self._spec.name)
            self._end()

    def _end(self) -> None:
        if not self._over.done():
            self._over.set_result(None)

    def _later(self, seconds: float, callback: Callable[..., None], *args: Any) -> None:
        self._timers.append(asyncio.get_running_loop().call_later(seconds, callback, *args))

    async def _call(self) -> Any:
        try:
            return await self._function(self.run)
        except SystemExit as error:
            raise AgentExited(f"called sys.exit({error.code!r})") from error
        except KeyboardInterrupt as error:  # as of a process pool's child, at Ctrl-C
            raise AgentExited("raised KeyboardInterrupt") from error

    def _outcome(self) -> Outcome:
        told, task = self._emitter.told, self.task
        if told is not None or task is None:
            return ending.told(told or Reason.STOP)
        if task.cancelled():
            return ending.raised(asyncio.CancelledError())
        error = task.exception()
        if error is None:
            response = task.result()
            return ending.returned(self.run.response if response is None else response)
        return ending.raised(error)

    def _report(self) -> None:
        """Log what the agent raised; after the run's end, which a log that fails must not stop."""
        task = self.task
        if self._emitter.told is not None or task is None or task.cancelled():
            return
        error = task.exception()
        if error is not None and not isinstance(error, RunStopped):
            log.error("agent_raised", run_id=self.run.id, agent=self._spec.name, exc_info=error)


class AgentExited(RuntimeError):
    """An agent raised what ends a process: its run has failed; the worker goes on."""

    code = "agent_exited"

    def __init__(self, did: str) -> None:
        super().__init__(f"The agent {did}")
