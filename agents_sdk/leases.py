"""Leases are renewed from a thread of their own, with a Redis connection of their own.

So an agent that blocks the event loop, for however long, does not lose its run to the sweeper.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import Final

import structlog
from redis.exceptions import RedisError

from agents_sdk.errors import Reason
from broker.channels import Keys
from broker.errors import RuncastError
from broker.redis.broker import Broker
from broker.redis.client import RedisClient
from broker.redis.records import Claim
from broker.redis.store import Limits
from broker.redis.topology import new_client

log = structlog.get_logger(__name__)

RENEWALS_PER_LEASE: Final = 3
"""Two renewals may fail before a lease ends."""

CONNECT_SECONDS: Final = 10.0
"""For the first connection: however short a lease is, a Cluster that is far away needs its time."""

Notify = Callable[[Reason], None]


class Leases:
    """The runs that this process holds.

    Its methods belong to the thread of the event loop that called :meth:`start`; there, too, the
    notices are given.
    """

    def __init__(self, url: str, *, keys: Keys, limits: Limits, name: str) -> None:
        self._url, self._keys, self._limits, self._name = url, keys, limits, name
        self._held: dict[str, tuple[Claim, Notify]] = {}
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._thread_loop: asyncio.AbstractEventLoop | None = None
        self._renewing: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._held)

    async def start(self) -> None:
        """Begin to renew what is held. Redis need not be there yet."""
        self._loop = asyncio.get_running_loop()
        running: asyncio.Future[None] = self._loop.create_future()
        context = contextvars.copy_context()  # what logs are to say of this process
        self._thread = threading.Thread(
            target=lambda: context.run(asyncio.run, self._renew_all(running)),
            name="leases",
            daemon=True,
        )
        self._thread.start()
        await running

    async def stop(self) -> None:
        """Renew nothing any more; the thread is gone when this returns."""
        if (
            self._thread is not None
            and self._thread_loop is not None
            and self._renewing is not None
        ):
            self._thread_loop.call_soon_threadsafe(self._renewing.cancel)
            await asyncio.to_thread(self._thread.join)
            self._thread = None

    def hold(self, claim: Claim, notify: Notify) -> None:
        """Renew ``claim`` from now on.

        ``notify(STOP)`` when its user asked it to stop, ``notify(LOST)`` when it is not held any
        more.
        """
        with self._lock:
            self._held[claim.run_id] = claim, notify

    def release(self, claim: Claim) -> None:
        """Renew it no longer."""
        with self._lock:
            self._held.pop(claim.run_id, None)

    def tell(self, run_id: str, reason: Reason) -> None:
        """Pass a notice on, if the run is (still) held."""
        held = self._held.get(run_id)
        if held is not None:
            held[1](reason)

    def _lose(self, fence: int, run_id: str) -> None:
        held = self._held.get(run_id)
        if held is not None and held[0].fence == fence:  # not a later attempt's, in this process
            held[1](Reason.LOST)

    async def _renew_all(self, running: asyncio.Future[None]) -> None:
        self._thread_loop, self._renewing = asyncio.get_running_loop(), asyncio.current_task()
        self._call_home(running.set_result, None)
        client = new_client(self._url, name=f"{self._name} leases")
        try:
            await self._keep_renewing(client)
        except asyncio.CancelledError:
            await client.stop()  # the thread was told to end: that is how

    async def _keep_renewing(self, client: RedisClient) -> None:
        broker = Broker(client, keys=self._keys, limits=self._limits)
        interval = self._limits.lease_seconds / RENEWALS_PER_LEASE
        started = False
        while True:
            try:
                if not started:
                    await client.start(timeout_seconds=CONNECT_SECONDS)
                    started = True
                await self._renew(broker)
            except (RuncastError, RedisError) as error:
                log.warning("leases_not_renewed", held=len(self), why=str(error))
            await asyncio.sleep(interval)

    async def _renew(self, broker: Broker) -> None:
        with self._lock:
            claims = [claim for claim, _ in self._held.values()]
        if not claims:
            return
        renewals = await asyncio.gather(*map(broker.renew, claims), return_exceptions=True)
        failed = None
        for claim, renewal in zip(claims, renewals, strict=True):
            if isinstance(renewal, BaseException):  # of this one alone, or of one node's
                failed = renewal
            elif not renewal.held:
                self._call_home(self._lose, claim.fence, claim.run_id)
            elif renewal.stop:
                self._call_home(self.tell, claim.run_id, Reason.STOP)
        if failed is not None:
            raise failed

    def _call_home(self, callback: Callable[..., object], *args: object) -> None:
        assert self._loop is not None  # noqa: S101  # start() set it before the thread began
        self._loop.call_soon_threadsafe(callback, *args)
