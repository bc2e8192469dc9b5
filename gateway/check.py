"""``runcast check``: whether a gateway with this configuration would work; if not, what to do."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Final

import orjson
from rich.console import Console
from rich.text import Text

from broker.channels import Keys
from broker.config import Settings
from broker.embedded import OLDEST_VERSION, find_server
from broker.errors import BrokerUnavailable, ConfigurationError, RuncastError
from broker.redis.client import RedisClient
from broker.redis.topology import new_client, new_subscriber
from gateway.fastpath import BUILT
from gateway.jwks import FetchedKeys
from gateway.key_source import KeySource, key_source
from gateway.origins import Origins
from gateway.proxies import Proxies
from gateway.tls import Certificate
from gateway.webhooks.target import Target

KEEP_SECONDS: Final = 60
"""The time to live that a report of the nodes has anyway."""

START_SECONDS: Final = 10.0
"""As long as a gateway waits for Redis when it starts."""


_NOT_BUILT: Final = (
    "not built, so deliveries take more CPU; with a C compiler and Python's headers, install again"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; ``detail`` says what was found or what to do."""

    name: str
    ok: bool
    detail: str


async def findings(settings: Settings) -> list[Finding]:
    """Look at everything that a gateway needs. The settings themselves have been validated."""
    found = [Finding("settings", ok=True, detail="all known and possible")]
    found.append(Finding("fast path", ok=True, detail="built" if BUILT else _NOT_BUILT))
    try:
        found.append(await _keys(key_source(settings), settings))
    except ConfigurationError as error:
        found.append(Finding("token keys", ok=False, detail=str(error)))
    found += _edge(settings)
    try:
        if settings.redis_url is None:
            server = await asyncio.to_thread(find_server)
            found.append(Finding("redis", ok=True, detail=f"embedded: {server}"))
        else:
            keys = Keys(settings.prefix, settings.partitions)
            found += await _redis(
                settings.redis_url, keys, replicated=settings.durability == "replicated"
            )
            if settings.sweeper_redis_url is not None:
                publishes = settings.worker_key is not None
                found.append(await _sweeper(settings.sweeper_redis_url, keys, publishes=publishes))
    except (RuncastError, ValueError) as error:
        found.append(
            Finding("redis", ok=False, detail=f"{str(error).rstrip('.')}. Check RUNCAST_REDIS_URL.")
        )
    return found


def _edge(settings: Settings) -> list[Finding]:
    """Who may connect, and over what; only what is configured is told."""
    found = []
    if settings.allowed_origins:
        found.append(_tried("origins", lambda: Origins(settings.allowed_origins)))
    if settings.trusted_proxies:
        found.append(_tried("proxies", lambda: Proxies(settings.trusted_proxies)))
    if settings.webhook_url is not None:
        found.append(_tried("webhook", lambda: Target.of(settings)))
    try:
        certificate = Certificate.of(settings)
    except ConfigurationError as error:
        return [*found, Finding("certificate", ok=False, detail=str(error))]
    if certificate is not None:
        now = datetime.now(UTC)
        fault = certificate.fault(now)
        detail = f"valid until {certificate.expires_at:%Y-%m-%d %H:%M} UTC"
        if fault is not None:
            detail = f"{fault}: browsers and clients refuse it. Renew it."
        elif certificate.ends_soon(now):
            detail += ": renew it, the gateway takes up the new one by itself"
        found.append(Finding("certificate", ok=fault is None, detail=detail))
    return found


def _tried(name: str, make: Callable[[], object]) -> Finding:
    try:
        make()
    except ConfigurationError as error:
        return Finding(name, ok=False, detail=str(error))
    return Finding(name, ok=True, detail="all possible")


def show(found: list[Finding], *, as_json: bool) -> None:
    """Print the findings on standard output."""
    if as_json:
        checks = [asdict(finding) for finding in found]
        told = {"ok": all(finding.ok for finding in found), "checks": checks}
        sys.stdout.write(f"{orjson.dumps(told).decode()}\n")
        return
    console = Console(highlight=False)
    for finding in found:
        line = Text("✔ " if finding.ok else "✘ ", style="green" if finding.ok else "red")
        line.append(f"{finding.name:<16}", style="bold")
        line.append(f" {finding.detail}", style="default")
        console.print(line, soft_wrap=True)


