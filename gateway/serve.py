"""``runcast gateway`` and ``runcast redis``: processes that serve until they are told to stop."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import gc
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Semaphore
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import structlog
import uvloop

from broker.config import Settings, state_dir
from broker.embedded import EmbeddedRedis
from broker.errors import ConfigurationError, RuncastError
from broker.logs import configure_logging
from gateway.app import Gateway, address
from gateway.listening import bound
from gateway.open_files import allow_most
from gateway.siblings import Place

STOP_MARGIN_SECONDS: Final = 10.0
"""What a process may take beyond its drain before it is killed."""
COLLECT_AFTER: Final = (20_000, 20, 20)
"""New objects until the youngest are searched, and how often that until the older ones are.
Python's own 700, 10 and 10 are made for programs that end."""
_LOOK_SECONDS: Final = 0.1
_PR_SET_PDEATHSIG: Final = 1

log = structlog.get_logger(__name__)


class PartEnded(RuncastError):
    """A process that the command needs has ended by itself."""


def serve(settings: Settings, *, processes: int) -> None:
    """Run ``processes`` gateways on one port until SIGTERM or SIGINT has drained them.

    :raises ConfigurationError: the port is taken, or there is no Redis to start.
    :raises BrokerUnavailable: Redis cannot be reached.
    """
    allow_most()
    _run(_serve(settings, processes))


async def serve_redis(settings: Settings, *, port: int | None) -> None:
    """Run the embedded Redis until SIGTERM or SIGINT; its URL is the first line printed."""
    asked = _asked_to_stop()
    redis = EmbeddedRedis()
    await redis.start(data_dir=_data_dir(settings), port=port)
    try:
        print(redis.url, flush=True)
        await _unless_ended(asked.wait(), redis)
    finally:
        await redis.stop()


async def _serve(settings: Settings, processes: int) -> None:
    if settings.redis_url is not None:
        await _serve_with(settings, processes)
        return
    if settings.sweeper_redis_url is not None:
        raise ConfigurationError(
            setting="RUNCAST_SWEEPER_REDIS_URL",
            why="it is set and RUNCAST_REDIS_URL is not, and both are users of one Redis",
            todo="Set RUNCAST_REDIS_URL to the gateway's user there.",
        )
    redis = EmbeddedRedis()
    await redis.start(data_dir=_data_dir(settings))
    try:
        settings = settings.model_copy(update={"redis_url": redis.url})
        await _unless_ended(_serve_with(settings, processes), redis)
    finally:
        await redis.stop()


async def _serve_with(settings: Settings, processes: int) -> None:
    if processes > 1:
        await _serve_many(settings, processes)
        return
    async with _gateway(settings) as gateway:
        line = f"Serving at {gateway.url}; Ctrl-C drains."
        await gateway.serve(lambda: print(line, flush=True))


