"""One gateway's ear for what operators order: it reads the audit log, at once when told to.

The log is the truth and the notice is for speed, as with events: a lost notice costs a second. When
the log does not continue where this gateway was, because a failover cut it off, nobody knows what
was ordered meanwhile, and every socket's token is looked up again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import structlog

from broker.channels import Owner
from broker.cursor import ZERO
from broker.errors import BrokerUnavailable
from broker.redis.broker import Broker
from broker.redis.orders import Order, Verb
from broker.rhythm import seconds_until
from gateway import close_codes
from gateway.revocation import Revocations, close_revoked, is_meant
from gateway.sockets import Sockets

if TYPE_CHECKING:
    from gateway.connection import Connection

log = structlog.get_logger(__name__)

TICK_SECONDS: Final = 1.0
"""How late an order is carried out whose notice was lost."""


class Orders:
    """Reads from the end of the log, as it is at the start, on, and carries out what is there."""

    def __init__(
        self,
        broker: Broker,
        sockets: Sockets[Connection],
        revocations: Revocations,
        *,
        node_id: str,
        drain: Callable[[], Awaitable[None]],
    ) -> None:
        self._broker, self._sockets, self._revocations = broker, sockets, revocations
        self._node_id, self._drain = node_id, drain
        self._draining: asyncio.Future[None] | None = None
        self._position = ZERO
        self._told = asyncio.Event()

    async def start(self) -> None:
        """Find the end of the log. What was ordered before concerns no socket of this gateway."""
        self._position = await self._broker.last_order()

    def wake(self) -> None:
        """There is something new."""
        self._told.set()

    async def run(self) -> None:
        """Read until cancelled."""
        clock = asyncio.get_running_loop().time
        try:
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(seconds_until(TICK_SECONDS, clock())):
                        await self._told.wait()
                self._told.clear()
                try:
                    await self._read()
                except BrokerUnavailable as error:  # an outage is logged by the connection
                    log.debug("orders_unread", why=str(error))
        finally:
            if self._draining is not None:
                self._draining.cancel()

    async def _read(self) -> None:
        page = await self._broker.orders_after(self._position)
        if page is None:
            end = await self._broker.last_order()
            log.warning("audit_log_cut_off", position=str(self._position), end=str(end))
            await self._revocations.sweep(list(self._sockets))
            self._position = end
            return
        for given in page:
            self._position = given.id
            if given.order is None:
                log.error("order_unreadable", id=str(given.id))
            else:
                self._carry_out(given.order)
        if page:
            self._told.set()  # there may be more than a page

    def _carry_out(self, order: Order) -> None:
        sockets = self._sockets
        match order.verb:
            case Verb.REVOKE:
                self._revocations.heard(order)
                for socket in [each for each in sockets if is_meant(order, each.identity)]:
                    close_revoked(socket)
            case Verb.DISCONNECT:
                owner = Owner(order.tenant, order.user_id or "")
                for socket in [each for each in sockets if each.identity.owner == owner]:
                    socket.close(close_codes.GOING_AWAY)
            case Verb.DRAIN if order.node_id == self._node_id and self._draining is None:
                log.info("draining", sockets=len(sockets), by=order.by)
                self._draining = asyncio.ensure_future(self._drain())
            case _:
                pass
