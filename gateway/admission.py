"""Who may connect, to what, and how much: decided before anything is subscribed."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

from redis.exceptions import ResponseError

from broker.channels import Keys, Mode, Owner
from broker.config import Settings
from broker.redis.client import RedisClient
from gateway.claims import Identity
from gateway.commands import new_id
from gateway.handshake import BadRequest, Opening
from gateway.session import FrameError
from gateway.sockets import Connected, Sockets

TAKE_UP_SECONDS: Final = 120
"""How long an isolated connection can be taken up after its loss (protocol section 4)."""

REFRESH_SECONDS: Final = 30.0
"""How often the connections that live are kept known."""

FLOOD_FACTOR: Final = 3
"""Times the limit of messages a minute at which the connection is closed with 4429."""

KEEP_SECONDS: Final = TAKE_UP_SECONDS + round(REFRESH_SECONDS)


class Admission:
    """The limits of one gateway, and the identities of isolated connections."""

    def __init__(self, settings: Settings, client: RedisClient, keys: Keys) -> None:
        self._settings, self._client, self._keys = settings, client, keys
        self._messages: Counter[Owner] = Counter()
        self._minute = 0
        self._arriving: Counter[Owner] = Counter()

    def arriving(self, owner: Owner) -> None:
        """A connection is on its way: many at once count as many. :meth:`arrived` follows."""
        self._arriving[owner] += 1

    def arrived(self, owner: Owner) -> None:
        """It is connected, or refused."""
        self._arriving[owner] -= 1
        if not self._arriving[owner]:
            del self._arriving[owner]

    def admit(self, identity: Identity, opening: Opening, connected: Sockets[Any]) -> None:
        """Refuse with :class:`BadRequest` what the token or the limits do not allow."""
        if identity.operator:
            raise BadRequest("user_token_required", "an operator's token opens no chat", status=403)
        if opening.user_id is not None and opening.user_id != identity.owner.user:
            raise BadRequest("user_mismatch", "user_id must be the token's subject", status=403)
        if identity.modes is not None and opening.mode not in identity.modes:
            raise BadRequest("mode_not_allowed", "the token does not allow this mode", status=403)
        most = self._settings.max_connections_per_user
        if connected.of(identity.owner) + self._arriving[identity.owner] >= most:
            raise BadRequest(
                "too_many_connections", f"at most {most} connections per user", status=429
            )

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

    def admit_message(self, owner: Owner) -> None:
        """Count one message of this user's minute; :class:`FrameError` when it is one too many."""
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            self._minute = minute
            self._messages.clear()
        self._messages[owner] += 1
        if self._messages[owner] > self._settings.messages_per_minute:
            raise FrameError(
                "rate_limited",
                f"at most {self._settings.messages_per_minute} messages a minute",
                retryable=True,
                bad=False,
            )

    def flooded(self, owner: Owner) -> bool:
        """Whether this user went on far beyond the limit although every message was refused."""
        return self._messages[owner] > self._settings.messages_per_minute * FLOOD_FACTOR


def _digest(opening: Opening) -> bytes:
    """What Redis keeps of a connection's secret."""
    return hashlib.sha256((opening.secret or "").encode()).hexdigest().encode()
