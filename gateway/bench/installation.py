"""What is measured: the installation at a URL, or a gateway of the bench's own."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import aiohttp
import orjson
from pydantic import SecretStr
from redis.exceptions import ResponseError

from broker.channels import Keys
from broker.config import ENV_PREFIX, Settings, least_ttl_seconds
from broker.embedded import EmbeddedRedis, tethered
from broker.errors import BrokerUnavailable, ConfigurationError
from broker.redis.address import Topology, parse
from broker.redis.broker import Broker
from broker.redis.store import Limits
from broker.redis.topology import new_client
from gateway.bench import wire
from gateway.bench.failure import BenchFailed
from gateway.bench.processes import cpu_seconds, gateway_processes, resident_bytes
from gateway.key_source import require_verification_key
from gateway.tokens import issue_token

ROOT: Final = str(Path(__file__).resolve().parents[2])
"""Where the packages are: in a checkout, a child's Python must be told."""

START_SECONDS: Final = 20.0
STOP_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 5.0
TOKEN_SECONDS: Final = 3600.0
"""Longer than any bench; a token that expires on the way would close its connection."""

OWN_TTL_SECONDS: Final = 300
"""How long keys of a gateway of the bench's own outlive a bench that was killed."""

_SERVING: Final = re.compile(r"Serving at (\S+?);")


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """A gateway that runs, its Redis, and what is known of their processes.

    ``pids``: of the gateway; empty when they are not known, and ``unknown`` says why.
    """

    url: str
    own: bool
    settings: Settings
    target: wire.Target
    broker: Broker
    config: dict[str, Any]
    pids: tuple[int, ...]
    unknown: str
    redis_version: str
    redis_told: bool

    def sign(self, user: str) -> str:
        """A token for a user of the bench's own."""
        settings = self.settings
        assert settings.jwt_secret is not None  # noqa: S101 - required before anything started
        return issue_token(
            secret=settings.jwt_secret.get_secret_value(),
            alg=require_verification_key(settings)[0],
            user=user,
            ttl_seconds=TOKEN_SECONDS,
            now=time.time(),
            audience=next(iter(settings.jwt_audience), None),
            issuer=settings.jwt_issuer,
            token_type=settings.jwt_type,
        )

    def gateway_cpu(self) -> tuple[float, ...] | None:
        """CPU seconds of each gateway process so far."""
        taken = [cpu_seconds(pid) for pid in self.pids]
        known = tuple(each for each in taken if each is not None)
        return known if known and len(known) == len(taken) else None

    def gateway_bytes(self) -> int | None:
        """Resident memory of all of them."""
        sizes = [resident_bytes(pid) for pid in self.pids]
        known = [each for each in sizes if each is not None]
        return sum(known) if known and len(known) == len(sizes) else None

    async def redis_cpu(self) -> float | None:
        """CPU seconds of Redis so far, by its own account."""
        if not self.redis_told:
            return None
        info = await _info(self.broker, "cpu")
        words = [_field(info, f"used_cpu_{kind}") for kind in ("sys", "user")]
        return sum(map(float, words)) if all(words) else None


@asynccontextmanager
async def given(settings: Settings) -> AsyncIterator[Installation]:
    """The installation at ``settings.url``; it is left as it was."""
    if settings.redis_url is None:
        raise ConfigurationError(
            setting="RUNCAST_REDIS_URL",
            why="with a --url the bench publishes through that gateway's Redis, and none is given",
            todo="Set it to what the gateway has; without --url the bench starts a gateway itself.",
        )
    if settings.jwt_secret is None:
        raise ConfigurationError(
            setting="RUNCAST_JWT_SECRET",
            why="the bench signs tokens for users of its own, and has nothing to sign with",
            todo="Set it to the gateway's. If your gateway has a public key, measure one of the "
            "bench's own: leave --url out.",
        )
    require_verification_key(settings)
    target = wire.target(settings.url)
    config = await _config(target, settings.url)
    history = config["history"]
    update = {"history_events": history["events"], "history_ttl_seconds": history["ttl_seconds"]}
    settings = settings.model_copy(update=update)
    pids, unknown = gateway_processes(target.host, target.port)
    async with _connected(settings, target, config, own=False) as found:
        yield replace(found, pids=pids, unknown=unknown)


