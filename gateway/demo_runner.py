"""``runcast demo``: a real system on one machine, and nothing left of it afterwards."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import secrets
import signal
import socket
import sys
import webbrowser
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr
from rich.console import Console

from broker import events
from broker.config import Settings, load_settings
from broker.embedded import EmbeddedRedis, tethered
from broker.errors import RuncastError
from broker.logs import configure_logging
from gateway.app import Gateway
from gateway.client import ChatClient, Rejected
from gateway.console import show_event
from gateway.demo import SAMPLES, USERS, DemoConfig
from gateway.serve import port_refused

WORKER: Final = "agents_sdk.demo:worker"
ROOT: Final = str(Path(__file__).resolve().parent.parent)
"""Where the packages are: in a checkout, the worker's Python must be told."""
SAMPLE_SECONDS: Final = 60.0
WORKER_START_SECONDS: Final = 20.0
WORKER_STOP_SECONDS: Final = 5.0
_LOOK_SECONDS: Final = 0.1


class DemoFailed(RuncastError):
    """A part of the demo did not do its work."""


def run_demo(*, port: int, once: bool, open_page: bool) -> int:
    """The exit status: 0 when stopped by Ctrl-C or SIGTERM, or when the one sample went well."""
    return asyncio.run(_until_stopped(port=port, once=once, open_page=open_page))


async def _until_stopped(*, port: int, once: bool, open_page: bool) -> int:
    loop = asyncio.get_running_loop()
    demo = asyncio.create_task(_demo(port=port, once=once, open_page=open_page))
    asked = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked.set)
    stopper = asyncio.create_task(asked.wait())
    await asyncio.wait({demo, stopper}, return_when=asyncio.FIRST_COMPLETED)
    stopper.cancel()
    if not demo.done():
        demo.cancel()
        with suppress(asyncio.CancelledError):
            await demo
        return 0
    return demo.result()


async def _demo(*, port: int, once: bool, open_page: bool) -> int:
    secret = secrets.token_urlsafe(48)
    settings = _demo_settings(port, secret)
    configure_logging(settings.log_format, "warning")
    _require_free(settings.host, port)
    out = Console(highlight=False)
    async with AsyncExitStack() as parts:
        redis = None
        if settings.redis_url is None:
            redis = EmbeddedRedis()
            await redis.start(data_dir=settings.data_dir)
            parts.push_async_callback(redis.stop)
            own = {"redis_url": redis.url, "sweeper_redis_url": None}
            settings = settings.model_copy(update=own)
            out.print(f"redis    pid {redis.pid}", style="dim")
        config = DemoConfig(secret=secret)
        gateway = await parts.enter_async_context(Gateway(settings, demo=config))
        scheme = "http" if settings.tls_certificate_file is None else "https"
        address = f"{scheme}://{_shown(settings.host)}:{gateway.port}/"
        out.print(f"gateway  pid {os.getpid()}, port {gateway.port}", style="dim")
        worker = await _start_worker(settings)
        parts.push_async_callback(_stop_worker, worker)
        out.print(f"worker   pid {worker.pid}", style="dim")
        try:
            async with asyncio.timeout(SAMPLE_SECONDS):
                missing = await _sample(out, address, config, worker)
        except TimeoutError:
            raise DemoFailed(f"The sample did not end within {SAMPLE_SECONDS:.0f} s.") from None
        if missing:
            out.print(f"The sample did not go well; missing: {', '.join(missing)}", style="red")
        if once:
            return 1 if missing else 0
        names = " and ".join(user["name"] for user in USERS)
        out.print(f"\nChat page: {address}", soft_wrap=True)
        out.print(f"Log in as {names}. Ctrl-C stops everything.", style="dim")
        key = "" if settings.operator_key is None else settings.operator_key.get_secret_value()
        out.print(f"Operators' console: {address}console", soft_wrap=True)
        out.print(f"Its operator key, to see all and to act: {key}", style="dim", soft_wrap=True)
        if open_page:
            await asyncio.to_thread(webbrowser.open, address)
        raise await _part_ended(worker, redis)


