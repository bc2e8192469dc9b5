"""One gateway process: its connections to Redis, its sockets, and what it does by the clock.

Nothing here outlives a socket but counters: any gateway can be killed and its clients go on at
another (promise G6).
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import hmac
import random
import secrets
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any, Final

import orjson
import structlog

from broker.channels import Channel, Keys, Mode, Owner, Scope
from broker.config import Settings
from broker.errors import BrokerUnavailable, ConfigurationError
from broker.events import timestamp
from broker.redis.broker import Broker, Limits
from broker.redis.client import RedisClient
from gateway import close_codes
from gateway.auth import Identity, Verifier
from gateway.commands import Commands, new_id
from gateway.frames import control
from gateway.handshake import BadRequest, Opening
from gateway.relay import Relay
from gateway.stats import Latency
from gateway.sweeper import Sweeper
from gateway.websocket import WebSocket

log = structlog.get_logger(__name__)

_spread = random.SystemRandom().random

TICK_SECONDS: Final = 1.0
PROBE_SECONDS: Final = 5.0
PROBE_DEADLINE_SECONDS: Final = 2.0
PROBE_MISSES: Final = 2
"""Missed probes in a row after which the subscriber connection counts as deaf."""

REPORT_SECONDS: Final = 5.0
STALE_SECONDS: Final = 20.0
"""A node's report older than this is not part of the fleet any more."""

TAKE_UP_SECONDS: Final = 120
"""How long an isolated connection can be taken up after its loss."""

REFRESH_SECONDS: Final = 30.0
EXPIRY_NOTICE_SECONDS: Final = 60.0
EXPIRY_GRACE_SECONDS: Final = 25.0
START_SECONDS: Final = 5.0


