"""How many connections this gateway has of each user and tenant, told to the fleet.

A gateway tells its whole number each time, with each connection that comes (``admit.lua``), shortly
after some have gone, and again within a heartbeat: a lost reply or a Redis that forgot is mended by
the next time. The seats of a gateway that died are taken away by whoever needs one of them
(:mod:`gateway.admission`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

import structlog
from redis.exceptions import ResponseError

from broker.channels import Owner
from broker.errors import BrokerUnavailable
from broker.limits import Policy
from broker.redis.broker import Broker
from broker.rhythm import beat
from gateway.sockets import Sockets

log = structlog.get_logger(__name__)

TURN_SECONDS: Final = 0.25
LEAST_KEPT_SECONDS: Final = 10.0
"""Seats outlive a slow turn, however short the heartbeat is."""


class Seats:
    """One gateway's; each connection's begins with :meth:`arrive`."""

    def __init__(
        self,
        broker: Broker,
        sockets: Sockets[Any],
        policy: Policy,
        *,
        node_id: str,
        heartbeat_seconds: float,
    ) -> None:
        self._broker, self._sockets, self._policy = broker, sockets, policy
        self._node_id = node_id
        self._turns = math.ceil(heartbeat_seconds / TURN_SECONDS)
        self._arriving: Counter[Owner] = Counter()
        # Owner → the largest number that the fleet may have heard since it was last told. Where
        # that is the number now, nothing has to be said.
        self._changed: dict[Owner, float] = {}
        self.kept_ms = round(max(2.5 * heartbeat_seconds, LEAST_KEPT_SECONDS) * 1000)

    def of(self, owner: Owner) -> int:
        """How many there are here, those on their way included."""
        return self._sockets.of(owner) + self._arriving.get(owner, 0)

    def arrive(self, owner: Owner) -> None:
        """A connection is on its way: many at once count as many. :meth:`arrived` follows."""
        for each in self._counted(owner):
            self._arriving[each] += 1

    def arrived(self, owner: Owner) -> None:
        """It is a socket now, or will never be one."""
        for each in self._counted(owner):
            self._changed[each] = max(self._changed.get(each, 0), self.of(each))
            self._arriving[each] -= 1
            if not self._arriving[each]:
                del self._arriving[each]

    def left(self, owner: Owner) -> None:
        """A socket is gone."""
        for each in self._counted(owner):
            self._changed[each] = math.inf

    async def run(self) -> None:
        """Tell what has changed, and all of it once in a heartbeat, until cancelled."""
        while True:
            owners = list(self._sockets.owners)
            for turn in range(self._turns):
                await beat(TURN_SECONDS)
                await self._tell(owners[turn :: self._turns])

    async def give_up(self) -> None:
        """All of them are free: this gateway ends."""
        owners = {*self._sockets.owners, *self._changed}
        none = {each: 0 for each in owners if self._is_limited(each)}
        await self._broker.tell_seats(self._node_id, none, kept_ms=self.kept_ms)

    async def _tell(self, owners: Iterable[Owner]) -> None:
        changed, self._changed = self._changed, {}
        counts = {each: self.of(each) for each in owners if self._is_limited(each)}
        counts |= {each: self.of(each) for each, told in changed.items() if self.of(each) != told}
        if not counts:
            return
        try:
            await self._broker.tell_seats(self._node_id, counts, kept_ms=self.kept_ms)
        except BrokerUnavailable:
            self._changed |= dict.fromkeys(counts, math.inf)
        except ResponseError as error:
            log.warning("seats_refused", why=str(error))

    def _counted(self, owner: Owner) -> tuple[Owner, ...]:
        group = owner.group
        return (owner,) if group is None or not self._is_limited(group) else (owner, group)

    def _is_limited(self, owner: Owner) -> bool:
        """Every user is; a tenant when connections are among what its users share."""
        return bool(owner.user) or self._policy.limits_connections(owner.tenant)
