"""Who may connect, and how much anybody may do: decided before anything is subscribed."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from typing import Final

from redis.exceptions import ResponseError

from broker.bucket import Bucket
from broker.channels import Owner
from broker.config import Settings
from broker.errors import BrokerUnavailable
from broker.limits import LIMITS, MOST, Allowance, Policy, connects
from broker.redis.broker import Broker
from gateway.claims import Identity
from gateway.fleet import Fleet
from gateway.handshake import BadRequest, Opening
from gateway.seats import Seats

FLOOD_FACTOR: Final = 3
"""Messages that may be refused in a minute, in limits of a minute: then it is closed with 4429."""

SEAT_RETRY_MS: Final = 5000
"""What a user with too many connections is told to wait: when one of them goes, nobody knows."""


def policy_of(settings: Settings) -> Policy:
    """Whose number counts, by the settings."""
    defaults = {name: getattr(settings, limit.setting) for name, limit in LIMITS.items()}
    return Policy(defaults, settings.tenant_limits)


def check(identity: Identity, opening: Opening) -> None:
    """Refuse with :class:`BadRequest` what the token does not allow."""
    if identity.operator:
        raise BadRequest("user_token_required", "an operator's token opens no chat", status=403)
    if opening.user_id is not None and opening.user_id != identity.owner.user:
        raise BadRequest("user_mismatch", "user_id must be the token's subject", status=403)
    if identity.modes is not None and opening.mode not in identity.modes:
        raise BadRequest("mode_not_allowed", "the token does not allow this mode", status=403)


class Admission:
    """The limits, as one gateway holds to them."""

    def __init__(
        self, policy: Policy, broker: Broker, seats: Seats, fleet: Fleet, *, node_id: str
    ) -> None:
        self.policy = policy
        self._broker, self._seats, self._fleet = broker, seats, fleet
        self._node_id = node_id
        self._refused: Counter[Owner] = Counter()
        self._minute = 0

    def allowance(self, identity: Identity) -> Allowance:
        """What this user may have."""
        return self.policy.of(identity.owner.tenant, identity.limits)

    async def seat(self, identity: Identity) -> None:
        """A seat for a connection that is arriving; :class:`BadRequest` (429) when there is none.

        ``BrokerUnavailable``: nobody can say how many there are.
        """
        allowance, owner = self.allowance(identity), identity.owner
        try:
            await self._seat(owner, allowance.connections, allowance.connects)
            if owner.tenant and self.policy.limits_connections(owner.tenant):
                shared = self.policy.shared(owner.tenant)
                most = shared.get("connections", MOST)
                bucket = connects(shared.get("connects_per_second", MOST), most)
                await self._seat(Owner(owner.tenant, ""), most, bucket)
        except ResponseError as error:
            raise BrokerUnavailable(why=str(error)) from error

    async def _seat(self, owner: Owner, most: int, bucket: Bucket) -> None:
        seats = self._seats
        if seats.of(owner) > most:  # so it is, whatever the others have
            raise _too_many(owner, "connections", most, SEAT_RETRY_MS)

        def take(*, again: bool = False) -> asyncio.Future[int | list[bytes]]:
            return self._broker.take_seat(
                owner, self._node_id, seats.of(owner),
                most=most, connects=bucket, kept_ms=seats.kept_ms, again=again,
            )  # fmt: skip

        reply = await take()
        if reply == 0:
            return
        if isinstance(reply, list) and reply:
            gone = set(reply).difference(await self._fleet.others())
            if gone:
                await self._broker.clear_seats(owner, gone)
                reply = await take(again=True)
        if isinstance(reply, list):
            raise _too_many(owner, "connections", most, SEAT_RETRY_MS)
        if reply:
            per_second = round(1_000_000 / bucket.interval_us)
            raise _too_many(owner, "connects_per_second", per_second, reply)

    def flooded(self, identity: Identity) -> bool:
        """Count one refused message; whether this user goes on and on although he is refused."""
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            self._minute = minute
            self._refused.clear()
        self._refused[identity.owner] += 1
        most = max(self.allowance(identity).messages_per_minute, 1)
        return self._refused[identity.owner] > most * FLOOD_FACTOR


def _too_many(owner: Owner, name: str, most: int, retry_after_ms: int) -> BadRequest:
    limit, whose = LIMITS[name], "user" if owner.user else "tenant"
    return BadRequest(
        limit.code,
        f"at most {most} {limit.what} per {whose}",
        status=429,
        retry_after_seconds=math.ceil(retry_after_ms / 1000),
    )