class Node:
    """Everything that the sockets of one gateway process share."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.node_id = new_id()
        self.verifier = Verifier(settings)
        self.keys = Keys(settings.prefix, settings.partitions)
        url = redis_url(settings)
        self.client = RedisClient(url, name=f"gateway {self.node_id}")
        self.broker = Broker(self.client, keys=self.keys, limits=limits(settings))
        self.relay = Relay(self.broker, url, node_id=self.node_id)
        self.commands = Commands(
            self.broker, node_id=self.node_id, default_agent=settings.default_agent
        )
        self.sweeper = Sweeper(self.broker, node_id=self.node_id)
        self.sockets: set[WebSocket] = set()
        self.latency = Latency()
        self.draining = False
        self._emptied = asyncio.Event()
        self.started = time.monotonic()
        self.probe_ms: float | None = None
        self.probe_misses = 0
        self._control = self.keys.control(self.node_id)
        self._probe_heard: asyncio.Future[None] | None = None
        self._messages: Counter[Owner] = Counter()
        self._minute = 0
        self._tasks: list[asyncio.Task[None]] = []
        self.relay.on_heard = self._on_heard
        self.relay.on_latency = self._on_latency

    # --- life

    async def start(self) -> None:
        """Connect to Redis. BrokerUnavailable, with a clear text, after a bounded wait."""
        await self.client.start(timeout_seconds=START_SECONDS)
        try:
            await self.relay.subscriber.start(timeout_seconds=START_SECONDS)
            async with asyncio.timeout(START_SECONDS):
                await self.relay.subscriber.subscribe(self._control)
        except (BrokerUnavailable, TimeoutError) as error:
            await self.client.stop()
            await self.relay.stop()
            raise BrokerUnavailable(why=f"cannot subscribe: {error}") from error
        work = (self.sweeper.run, self._tick_for_ever, self._probe_for_ever, self._report_for_ever)
        self._tasks = [asyncio.create_task(each(), name=each.__qualname__) for each in work]

    async def stop(self) -> None:
        """Close every socket that is left, then the connections to Redis."""
        self.draining = True
        for socket in list(self.sockets):
            socket.close(close_codes.GOING_AWAY)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(BrokerUnavailable):
            await self.client.execute("HDEL", self.keys.nodes, self.node_id)
        await self.relay.stop()
        await self.client.stop()

    async def drain(self) -> None:
        """Send every client away over the drain window, spread, so that no storm arrives elsewhere.

        Not ready from now on; events flow to a socket until its own turn comes.
        """
        self.draining = True
        # The last fifth of the window is for sockets whose goodbye takes a while.
        window = self.settings.drain_seconds * 0.8
        ends = [(_spread() * window, at) for at in range(len(self.sockets))]
        sockets = list(self.sockets)
        if not sockets:
            self._emptied.set()
        heapq.heapify(ends)
        begun = time.monotonic()
        while ends:
            due, at = heapq.heappop(ends)
            await asyncio.sleep(max(0.0, due - (time.monotonic() - begun)))
            socket = sockets[at]
            socket.send(control("draining", {"reconnect_after_ms": 100 + round(_spread() * 900)}))
            socket.close(close_codes.GOING_AWAY)
        with suppress(TimeoutError):
            async with asyncio.timeout(self.settings.drain_seconds * 0.2):
                await self._emptied.wait()

    def left(self, socket: WebSocket) -> None:
        """A socket is gone."""
        self.sockets.discard(socket)
        if self.draining and not self.sockets:
            self._emptied.set()

    # --- who may connect, and to what

    def admit(self, identity: Identity, opening: Opening) -> None:
        """Refuse with :class:`BadRequest` what the token or the limits do not allow."""
        if opening.user_id is not None and opening.user_id != identity.owner.user:
            raise BadRequest("user_mismatch", "user_id must be the token's subject", status=403)
        if identity.modes is not None and opening.mode not in identity.modes:
            raise BadRequest("mode_not_allowed", "the token does not allow this mode", status=403)
        if self.draining:
            raise BadRequest("draining", "connect to another gateway", status=503)
        if not self.ready:
            raise BadRequest("broker_unavailable", "try again in a moment", status=503)
        most = self.settings.max_connections_per_user
        if sum(socket.identity.owner == identity.owner for socket in self.sockets) >= most:
            raise BadRequest(
                "too_many_connections", f"at most {most} connections per user", status=429
            )

    async def complete(self, identity: Identity, opening: Opening) -> Opening:
        """Fill in what the gateway chooses: a factory thread, an isolated connection's identity."""
        if opening.mode is Mode.FACTORY and opening.scope is Scope.THREAD:
            return replace(opening, thread_id=opening.thread_id or new_id())
        if opening.mode is not Mode.ISOLATED:
            return opening
        if opening.connection is None:
            opening = replace(opening, connection=new_id(), secret=secrets.token_urlsafe(32))
            key = self.keys.connection(identity.owner, opening.connection or "")
            await self.client.execute("SET", key, _digest(opening), "EX", self._keep_seconds)
            return opening
        key = self.keys.connection(identity.owner, opening.connection)
        known = await self.client.execute("GET", key)
        if known is None or not hmac.compare_digest(known, _digest(opening)):
            raise BadRequest("connection_unknown", "no such connection to take up", status=403)
        return opening

    def channel(
        self, identity: Identity, opening: Opening, connection_id: str, run_id: str | None
    ) -> Channel:
        """The channel of the connection's scope (protocol section 4)."""
        names = {
            Scope.USER: "",
            Scope.THREAD: opening.thread_id or "",
            Scope.RUN: run_id or "",
            Scope.CONNECTION: connection_id,
        }
        return self.keys.channel(identity.owner, opening.scope, names[opening.scope])

    def message_allowed(self, owner: Owner) -> bool:
        """Count one message of this user's minute; false when it is one too many."""
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            self._minute = minute
            self._messages.clear()
        self._messages[owner] += 1
        return self._messages[owner] <= self.settings.messages_per_minute

    # --- health and figures

    @property
    def ready(self) -> bool:
        """Whether this gateway can hear Redis now, and was not told to drain."""
        return (
            self.client.connected
            and self.relay.subscriber.hearing
            and self.probe_misses < PROBE_MISSES
            and not self.draining
        )

    def report(self) -> dict[str, Any]:
        """The counters of this gateway alone, as they go into Redis."""
        modes = Counter(socket.opening.mode.value for socket in self.sockets)
        return {
            "at": time.time(),
            "uptime_seconds": round(time.monotonic() - self.started, 3),
            "by_mode": {mode.value: modes[mode.value] for mode in Mode},
            "events": asdict(self.relay.hub.counters),
            "latency": {str(at): count for at, count in self.latency.counts.items()},
        }

    async def reports(self) -> list[dict[str, Any]]:
        """Every live node's last report, this one's fresh."""
        stored = await self.client.execute("HGETALL", self.keys.nodes)
        mine = self.node_id.encode()
        others = [
            orjson.loads(report)
            for name, report in zip(stored[::2], stored[1::2], strict=True)
            if name != mine
        ]
        fresh = time.time() - STALE_SECONDS
        return [self.report(), *(each for each in others if each["at"] > fresh)]

    # --- by the clock

    async def _tick_for_ever(self) -> None:
        beat = 0
        refreshed = time.monotonic()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = time.time()
            beat = (beat + 1) % self.settings.heartbeat_seconds
            for socket in list(self.sockets):
                if hash(socket.nonce) % self.settings.heartbeat_seconds == beat:
                    socket.beat()
                self._check_expiry(socket, now)
            if time.monotonic() - refreshed > REFRESH_SECONDS:
                refreshed = time.monotonic()
                with suppress(BrokerUnavailable):
                    await self._keep_connections()

    def _check_expiry(self, socket: WebSocket, now: float) -> None:
        left = socket.identity.expires_at - now
        if left < -EXPIRY_GRACE_SECONDS:
            socket.close(close_codes.UNAUTHORIZED)
        elif left < EXPIRY_NOTICE_SECONDS and not socket.expiry_told:
            socket.expiry_told = True
            expires_at = timestamp(int(socket.identity.expires_at * 1000))
            socket.send(control("token_expiring", {"expires_at": expires_at}))
            socket.flush()

    async def _keep_connections(self) -> None:
        """Isolated connections can be taken up for their time, counted from their loss."""
        await self.client.execute_many(
            [
                (
                    "EXPIRE",
                    self.keys.connection(socket.identity.owner, socket.connection_id),
                    self._keep_seconds,
                )
                for socket in self.sockets
                if socket.opening.mode is Mode.ISOLATED
            ]
        )

    @property
    def _keep_seconds(self) -> int:
        return TAKE_UP_SECONDS + round(REFRESH_SECONDS)

    async def _probe_for_ever(self) -> None:
        """Publish to ourselves and listen for it: the only proof that the subscriber hears."""
        while True:
            self.probe_ms = await self._probe()
            if self.probe_ms is not None:
                self.probe_misses = 0
                await asyncio.sleep(PROBE_SECONDS)
                continue
            self.probe_misses += 1
            if self.probe_misses >= PROBE_MISSES:
                log.error("subscriber_deaf", misses=self.probe_misses)
                self.relay.subscriber.reconnect()
            await asyncio.sleep(TICK_SECONDS)

    async def _probe(self) -> float | None:
        """Milliseconds until our own message was heard; None when it was not in time."""
        heard = asyncio.get_running_loop().create_future()
        self._probe_heard = heard
        sent = time.monotonic()
        try:
            async with asyncio.timeout(PROBE_DEADLINE_SECONDS):
                await self.client.execute("PUBLISH", self._control, b"probe")
                await heard
        except (TimeoutError, BrokerUnavailable):
            return None
        return (time.monotonic() - sent) * 1000

    async def _report_for_ever(self) -> None:
        while True:
            with suppress(BrokerUnavailable):
                await self.client.execute_many(
                    [
                        ("HSET", self.keys.nodes, self.node_id, orjson.dumps(self.report())),
                        ("EXPIRE", self.keys.nodes, round(STALE_SECONDS * 3)),
                    ]
                )
            await asyncio.sleep(REPORT_SECONDS)

    def _on_heard(self, channel: bytes, message: bytes) -> bool:
        if channel != self._control:
            return False
        if message == b"probe" and self._probe_heard is not None and not self._probe_heard.done():
            self._probe_heard.set_result(None)
        return True

    def _on_latency(self, sent_ms: list[int]) -> None:
        now_ms = time.time() * 1000
        for sent in sent_ms:
            self.latency.add(now_ms - sent)


def _digest(opening: Opening) -> bytes:
    """What Redis keeps of a connection's secret."""
    return hashlib.sha256((opening.secret or "").encode()).hexdigest().encode()


def limits(settings: Settings) -> Limits:
    """The broker's limits, from the settings."""
    return Limits(
        history_events=settings.history_events,
        history_ttl_seconds=settings.history_ttl_seconds,
        max_event_bytes=settings.max_event_bytes,
        lease_seconds=settings.lease_seconds,
        queue_timeout_seconds=settings.queue_timeout_seconds,
        stop_deadline_seconds=settings.stop_deadline_seconds,
    )


def redis_url(settings: Settings) -> str:
    """The one Redis that this version can talk to."""
    url = settings.redis_url
    if url is None:
        raise ConfigurationError(
            setting="RUNCAST_REDIS_URL",
            why="it is not set",
            todo="Set it, or start a Redis with: runcast redis",
        )
    return url
