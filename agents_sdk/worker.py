"""What an agent author declares, and how it is started."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

import structlog

from agents_sdk.agent import Agent, AgentFunction, declare
from agents_sdk.ids import check_named
from agents_sdk.link import checked_durability
from agents_sdk.service import Service
from broker.config import Durability, Settings, load_settings
from broker.errors import ConfigurationError
from broker.logs import configure_logging
from broker.redis.records import AgentSpec, OnBusy

log = structlog.get_logger(__name__)

LEAVE_SECONDS: Final = 2.0
"""How long a drained process waits for threads of agents that have ended."""

_ASKED: Final[set[asyncio.Event]] = set()
"""How each worker that serves in this process is asked to drain: a signal is the process's."""


def _drain_all(number: signal.Signals) -> None:
    log.info("signal_received", signal=number.name)
    for each in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().remove_signal_handler(each)
        signal.signal(each, signal.SIG_DFL)
    for asked in _ASKED:
        asked.set()


class Worker:
    """A process's agents. Declaring needs no Redis; only starting does.

    ``redis_url``: absent = ``RUNCAST_REDIS_URL``. ``concurrency``: most runs at once; a worker
    takes no more than it can run. ``publish_timeout_seconds``: longest wait of one call of a run's
    method. ``durability``: absent = ``RUNCAST_DURABILITY``; ``"replicated"`` = an event counts as
    published only when a replica of Redis has confirmed it. ``settings``: all of them, given in
    place of the environment and ``redis_url``.
    """

    def __init__(
        self,
        redis_url: str | None = None,
        *,
        concurrency: int = 100,
        publish_timeout_seconds: float = 30.0,
        durability: Durability | None = None,
        settings: Settings | None = None,
    ) -> None:
        if concurrency < 1:
            raise ConfigurationError(
                setting="Worker(concurrency=…)",
                why="must be 1 or more",
                todo="Leave it out for 100.",
            )
        self.redis_url, self.concurrency = redis_url, concurrency
        self.publish_timeout_seconds = publish_timeout_seconds
        self.durability = checked_durability(durability)
        self.settings = settings
        self.agents: dict[str, Agent] = {}

    def agent(
        self,
        name: str,
        *,
        retries: int = 0,
        require_all_events: bool = False,
        on_busy: OnBusy = "queue",
        timeout_seconds: float | None = None,
    ) -> Callable[[AgentFunction], Agent]:
        """For an ``async def`` function that takes a :class:`Run`; what it returns is the response.

        ``retries``: how often a run is given to another worker after its worker was lost; the agent
        must bear to be run again. ``require_all_events``: a run that leaves one of the five events
        out fails. ``on_busy``: what a message means for a thread with an open run.
        ``timeout_seconds``: after that the run fails with code ``timeout``.
        """
        check_named('@worker.agent("name")', name)

        def decorate(function: AgentFunction) -> Agent:
            if name in self.agents:
                raise ConfigurationError(
                    setting=f"agent {name!r}",
                    why="this worker has one of that name",
                    todo="Choose another name.",
                )
            spec = AgentSpec(
                name=name,
                retries=retries,
                require_all_events=require_all_events,
                on_busy=on_busy,
                timeout_seconds=timeout_seconds,
            )
            self.agents[name] = agent = declare(function, spec)
            return agent

        return decorate

    def run(self, *, on_ready: Callable[[Service], None] | None = None) -> None:
        """Work until SIGTERM or SIGINT, drain, and return.

        A second signal ends the process at once; so does, once drained, an agent that ignored every
        cancellation, or that left a thread at work: with exit status 0, as all events are out. It
        logs as ``runcast worker`` does, unless structlog is configured.
        ``on_ready`` is called when requests are taken.

        :raises ConfigurationError: a setting cannot work, no agent is declared, or an event loop is
            running here.
        :raises BrokerUnavailable: Redis cannot be reached at the start.
        """
        with suppress(RuntimeError):
            asyncio.get_running_loop()
            raise ConfigurationError(
                setting="worker.run()",
                why="an event loop is running here already",
                todo="Use `await worker.serve()`, or `async with worker.running()`.",
            )
        if not structlog.is_configured():
            settings = self._load_settings()
            configure_logging(settings.log_format, settings.log_level)
        new_loop = None
        if sys.platform != "win32" and sys.implementation.name == "cpython":
            import uvloop  # noqa: PLC0415  # not to be had on the other platforms

            new_loop = uvloop.new_event_loop
        with asyncio.Runner(loop_factory=new_loop) as runner:
            loop = runner.get_loop()
            serving = loop.create_task(self._serve_and_leave(on_ready), name="worker")
            while True:
                try:
                    return loop.run_until_complete(serving)
                except (SystemExit, KeyboardInterrupt):
                    # An event loop stops at these, whoever raises them: here a task or a callback
                    # that an agent has begun. Its run hears of it if it waits for that.
                    if serving.done():
                        raise
                    log.exception("exit_refused")

    async def _serve_and_leave(self, on_ready: Callable[[Service], None] | None) -> None:
        service = await self.serve(on_ready=on_ready)
        # Closing the loop would wait for either for ever.
        threads = asyncio.ensure_future(asyncio.get_running_loop().shutdown_default_executor())
        await asyncio.wait([threads], timeout=LEAVE_SECONDS)
        if service.left_behind or not threads.done():
            log.warning("left_at_once", agents=service.left_behind, threads=not threads.done())
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)

    async def serve(self, *, on_ready: Callable[[Service], None] | None = None) -> Service:
        """:meth:`run` for a program with an event loop of its own. Must be in the main thread.

        Several workers may serve at the same time: a signal drains all of them.
        """
        loop, asked = asyncio.get_running_loop(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, _drain_all, number)
        _ASKED.add(asked)
        try:
            async with self.running() as service:
                if on_ready is not None:
                    on_ready(service)
                await asked.wait()
            return service
        finally:
            _ASKED.discard(asked)
            for number in (signal.SIGTERM, signal.SIGINT) if not _ASKED else ():
                loop.remove_signal_handler(number)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Service]:
        """Work while inside; leaving drains. Takes requests from the moment it is entered."""
        settings = self._load_settings()
        if self.durability is not None:
            settings = settings.model_copy(update={"durability": self.durability})
        service = Service(
            self.agents,
            settings,
            concurrency=self.concurrency,
            publish_timeout_seconds=self.publish_timeout_seconds,
        )
        await service.start()
        try:
            yield service
        finally:
            await service.drain()

    def _load_settings(self) -> Settings:
        return self.settings or load_settings(redis_url=self.redis_url)
