"""One gateway process: its connections to Redis, its sockets, and what it does by the clock.

Nothing here outlives a socket but counters: any gateway can be killed and its clients go on at
another (promise G6). It is long because here all the parts are put together.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import structlog
from redis.exceptions import ResponseError

from broker import tracing
from broker.bucket import Bucket
from broker.channels import Channel, Keys, Scope
from broker.config import Settings
from broker.errors import BrokerUnavailable
from broker.events import timestamp
from broker.redis.broker import Broker, Limits
from broker.redis.topology import new_client, url_of
from broker.rhythm import beat
from gateway import close_codes
from gateway.admission import Admission, policy_of
from gateway.auth import Verifier
from gateway.claims import Identity
from gateway.commands import Commands, new_id
from gateway.connection import Connection
from gateway.departures import departures
from gateway.fleet import REPORT_SECONDS, Fleet
from gateway.frames import control
from gateway.handshake import Opening
from gateway.meters import STAGES_PER_TURN, Meters
from gateway.orders import Orders
from gateway.probe import Probe
from gateway.relay import Relay
from gateway.report import report
from gateway.revocation import Revocations
from gateway.seats import Seats
from gateway.slow import AT_ONCE, SlowClients
from gateway.sockets import Sockets
from gateway.stats import Tally
from gateway.sweeper import Sweeper
from gateway.tail import TailCheck
from gateway.take_up import REFRESH_SECONDS, TakeUp
from gateway.tickets import Tickets
from gateway.webhooks.sender import Sender

log = structlog.get_logger(__name__)

_spread = random.SystemRandom()

FRAMES_PER_SECOND: Final = 100
FRAMES_AT_ONCE: Final = 1000
"""Of one client, of whatever kind, beyond its messages of a minute: it is closed with 4429 then. To
read and answer frames as fast as they come would hold up everybody else."""

LAGS_PER_SECOND: Final = 4
"""How often it is looked how late the event loop is."""

BEATS_AT_ONCE: Final = 8
"""Each heartbeat is a write to the kernel: no event waits for all of a second's."""

EXPIRY_GRACE_SECONDS: Final = 25.0
START_SECONDS: Final = 10.0


