"""Whether a token still counts: looked up when it comes, and again for as long as it is used.

Three times, so that nothing depends on one message being heard: at connect and refresh its records
are read; an order in the audit log closes the sockets concerned; and each socket's records are read
again once per heartbeat.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import structlog

from broker.channels import Keys, Owner
from broker.errors import BrokerUnavailable
from broker.redis.broker import Broker
from broker.redis.orders import Order
from broker.redis.revocations import moments
from broker.rhythm import beat
from gateway import close_codes
from gateway.auth import Verifier
from gateway.claims import Identity
from gateway.credentials import AuthError

if TYPE_CHECKING:
    from gateway.connection import Connection

log = structlog.get_logger(__name__)

RECENT_SECONDS: Final = 30.0
"""Longer than a connection may be on its way between the look at its records and its place among
the sockets: one that an order has missed there is still found by it."""


BATCH: Final = 16
"""Sockets whose records are asked for at a time: to pack and read more would hold up all events."""


class Revocations:
    """What one gateway knows of revoked tokens."""

    def __init__(self, broker: Broker, verifier: Verifier) -> None:
        self._broker, self._verifier = broker, verifier
        self._recent: deque[tuple[float, Order]] = deque()

    async def check(self, identity: Identity) -> None:
        """Refuse a token that was revoked with :class:`AuthError`.

        :class:`BrokerUnavailable` when nobody can tell.
        """
        await self.judge(identity, self.look_up(identity))

    def look_up(self, identity: Identity) -> Awaitable[list[Any]]:
        """Ask for the token's records now, for :meth:`judge`: other things are asked meanwhile."""
        return self._broker.look_up(records(self._broker.keys, identity))

    async def judge(self, identity: Identity, looked_up: Awaitable[list[Any]]) -> None:
        """As :meth:`check`, by what was found."""
        if is_revoked(identity, moments(await looked_up)):
            raise _revoked(identity)

    def recheck(self, identity: Identity) -> None:
        """The same by the orders of the last seconds, for what was checked a moment ago."""
        if self._recent and any(is_meant(order, identity) for _, order in self._recent):
            raise _revoked(identity)

    def heard(self, order: Order) -> None:
        """An order to revoke something."""
        now = time.monotonic()
        while self._recent and self._recent[0][0] < now - RECENT_SECONDS:
            self._recent.popleft()
        self._recent.append((now, order))
        self._verifier.forget(lambda identity: is_meant(order, identity))

    async def sweep(self, sockets: Collection[Connection]) -> None:
        """Close those whose tokens were revoked; one pipeline."""
        keys = self._broker.keys
        asked = [(socket, socket.identity, records(keys, socket.identity)) for socket in sockets]
        wanted = list(dict.fromkeys(key for _, _, named in asked for key in named))
        found = dict(zip(wanted, moments(await self._broker.look_up(wanted)), strict=True))
        for socket, identity, named in asked:
            # A token that came meanwhile was checked when it came.
            if socket.identity is identity and is_revoked(identity, [found[key] for key in named]):
                close_revoked(socket)

    async def sweep_for_ever(self, turns: Iterable[Collection[Connection]]) -> None:
        """Sweep one group after the other, one each second, until cancelled."""
        for group in turns:
            await beat(1.0, after=0.5)
            sockets = list(group)
            try:
                for at in range(0, len(sockets), BATCH):
                    await self.sweep(sockets[at : at + BATCH])
            except BrokerUnavailable as error:  # an outage is logged by the connection
                log.debug("sweep_of_revocations_failed", why=str(error))
            del sockets  # or the last of them would live on here


def records(keys: Keys, identity: Identity) -> Sequence[bytes]:
    """The keys that tell whether a token was revoked."""
    of_user = keys.revoked_user(identity.owner)
    if identity.jti is None:
        return (of_user,)
    return (of_user, keys.revoked_token(identity.owner.tenant, identity.jti))


def is_revoked(identity: Identity, before: Iterable[int]) -> bool:
    """Whether it was issued before one of these moments, in milliseconds since 1970.

    A token that does not say when it was issued was issued before all of them.
    """
    issued = 0 if identity.issued_at is None else identity.issued_at * 1000
    return any(issued < each for each in before)


def is_meant(order: Order, identity: Identity) -> bool:
    """Whether an order to revoke is about this token."""
    if order.jti is not None:
        return (order.tenant, order.jti) == (identity.owner.tenant, identity.jti)
    mine = identity.owner == Owner(order.tenant, order.user_id or "")
    return mine and is_revoked(identity, [order.issued_before_ms or 0])


def close_revoked(socket: Connection) -> None:
    """Its token does not count any more."""
    identity = socket.identity
    log.info("token_revoked", jti=identity.jti, token_hash=identity.token_hash)
    socket.close(close_codes.UNAUTHORIZED)


def _revoked(identity: Identity) -> AuthError:
    return AuthError("unauthorized", "revoked", identity.token_hash)
