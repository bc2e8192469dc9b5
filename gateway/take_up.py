"""The identities of isolated connections: made, kept, and taken up again after a loss."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

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
        key = self._keys.connection(identity.owner, opening.connection)
        unknown = BadRequest("connection_unknown", "no such connection to take up", status=403)
        try:
            known = await self._client.execute("GET", key)
            if known is None or not hmac.compare_digest(known, _digest(opening)):
                raise unknown
            turns = self._keys.turns(identity.owner, opening.connection)
            turn, _ = await self._client.execute_many(
                [("INCR", turns), ("EXPIRE", turns, KEEP_SECONDS)]
            )
        except ResponseError:  # not what a gateway has written there
            raise unknown from None
        return replace(opening, turn=turn)

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

    async def keep(self, connected: Iterable[Connected]) -> None:
        """Isolated connections can be taken up for their time, counted from their loss."""
        await self._client.execute_many(
            [
                ("EXPIRE", key(each.identity.owner, each.connection_id), KEEP_SECONDS)
                for each in connected
                if each.opening.mode is Mode.ISOLATED
                for key in (self._keys.connection, self._keys.turns)
            ]
        )


def _digest(opening: Opening) -> bytes:
    """What Redis keeps of a connection's secret."""
    return hashlib.sha256((opening.secret or "").encode()).hexdigest().encode()
