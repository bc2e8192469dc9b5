"""A worker at work: takes requests, runs agents, and leaves nothing behind when it drains."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from typing import Any, Final

import structlog
from redis.exceptions import ResponseError
from structlog.contextvars import bind_contextvars, unbind_contextvars

from agents_sdk import spans
from agents_sdk.agent import Agent
from agents_sdk.errors import Reason
from agents_sdk.execution import GRACE_SECONDS, Execution
from agents_sdk.link import START_SECONDS, Link
from agents_sdk.metrics import WorkerMetrics
from agents_sdk.outages import delays
from broker.config import Settings
from broker.errors import BrokerUnavailable, ConfigurationError
from broker.redis.agents import WORKERS_TTL_SECONDS, WorkerReport
from broker.redis.queue import Request, RequestQueue
from broker.redis.records import UNREADABLE, Claim, cause

log = structlog.get_logger(__name__)

ANNOUNCE_SECONDS: Final = 5.0
RECLAIM_SECONDS: Final = 5.0
"""How often requests of dead workers are looked for."""
FLUSH_SECONDS: Final = 5.0
"""How long a drain waits for Redis to take the last events, after the last run has ended."""


class Service:
    """One start of a worker. :meth:`start`, then :meth:`drain`, each once."""

    def __init__(
        self,
        agents: Mapping[str, Agent],
        settings: Settings,
        *,
        concurrency: int,
        publish_timeout_seconds: float,
    ) -> None:
        if not agents:
            raise ConfigurationError(
                setting="Worker",
                why="it has no agent",
                todo='Declare one with @worker.agent("name").',
            )
        self._agents, self._concurrency = agents, concurrency
        self._drain_seconds = settings.drain_seconds
        self._link = Link(settings, kind="worker", publish_timeout_seconds=publish_timeout_seconds)
        self._queue = RequestQueue(
            self._link.url,
            keys=self._link.keys,
            consumer=self._link.id,
            client=self._link.client,
            ttl_seconds=settings.history_ttl_seconds,
            on_remade=self._announce,
        )
        self.metrics = WorkerMetrics(
            self._link.voice.tally, concurrency=concurrency, running=lambda: self.running_by_agent
        )
        self._metrics_at = settings.host, settings.worker_metrics_port
        self._serving: dict[asyncio.Task[None], Request] = {}
        self._executions: dict[str, Execution] = {}
        self._ended: dict[str, asyncio.Event] = {}
        self.left_behind = False
        """Whether an agent ignored every cancellation until the end of the drain."""
        self._slot_freed = asyncio.Event()
        self._draining = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []
        self._acknowledging: set[asyncio.Task[None]] = set()

    @property
    def id(self) -> str:
        """The worker's node id."""
        return self._link.id

    @property
    def running(self) -> int:
        """How many runs it carries now."""
        return len(self._serving)

    @property
    def running_by_agent(self) -> dict[str, int]:
        """The same for each agent that it serves."""
        counts = dict.fromkeys(self._agents, 0)
        for execution in list(self._executions.values()):  # in one step: threads ask as well
            counts[execution.run.claim.agent] += 1
        return counts

    async def start(self) -> None:
        """Connect, announce the agents, and only then take requests.

        BrokerUnavailable when Redis is not there in time, ConfigurationError when the port of the
        metrics is taken.
        """
        # All that is begun from here on inherits it.
        bind_contextvars(worker=self.id)
        await self._link.start()
        try:
            self.metrics.serve(*self._metrics_at)
            await self._announce()
            await self._forget_dead_workers()
            await self._queue.start(list(self._agents), timeout_seconds=START_SECONDS)
        except BaseException:
            self.metrics.stop()
            await self._link.stop(timeout_seconds=0)
            raise
        self._loops = [
            asyncio.create_task(self._take_requests(), name="take requests"),
            asyncio.create_task(self._keep_announcing(), name="announce agents"),
        ]
        log.info(
            "worker_started",
            worker=self.id,
            agents=sorted(self._agents),
            concurrency=self._concurrency,
        )

    async def drain(self) -> None:
        """Take nothing more, and leave nothing behind.

        Runs may finish within the drain time; the rest is cancelled; every last event is seen into
        the log; then it disconnects.
        """
        self._draining.set()
        log.info("worker_draining", worker=self.id, running=self.running)
        await self._queue.stop()
        for loop in self._loops:
            # A second drain, or a cancelled one, still ends here.
            await asyncio.wait([loop])
        await self._all_served(self._drain_seconds)
        for execution in list(self._executions.values()):
            execution.cancel(Reason.SHUTDOWN)
        with suppress(TimeoutError):
            async with asyncio.timeout(GRACE_SECONDS + FLUSH_SECONDS):
                for ended in list(self._ended.values()):
                    await ended.wait()
        if self._acknowledging:
            await asyncio.wait(list(self._acknowledging), timeout=FLUSH_SECONDS)
        with suppress(BrokerUnavailable, ResponseError):
            await self._queue.leave()
            await self._link.broker.forget_workers(self.id)
        self.metrics.stop()
        await self._link.stop(timeout_seconds=FLUSH_SECONDS)
        for task, request in self._serving.items():
            log.warning("agent_left_behind", worker=self.id, run_id=request.run_id)
            self.left_behind = True
            task.cancel()
        log.info("worker_stopped", worker=self.id)
        unbind_contextvars("worker")

    async def _all_served(self, timeout_seconds: float) -> None:
        if self._serving:
            await asyncio.wait(list(self._serving), timeout=timeout_seconds)

    async def _take_requests(self) -> None:
        waits = None
        reclaim_at = time.monotonic()
        while await self._free_slot():
            free = self._concurrency - len(self._serving)
            try:
                if time.monotonic() >= reclaim_at:
                    reclaim_at = time.monotonic() + RECLAIM_SECONDS
                    requests = await self._queue.reclaim(free)
                else:
                    requests = await self._queue.take(free)
                waits = None
            except (BrokerUnavailable, ResponseError) as error:
                if isinstance(error, ResponseError):  # an outage is logged by the connection
                    log.warning("requests_not_taken", worker=self.id, why=str(error))
                waits = waits or delays()
                await self._unless_draining(next(waits))
                continue
            for request in requests:
                self._serve(request)

    async def _free_slot(self) -> bool:
        """True once a run can be taken; False when draining."""
        while not self._draining.is_set() and len(self._serving) >= self._concurrency:
            self._slot_freed.clear()
            await self._first_of(self._slot_freed.wait(), self._draining.wait())
        return not self._draining.is_set()

    def _serve(self, request: Request) -> None:
        task = asyncio.create_task(self._carry(request), name=f"serve {request.run_id}")
        self._serving[task] = request
        task.add_done_callback(self._served)

    def _served(self, task: asyncio.Task[None]) -> None:
        request = self._serving.pop(task)
        self._slot_freed.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("run_not_carried", run_id=request.run_id, exc_info=error)

    async def _carry(self, request: Request) -> None:
        # Queued twice, or queued again because this worker was thought lost: the attempt that is
        # carried here ends first, and claiming then decides.
        while request.run_id in self._ended:
            await self._ended[request.run_id].wait()
        bind_contextvars(run_id=request.run_id)
        ended = self._ended[request.run_id] = asyncio.Event()
        execution = None
        try:
            claim = await self._claim(request)
            if claim is not None:
                bind_contextvars(user=claim.owner.pseudonym)
            if claim is not None and claim.agent in self._agents:
                agent = self._agents[claim.agent]
                execution = Execution(self._link, claim, agent.function, agent.spec)
                self._trace(request, claim, execution)
                self._executions[claim.run_id] = execution
                began = time.monotonic()
                await execution.conduct()
                self.metrics.run_ended(
                    claim, execution.status, execution.told, time.monotonic() - began
                )
            elif claim is not None:  # its lease ends, and the sweeper decides
                log.error("agent_not_served_here", run_id=claim.run_id, agent=claim.agent)
        finally:
            self._executions.pop(request.run_id, None)
            del self._ended[request.run_id]
            ended.set()
        if execution is not None:
            await execution.wait_gone()

    def _trace(self, request: Request, claim: Claim, execution: Execution) -> None:
        if self._link.tracing is None or execution.span is None:
            return
        spans.waited(self._link.tracing, claim, execution.span, since_ms=request.queued_ms)
        task = asyncio.create_task(spans.note(self._link.broker, claim, execution.span))
        self._acknowledging.add(task)
        task.add_done_callback(self._acknowledging.discard)

    async def _claim(self, request: Request) -> Claim | None:
        """Claim, through outages: the same worker may claim again, should the reply be lost."""
        waits = delays()
        while not self._draining.is_set():
            try:
                claim = await self._link.broker.claim(
                    request.partition, request.run_id, worker_id=self.id
                )
            except BrokerUnavailable:
                await self._unless_draining(next(waits))
            except UNREADABLE as error:  # nobody could carry it; the sweeper has it in sight
                log.error("run_unreadable", run_id=request.run_id, why=cause(error))  # noqa: TRY400 - the text says it
                self._acknowledge(request)
                return None
            else:
                self._acknowledge(request)
                return claim
        return None

    def _acknowledge(self, request: Request) -> None:
        """Take the request off the queue, by and by: what is left there is harmless."""
        task = asyncio.create_task(self._done(request))
        self._acknowledging.add(task)
        task.add_done_callback(self._acknowledging.discard)

    async def _done(self, request: Request) -> None:
        try:
            await self._queue.done([request])
        except BrokerUnavailable as error:
            log.debug("request_left_in_queue", run_id=request.run_id, why=str(error))

    async def _keep_announcing(self) -> None:
        while await self._unless_draining(ANNOUNCE_SECONDS):
            try:
                await self._announce()
            except BrokerUnavailable as error:
                log.warning("agents_not_announced", worker=self.id, why=str(error))

    async def _announce(self) -> None:
        broker = self._link.broker
        await broker.announce([agent.spec for agent in self._agents.values()])
        report = WorkerReport(
            at=time.time(), concurrency=self._concurrency, running=self.running_by_agent
        )
        await broker.tell_worker(self.id, report)

    async def _forget_dead_workers(self) -> None:
        """Once per start, as only starts add any."""
        long_ago = time.time() - WORKERS_TTL_SECONDS
        reports = await self._link.broker.workers()
        dead = [worker_id for worker_id, report in reports.items() if report.at < long_ago]
        if dead:
            await self._link.broker.forget_workers(*dead)

    async def _unless_draining(self, seconds: float) -> bool:
        """Wait; False as soon as the drain begins."""
        try:
            async with asyncio.timeout(seconds):
                await self._draining.wait()
        except TimeoutError:
            return True
        return False

    async def _first_of(self, *waits: Awaitable[Any]) -> None:
        tasks = [asyncio.ensure_future(wait) for wait in waits]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