async def _unless_ended(serving: Coroutine[Any, Any, object], redis: EmbeddedRedis) -> None:
    """Serve to the end; a gateway whose own Redis is gone has nothing to serve."""
    served, ended = asyncio.create_task(serving), asyncio.create_task(redis.ended())
    try:
        await asyncio.wait({served, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not served.done():
            raise PartEnded("The embedded Redis ended by itself.")
        await served
    finally:
        for task in (served, ended):
            task.cancel()
        await asyncio.wait({served, ended})


async def _serve_many(settings: Settings, processes: int) -> None:
    asked = _asked_to_stop()
    with _reserved_port(settings) as reserved, _meeting_place() as folder:
        settings = settings.model_copy(update={"port": reserved.getsockname()[1]})
        context = multiprocessing.get_context("spawn")
        ready = context.Semaphore(0)
        children = [
            context.Process(
                target=_child,
                args=(
                    settings,
                    os.getpid(),
                    ready,
                    Place(folder=folder, index=each, count=processes),
                ),
            )
            for each in range(processes)
        ]
        for child in children:
            child.start()
        ended = asyncio.create_task(_first_ended(children))
        stopping = asyncio.create_task(asked.wait())
        waiting = asyncio.create_task(asyncio.to_thread(_acquire, ready, processes, children))
        await asyncio.wait({ended, stopping, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done() and waiting.result():
            where = address(settings, settings.port)
            print(f"Serving at {where} with {processes} processes; Ctrl-C drains.", flush=True)
        await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        for child in children:
            child.terminate()
        lasting = settings.drain_seconds + STOP_MARGIN_SECONDS
        await asyncio.to_thread(_join, children, lasting)
        await asyncio.wait({ended, waiting})
        if not asked.is_set():
            raise PartEnded("A gateway process ended by itself, so the others were drained.")


def _acquire(ready: Semaphore, count: int, children: list[SpawnProcess]) -> bool:
    """Whether all of them came to serve."""
    while count and all(child.is_alive() for child in children):
        count -= ready.acquire(timeout=_LOOK_SECONDS)
    return count == 0


def _child(settings: Settings, parent: int, ready: Semaphore, place: Place) -> None:
    """One of several gateway processes."""
    os.setsid()  # a Ctrl-C on the terminal is the parent's to hand on
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
        if os.getppid() != parent:
            return
    configure_logging(settings.log_format, settings.log_level)
    try:
        _run(_serve_one(settings, ready, place))
    except RuncastError as error:
        log.critical("gateway_failed", reason=str(error))
        sys.exit(1)


async def _serve_one(settings: Settings, ready: Semaphore, place: Place) -> None:
    async with _gateway(settings, place=place) as gateway:
        await gateway.serve(ready.release)


@asynccontextmanager
async def _gateway(settings: Settings, *, place: Place | None = None) -> AsyncIterator[Gateway]:
    """A gateway whose refusal to start names the port."""
    async with AsyncExitStack() as stack:
        try:
            started = Gateway(settings, place=place)
            gateway = await stack.enter_async_context(started)
        except OSError as error:
            raise port_refused(settings.host, settings.port, error) from None
        _calm_collector()
        yield gateway


def _calm_collector() -> None:
    """Python's search for cycles stops everything, longer the more connections there are.

    What was there at the start lives as long as the process, and what a connection leaves behind
    has no cycles: so neither is searched, but after a great many new objects.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


def _join(children: list[SpawnProcess], seconds: float) -> None:
    for child in children:
        child.join(seconds)
        if child.is_alive():
            child.kill()
            child.join()


async def _first_ended(children: list[SpawnProcess]) -> None:
    sentinels = [child.sentinel for child in children]
    await asyncio.to_thread(multiprocessing.connection.wait, sentinels)


def _run(coroutine: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(coroutine)


def _asked_to_stop() -> asyncio.Event:
    """Set by SIGTERM or SIGINT."""
    asked = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked.set)
    return asked


def _data_dir(settings: Settings) -> Path:
    return settings.data_dir or state_dir() / "redis"


def port_refused(host: str, port: int, error: OSError) -> ConfigurationError:
    """What to say when an address cannot be listened on."""
    todo = "Choose another one: --port, or RUNCAST_PORT; 0 picks a free one."
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        todo = "Choose an address of this machine: --host, or RUNCAST_HOST."
    why = error.strerror or str(error)
    return ConfigurationError(setting=f"{host}, port {port}", why=why, todo=todo)


@contextmanager
def _meeting_place() -> Iterator[Path]:
    """A folder for the sockets by which the processes tell each other their figures."""
    try:
        folder = TemporaryDirectory(prefix="runcast-")
    except OSError as error:
        raise ConfigurationError(
            setting="--processes",
            why=f"several processes need a folder for their sockets: {error}",
            todo="Set TMPDIR to a folder that can be written to.",
        ) from None
    with folder as name:
        yield Path(name)


def _reserved_port(settings: Settings) -> socket.socket:
    """Holds the port for the processes that share it; never listens, so gets no connection."""
    try:
        return bound(settings, share_port=True)
    except OSError as error:
        raise port_refused(settings.host, settings.port, error) from None
