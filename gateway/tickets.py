"""Tickets: what a page puts into an address in place of its token (protocol section 5).

A ticket stands for one verified token, once, for half a minute. Redis keeps its hash only, so
nobody can read tickets there; whoever takes one out first has it, and there is no second.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection
from typing import Any, Final

import orjson

from broker.channels import Keys, Mode, Owner
from broker.redis.client import RedisClient
from broker.redis.records import UNREADABLE
from gateway.claims import Identity
from gateway.credentials import AuthError

TICKET_SECONDS: Final = 30
"""Long enough to open a socket with it, too short to be worth finding in a proxy's log."""

_BYTES: Final = 32


class Tickets:
    """The tickets of one installation."""

    def __init__(self, client: RedisClient, keys: Keys) -> None:
        self._client, self._keys = client, keys

    async def issue(self, identity: Identity, modes: Collection[Mode] | None) -> str:
        """A ticket for this user and these modes, as far as his token allows them; None: all."""
        allowed = identity.modes
        if modes is not None:
            allowed = frozenset(modes) if allowed is None else allowed & frozenset(modes)
        ticket = secrets.token_urlsafe(_BYTES)
        said = {
            "tenant": identity.owner.tenant,
            "user": identity.owner.user,
            "expires_at": identity.expires_at,
            "issued_at": identity.issued_at,
            "jti": identity.jti,
            "modes": None if allowed is None else sorted(allowed),
            "token_hash": identity.token_hash,
            "limits": dict(identity.limits),
        }
        key = self._keys.ticket(_digest(ticket))
        await self._client.execute("SET", key, orjson.dumps(said), "EX", TICKET_SECONDS)
        return ticket

    async def redeem(self, ticket: str, now: float) -> Identity:
        """Who the ticket is for; it is gone then.

        :class:`AuthError` for one that was used, is over or never was;
        :class:`~broker.errors.BrokerUnavailable` when that cannot be told.
        """
        digest = _digest(ticket)
        try:
            stored = await self._client.execute("GETDEL", self._keys.ticket(digest))
            if stored is None:
                raise AuthError("unauthorized", "ticket is used, over or unknown", digest)
            identity = _identity(orjson.loads(stored))
        except UNREADABLE:
            raise AuthError("unauthorized", "ticket cannot be read", digest) from None
        if now >= identity.expires_at:
            raise AuthError("unauthorized", "ticket of an expired token", identity.token_hash)
        return identity


def _identity(said: dict[str, Any]) -> Identity:
    modes = said["modes"]
    return Identity(
        owner=Owner(said["tenant"], said["user"]),
        subject=said["user"],
        expires_at=said["expires_at"],
        issued_at=said["issued_at"],
        jti=said["jti"],
        modes=None if modes is None else frozenset(map(Mode, modes)),
        operator=False,
        token_hash=said["token_hash"],
        limits=said["limits"],
    )


def _digest(ticket: str) -> str:
    return hashlib.sha256(ticket.encode("utf-8", "surrogateescape")).hexdigest()
