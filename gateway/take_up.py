"""The identities of isolated connections: made, kept, and taken up again after a loss."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import replace
from typing import Final, TypeVar

from redis.exceptions import ResponseError

from broker.channels import Keys, Mode
from broker.redis.client import RedisClient
from gateway.claims import Identity
from gateway.commands import new_id
from gateway.handshake import BadRequest, Opening
from gateway.sockets import Connected

TAKE_UP_SECONDS: Final = 120
"""How long an isolated connection can be taken up after its loss (protocol section 4)."""

REFRESH_SECONDS: Final = 30.0
"""How often the connections that live are kept known."""

KEEP_SECONDS: Final = TAKE_UP_SECONDS + round(REFRESH_SECONDS)

S = TypeVar("S", bound=Connected)


class TakeUp:
    """What Redis knows of isolated connections."""

    def __init__(self, client: RedisClient, keys: Keys) -> None:
        self._client, self._keys = client, keys

    async def complete(self, identity: Identity, opening: Opening) -> Opening:
        """Fill in what the gateway chooses: a factory thread, an isolated connection's identity.

        Taking up an isolated connection takes its secret, whose hash alone is kept.
        """
        if opening.mode is Mode.FACTORY:
            return replace(opening, thread_id=opening.thread_id or new_id())
        if opening.mode is not Mode.ISOLATED:
            return opening
        if opening.connection is None:
            opening = replace(opening, connection=new_id(), secret=secrets.token_urlsafe(32))
            key = self._keys.connection(identity.owner, opening.connection or "")
            await self._client.execute("SET", key, _digest(opening), "EX", KEEP_SECONDS)
            return opening
        await self.verify(identity, opening)
        turns = self._keys.turns(identity.owner, opening.connection)
        try:
            turn, _ = await self._client.execute_many(
                [("INCR", turns), ("EXPIRE", turns, KEEP_SECONDS)]
            )
        except ResponseError:  # not what a gateway has written there
            raise _unknown() from None
        return replace(opening, turn=turn)

    async def verify(self, identity: Identity, opening: Opening) -> None:
        """Refuse with :class:`BadRequest` whoever has not the connection's secret."""
        key = self._keys.connection(identity.owner, opening.connection or "")
        try:
            known = await self._client.execute("GET", key)
        except ResponseError:  # not what a gateway has written there
            raise _unknown() from None
        if known is None or not hmac.compare_digest(known, _digest(opening)):
            raise _unknown()

    async def announce(self, identity: Identity, opening: Opening, live: bytes) -> bool:
        """Tell the former sockets of an isolated channel that it was taken up.

        False when somebody else has taken it up since: whoever listens before asking either sees
        that here, or hears it.
        """
        notice = b"- 0 %b - - %d taken_over\n{}" % (identity.owner.token.encode(), opening.turn)
        turns = self._keys.turns(identity.owner, opening.connection or "")
        await self._client.publish(live, notice)
        latest = await self._client.execute("GET", turns)
        return int(latest or 0) <= opening.turn

    async def keep(self, connected: Iterable[S]) -> list[S]:
        """Isolated connections can be taken up for their time, counted from their loss.

        Returns those that were, and did not hear of it: a notice can be lost.
        """
        isolated = [each for each in connected if each.opening.mode is Mode.ISOLATED]
        keys = [
            key(each.identity.owner, each.connection_id)
            for each in isolated
            for key in (self._keys.connection, self._keys.turns)
        ]
        await self._client.execute_many([("EXPIRE", key, KEEP_SECONDS) for key in keys])
        asked = [("GET", key) for key in keys[1::2]]
        turns = await self._client.submit_many(asked, keep_errors=True)
        return [
            each
            for each, turn in zip(isolated, turns, strict=True)
            if isinstance(turn, bytes) and turn.isdigit() and int(turn) > each.opening.turn
        ]


def _unknown() -> BadRequest:
    return BadRequest("connection_unknown", "no such connection to take up", status=403)


def _digest(opening: Opening) -> bytes:
    """What Redis keeps of a connection's secret."""
    return hashlib.sha256((opening.secret or "").encode()).hexdigest().encode()