@asynccontextmanager
async def own(settings: Settings, *, name: str) -> AsyncIterator[Installation]:
    """A gateway process of the bench's own, with keys of its own in the Redis that is configured.

    Without one it starts a Redis, too. All of it is gone at the end.
    """
    keys = {
        field: Settings.model_fields[field].default
        for field in Settings.model_fields
        if field.startswith("jwt_")
    }
    update: dict[str, object] = {
        **keys,
        "jwt_secret": SecretStr(secrets.token_urlsafe(48)),
        "prefix": name,
        "host": "127.0.0.1",
        "port": 0,
        "history_ttl_seconds": max(OWN_TTL_SECONDS, least_ttl_seconds(vars(settings))),
        "drain_seconds": 0,
        "log_level": "error",
    }
    settings = settings.model_copy(update=update)
    async with AsyncExitStack() as parts:
        if settings.redis_url is None:
            redis = await parts.enter_async_context(EmbeddedRedis())
            settings = settings.model_copy(update={"redis_url": redis.url})
        process, url = await _start(settings)
        parts.push_async_callback(_stop, process)
        settings = settings.model_copy(update={"url": url})
        target = wire.target(url)
        config = await _config(target, url)
        connected = _connected(settings, target, config, own=True)
        found = await parts.enter_async_context(connected)
        yield replace(found, pids=(process.pid,))


def child_environment(settings: Settings | None = None) -> dict[str, str]:
    """For a process of the bench's own: with these settings, and none of the caller's."""
    paths = [ROOT, os.environ.get("PYTHONPATH", "")]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    chosen = {
        f"{ENV_PREFIX}{name.upper()}": _as_text(value)
        for name, value in (settings or ())
        if value != Settings.model_fields[name].default
    }
    return {**clean, **chosen, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def _as_text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


@asynccontextmanager
async def _connected(
    settings: Settings, target: wire.Target, config: dict[str, Any], *, own: bool
) -> AsyncIterator[Installation]:
    url = settings.redis_url or ""
    client = new_client(url, name="bench")
    await client.start(timeout_seconds=ANSWER_SECONDS)
    try:
        broker = Broker(
            client, keys=Keys(settings.prefix, settings.partitions), limits=Limits.of(settings)
        )
        server = await _info(broker, "server")
        yield Installation(
            url=settings.url,
            own=own,
            settings=settings,
            target=target,
            broker=broker,
            config=config,
            pids=(),
            unknown="",
            redis_version=_field(server, "redis_version") or "unknown",
            redis_told=bool(server) and parse(url).topology is not Topology.CLUSTER,
        )
    finally:
        await client.stop()


async def _config(target: wire.Target, url: str) -> dict[str, Any]:
    """What the gateway says of itself."""
    wrong = "Give the gateway's address as ws://host:port/ws."
    address = f"{target.http}/ws/config"
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as http, http.get(address) as answer:
            told = orjson.loads(await answer.read())
    except (aiohttp.ClientConnectorError, TimeoutError) as error:
        raise BenchFailed(
            why=f"{url} cannot be reached: {str(error) or 'no answer in time'}",
            todo="Start a gateway there, or leave --url and RUNCAST_URL out to measure one of the "
            "bench's own.",
        ) from None
    except (aiohttp.ClientError, orjson.JSONDecodeError) as error:
        raise BenchFailed(why=f"{address} is no gateway's: {error}", todo=wrong) from None
    if not isinstance(told, dict) or told.get("protocol") != 3:  # noqa: PLR2004 - its version
        raise BenchFailed(why=f"{address} is no gateway's of protocol 3", todo=wrong)
    return told


async def _start(settings: Settings) -> tuple[asyncio.subprocess.Process, str]:
    """A gateway as anyone starts it: a process of its own, by the command line."""
    process = await asyncio.create_subprocess_exec(
        *tethered([sys.executable, "-m", "gateway", "gateway"], signal.SIGKILL),
        env=child_environment(settings),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,  # what goes wrong is on standard error
        start_new_session=True,  # a Ctrl-C on the terminal is the bench's to handle
    )
    try:
        async with asyncio.timeout(START_SECONDS):
            assert process.stdout is not None  # noqa: S101 - a pipe, as asked for
            line = (await process.stdout.readline()).decode(errors="replace")
            found = _SERVING.search(line)
    except BaseException:
        await _stop(process)
        raise
    if found is None:
        await _stop(process)
        raise BenchFailed(
            why="The gateway of the bench's own did not start",
            todo="What it wrote stands above; `runcast check` looks at the configuration.",
        )
    return process, found[1]


async def _stop(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.terminate()
    await wait_or_kill(process)


async def wait_or_kill(process: asyncio.subprocess.Process) -> None:
    """Wait for a process that was told to end; killed when it takes too long."""
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _info(broker: Broker, section: str) -> str:
    """A section of Redis' own account; empty when this user may not read it."""
    try:
        info: bytes = await broker.client.execute("INFO", section)
    except (ResponseError, BrokerUnavailable):
        return ""
    return info.decode(errors="replace")


def _field(info: str, name: str) -> str:
    match = re.search(rf"^{name}:(.*?)\r?$", info, re.MULTILINE)
    return match[1] if match else ""