async def _keys(source: KeySource, settings: Settings) -> Finding:
    """The keys that a gateway would start with."""
    setting = "RUNCAST_JWT_SECRET"
    if settings.jwt_public_key_file:
        setting = "RUNCAST_JWT_PUBLIC_KEY_FILE"
    if isinstance(source, FetchedKeys):
        setting = "RUNCAST_JWT_JWKS_URL"
        await source.refresh()
        if not (health := source.health())["ok"]:
            why = source.why or health["detail"]
            todo = "Check the address, and that its server answers with a key set."
            return Finding("token keys", ok=False, detail=f"{setting}: {why}. {todo}")
    keys = source.keys
    kids = ", ".join(sorted(kid for kid in keys.kids if kid is not None)) or "no kid"
    detail = f"{len(keys)} from {setting} ({kids}); accepts {', '.join(keys.algorithms)}"
    if not settings.jwt_audience and setting != "RUNCAST_JWT_SECRET":
        detail += "; for any audience, as RUNCAST_JWT_AUDIENCE is not set"
    return Finding("token keys", ok=True, detail=detail)


async def _redis(url: str, keys: Keys, *, replicated: bool) -> list[Finding]:
    client = new_client(url, name="check")
    await client.start(timeout_seconds=START_SECONDS)
    try:
        server = (await client.execute(b"INFO", b"server")).decode()
        memory = (await client.execute(b"INFO", b"memory")).decode()
        await _use(client, url, keys)
        replicas = await client.submit_to(keys.nodes, "WAIT", 1, 500) if replicated else 1
    finally:
        await client.stop()
    version = _field(server, "redis_version")
    numbers = tuple(int(part) for part in version.split(".")[:2])
    found = [Finding("redis", ok=True, detail=f"reached, version {version}")]
    if numbers < OLDEST_VERSION:
        found = [Finding("redis", ok=False, detail=f"version {version}; 6.2 or newer is needed")]
    if not replicas:
        detail = "none confirms a write, so with RUNCAST_DURABILITY=replicated nothing is published"
        found.append(Finding("redis replica", ok=False, detail=detail))
    policy = _field(memory, "maxmemory_policy")
    if policy not in ("", "noeviction"):
        detail = f"maxmemory-policy is {policy}: events can vanish. Set it to noeviction."
        found.append(Finding("redis memory", ok=False, detail=detail))
    return found


async def _sweeper(url: str, keys: Keys, *, publishes: bool) -> Finding:
    """Read what a sweeper reads, and who publishes for workers over HTTP, as far as there are."""
    client = new_client(url, name="check")
    try:
        await client.start(timeout_seconds=START_SECONDS)
        await client.execute("GET", keys.sweeper)
        await client.execute("ZRANGEBYSCORE", keys.leases(0), "-inf", 0, "LIMIT", 0, 1)
        if publishes:
            await client.execute("STRLEN", keys.text(0, "check"))
    except BrokerUnavailable as error:
        todo = "Check RUNCAST_SWEEPER_REDIS_URL"
        return Finding("redis sweeper", ok=False, detail=f"{str(error).rstrip('.')}. {todo}.")
    finally:
        await client.stop()
    return Finding("redis sweeper", ok=True, detail="reached, as a user of its own")


async def _use(client: RedisClient, url: str, keys: Keys) -> None:
    """Read, write and subscribe as a gateway does; BrokerUnavailable when a right is missing."""
    await client.execute("HGETALL", keys.nodes)
    await client.execute("EXPIRE", keys.nodes, KEEP_SECONDS)
    subscriber = new_subscriber(url, name="check", on_message=lambda *_: None)
    try:
        await subscriber.start(timeout_seconds=START_SECONDS)
        async with asyncio.timeout(START_SECONDS):
            await subscriber.subscribe(keys.control("check"))
            await client.publish(keys.control("check"), b"check")
    except TimeoutError:
        why = subscriber.why or "subscribing is not acknowledged"
        raise BrokerUnavailable(why=why) from None
    finally:
        await subscriber.stop()


def _field(info: str, name: str) -> str:
    match = re.search(rf"^{name}:(.*?)\r?$", info, re.MULTILINE)
    return match[1] if match else ""