def _demo_settings(port: int, secret: str) -> Settings:
    """The user's settings, but with a key of the demo's own, so that none has to be configured."""
    settings = load_settings(port=port)
    own = {
        name: Settings.model_fields[name].default
        for name in Settings.model_fields
        if name.startswith("jwt_")
    }
    keys = {
        "jwt_secret": SecretStr(secret),
        "operator_key": settings.operator_key or SecretStr(secrets.token_urlsafe(24)),
    }
    return settings.model_copy(update={**own, **keys, "drain_seconds": 1, "default_agent": None})


def _require_free(host: str, port: int) -> None:
    """Told before anything starts; several gateways may otherwise share a port without a word."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise port_refused(host, port, error) from None


async def _start_worker(settings: Settings) -> asyncio.subprocess.Process:
    """A worker as anyone starts it: a process of its own, by the command line."""
    paths = [ROOT, os.environ.get("PYTHONPATH", "")]
    command = [sys.executable, "-m", "gateway", "worker", WORKER]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "RUNCAST_REDIS_URL": settings.redis_url or "",
        "RUNCAST_LOG_LEVEL": "warning",
        "RUNCAST_DRAIN_SECONDS": "1",
    }
    return await asyncio.create_subprocess_exec(
        # Should the demo be killed, there is nothing to drain into: its Redis goes as well.
        *tethered(command, signal.SIGKILL),
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,  # what goes wrong is on standard error
        start_new_session=True,  # a Ctrl-C on the terminal is the demo's to handle
    )


async def _stop_worker(worker: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        worker.terminate()
    try:
        async with asyncio.timeout(WORKER_STOP_SECONDS):
            await worker.wait()
    except TimeoutError:
        worker.kill()
        await worker.wait()


async def _sample(
    out: Console, address: str, config: DemoConfig, worker: asyncio.subprocess.Process
) -> list[str]:
    """Ask the first sample as the first user; what did not come of all five and its success."""
    user, sample = USERS[0], SAMPLES[0]

    login = config.token(user["id"])
    if login is None:
        raise DemoFailed(f"{user['id']} is no user of the demo.")
    url = f"{address.replace('http', 'ws', 1)}ws"
    out.print(f"\n{user['name']} asks about: {sample['title']}", style="bold")
    missing = list(events.LIFECYCLE)
    async with ChatClient(url, token=login["token"]) as chat:
        run_id = await _send(chat, sample["content"], worker)
        async for event in chat.events():
            if event.get("run_id") != run_id or event["type"] == events.AGENT_DELTA:
                continue
            if event["type"] in missing:
                missing.remove(event["type"])
            if event["type"] in events.LIFECYCLE:
                show_event(out, event)
            if event["type"] == events.AGENT_COMPLETED:
                succeeded = event["payload"]["status"] == "succeeded"
                return missing if succeeded else [*missing, "success"]
    return missing


async def _send(chat: ChatClient, content: str, worker: asyncio.subprocess.Process) -> str:
    """The run id, as soon as the worker has announced its agent."""
    deadline = asyncio.get_running_loop().time() + WORKER_START_SECONDS
    while True:
        try:
            return (await chat.send(content)).id
        except Rejected as rejected:
            if worker.returncode is not None:
                raise DemoFailed("The worker ended; what it wrote stands above.") from None
            if rejected.code != "unknown_agent" or asyncio.get_running_loop().time() > deadline:
                raise
        await asyncio.sleep(_LOOK_SECONDS)


async def _part_ended(
    worker: asyncio.subprocess.Process, redis: EmbeddedRedis | None
) -> DemoFailed:
    """A demo without one of its parts would only seem to work."""
    ends: dict[asyncio.Task[Any], str] = {asyncio.create_task(worker.wait()): "The worker"}
    if redis is not None:
        ends[asyncio.create_task(redis.ended())] = "Redis"
    try:
        done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in ends:
            task.cancel()
    part = ends[done.pop()]
    return DemoFailed(f"{part} ended by itself, so the demo stops.")


def _shown(host: str) -> str:
    """An address that a browser on this machine can open."""
    try:
        listened = ipaddress.ip_address(host)
    except ValueError:  # a name
        return host
    if isinstance(listened, ipaddress.IPv4Address):
        return "127.0.0.1" if listened.is_unspecified else host
    return "[::1]" if listened.is_unspecified else f"[{host}]"