class Node:
    """Everything that the sockets of one gateway process share."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.node_id = new_id()
        self.verifier = Verifier(settings)
        self.keys = Keys(settings.prefix, settings.partitions)
        url = url_of(settings)
        self.client = new_client(url, name=f"gateway {self.node_id}")
        self.broker = Broker(self.client, keys=self.keys, limits=Limits.of(settings))
        self.tracing = tracing.start(settings, service="runcast-gateway", instance=self.node_id)
        self.relay = Relay(self.broker, url, node_id=self.node_id, tracing=self.tracing)
        # With which runs are published and ended: a connection with rights of its own, or the same.
        self.ending = self.broker
        if settings.sweeper_redis_url is not None:
            sweeping = new_client(settings.sweeper_redis_url, name=f"sweeper {self.node_id}")
            self.ending = Broker(sweeping, keys=self.keys, limits=Limits.of(settings))
        self.commands = Commands(
            self.broker,
            ending=self.ending,
            node_id=self.node_id,
            default_agent=settings.default_agent,
            tracing=self.tracing,
        )
        self.sweeper = Sweeper(self.ending, node_id=self.node_id, tracing=self.tracing)
        self.webhooks = Sender.of(settings, self.ending, node_id=self.node_id)
        self.sockets: Sockets[Connection] = Sockets(settings.heartbeat_seconds)
        self.meters = Meters()
        self.slow = SlowClients()
        self.closes = Counter(dict.fromkeys(close_codes.COUNTED, 0))
        self.draining = False
        self._emptied = asyncio.Event()
        self.started = time.monotonic()
        subscriber = self.relay.subscriber
        probed = range(self.keys.partitions if subscriber.sharded else 1)
        channels = [self.keys.probe(self.node_id, partition) for partition in probed]
        self.probe = Probe(self.client, subscriber, channels)
        self.tail = TailCheck(self.relay)
        self.frames = Bucket.per(
            FRAMES_PER_SECOND, 1, burst=FRAMES_AT_ONCE + settings.messages_per_minute
        )
        self.tally = Tally()
        self.fleet = Fleet(self.client, self.keys, node_id=self.node_id)
        policy = policy_of(settings)
        self.seats = Seats(
            self.broker,
            self.sockets,
            policy,
            node_id=self.node_id,
            heartbeat_seconds=settings.heartbeat_seconds,
        )
        self.admission = Admission(
            policy, self.broker, self.seats, self.fleet, node_id=self.node_id
        )
        self.take_up = TakeUp(self.client, self.keys)
        self.tickets = Tickets(self.client, self.keys)
        self.revocations = Revocations(self.broker, self.verifier)
        self.orders = Orders(
            self.broker, self.sockets, self.revocations, node_id=self.node_id, drain=self.drain
        )
        self._tasks: list[asyncio.Task[None]] = []
        self.on_tick: Callable[[], None] = lambda: None
        self.relay.on_heard = self._on_heard
        self.relay.on_latency = self.meters.heard
        self.relay.on_stages = self.meters.staged
        self.relay.stages_wanted = STAGES_PER_TURN
        self.probe.on_trip = self.meters.probe.observe

    # --- life

    async def start(self) -> None:
        """Connect to Redis. BrokerUnavailable, with a clear text, after a bounded wait."""
        await self.client.start(timeout_seconds=START_SECONDS)
        try:
            if self.ending.client is not self.client:
                await self.ending.client.start(timeout_seconds=START_SECONDS)
                await self.ending.due([0], epoch_ms=0, most=1)
            subscriber = self.relay.subscriber
            await subscriber.start(timeout_seconds=START_SECONDS)
            async with asyncio.timeout(START_SECONDS):
                await self.probe.listen()
                await subscriber.subscribe(self.keys.orders)
                await self.orders.start()
                # The first write: a missing right is told before serving.
                await self.fleet.tell(self.report())
                if self.webhooks is not None:
                    await self.webhooks.start()
        except (BrokerUnavailable, TimeoutError) as error:
            await self._disconnect()
            told = error.why if isinstance(error, BrokerUnavailable) else ""
            why = told or self.relay.subscriber.why or "no answer in time"
            raise BrokerUnavailable(why=why) from error
        await self.verifier.start()
        work = [
            self.sweeper.run,
            self._tick_for_ever,
            self.probe.run,
            self.tail.run,
            self.orders.run,
            self._sweep_for_ever,
            self._report_for_ever,
            self.seats.run,
        ]
        if self.webhooks is not None:
            work.append(self.webhooks.run)
        self._tasks = [asyncio.create_task(each(), name=each.__qualname__) for each in work]

    async def stop(self) -> None:
        """Close every socket that is left, then the connections to Redis."""
        self.draining = True
        for socket in list(self.sockets):
            socket.close(close_codes.GOING_AWAY)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.verifier.stop()
        if self.webhooks is not None:
            await self.webhooks.stop()
        with suppress(BrokerUnavailable, ResponseError):  # the others see by and by that it is gone
            await self.seats.give_up()
            await self.fleet.leave()
        await self._disconnect()

    async def _disconnect(self) -> None:
        await self.relay.stop()
        await self.client.stop()
        await tracing.flush(self.tracing)
        if self.ending.client is not self.client:
            await self.ending.client.stop()

    async def drain(self) -> None:
        """Send every client away over the drain window, spread, so that no storm arrives elsewhere.

        Not ready from now on; events flow to a socket until its own turn comes.
        """
        self.draining = True
        # The last fifth of the time is for sockets whose goodbye takes a while.
        window = self.settings.drain_seconds * 0.8
        sockets = list(self.sockets)
        _spread.shuffle(sockets)  # one user's, and one page's, need not go together
        if not sockets:
            self._emptied.set()
        begun = time.monotonic()
        turns = departures(len(sockets), window, _spread.random)
        for socket, turn in zip(sockets, turns, strict=True):
            await asyncio.sleep(max(0.0, turn.after_seconds - (time.monotonic() - begun)))
            socket.send(control("draining", {"reconnect_after_ms": turn.back_ms}))
            socket.close(close_codes.GOING_AWAY)
        with suppress(TimeoutError):
            async with asyncio.timeout(self.settings.drain_seconds * 0.2):
                await self._emptied.wait()

    def left(self, socket: Connection) -> None:
        """A socket is gone."""
        self.sockets.discard(socket)
        self.seats.left(socket.identity.owner)
        if self.draining and not self.sockets:
            self._emptied.set()

    # --- who may connect, and to what

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

    # --- what operators order

    def _on_heard(self, channel: bytes, message: bytes) -> None:
        """A message of no channel of a user."""
        if channel == self.keys.orders:
            self.orders.wake()
        else:
            self.probe.heard(channel, message)

    async def _sweep_for_ever(self) -> None:
        turns = map(self.sockets.turn, itertools.count())
        await self.revocations.sweep_for_ever(turns)

    # --- health and figures

    @property
    def ready(self) -> bool:
        """Whether this gateway hears Redis, has missed nothing, and was not told to drain."""
        return (
            self.client.connected
            and self.relay.subscriber.hearing
            and not self.relay.log_check.pending
            and not self.probe.deaf
            and not self.draining
        )

    def report(self) -> dict[str, Any]:
        """The counters of this gateway alone, as they go into Redis."""
        return report(self)

    async def reports(self) -> dict[str, dict[str, Any]]:
        """Every live node's last report by its id; this one's comes first and is fresh."""
        others = await self.fleet.others()
        told = {name.decode(errors="replace"): report for name, report in others.items()}
        return {self.node_id: self.report(), **told}

    # --- by the clock

    async def _tick_for_ever(self) -> None:
        turn = 0
        refreshed = time.monotonic()
        while True:
            for _ in range(LAGS_PER_SECOND):
                self.meters.loop_lag.observe(await beat(1 / LAGS_PER_SECOND))
            turn += 1
            await self._count_latencies()
            await self._beat(turn)  # a variable here would keep its last connection for ever
            await self._check_expiries(time.time())
            self.on_tick()
            if time.monotonic() - refreshed > REFRESH_SECONDS:
                refreshed = time.monotonic()
                with suppress(BrokerUnavailable):
                    await self._keep_isolated()

    async def _keep_isolated(self) -> None:
        for socket in await self.take_up.keep(self.sockets):
            socket.close(close_codes.TAKEN_OVER)

    async def _beat(self, turn: int) -> None:
        for number, socket in enumerate(list(self.sockets.turn(turn)), 1):
            socket.beat()
            if number % BEATS_AT_ONCE == 0:
                await asyncio.sleep(0)

    async def _check_expiries(self, now: float) -> None:
        seen = 0
        for at in range(self.sockets.turns):
            group = self.sockets.turn(at)
            seen += len(group)
            for socket in [each for each in group if each.due_at <= now]:
                expires_at = socket.identity.expires_at
                end = expires_at + EXPIRY_GRACE_SECONDS
                if now < end:
                    socket.due_at, told = end, timestamp(int(expires_at * 1000))
                    socket.send(control("token_expiring", {"expires_at": told}))
                    socket.flush()
                else:
                    socket.due_at = math.inf
                    socket.close(close_codes.UNAUTHORIZED)
            if seen >= AT_ONCE:
                seen = 0
                await asyncio.sleep(0)

    async def _report_for_ever(self) -> None:
        while True:
            for _ in self.slow.look(self.sockets, time.time()):
                await asyncio.sleep(0)
            begun = time.monotonic()
            try:
                await self.fleet.tell(self.report())
                self.meters.round_trip.observe(time.monotonic() - begun)
            except BrokerUnavailable:
                pass  # readiness tells, and so does the connection's log
            except ResponseError as error:
                log.warning("report_refused", why=str(error))
            await beat(REPORT_SECONDS, after=0.5)

    async def _count_latencies(self) -> None:
        for _ in self.meters.count():
            await asyncio.sleep(0)
        self.relay.stages_wanted = STAGES_PER_TURN
