"""Tokens that do not count any more although their time is not over.

A record per user, or per token, that says up to when tokens were issued that are void. It lives as
long as any such token could: what verifies them refuses a longer life.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final

import orjson

from broker.channels import Owner
from broker.errors import BrokerUnavailable
from broker.redis import scripts
from broker.redis.orders import Order
from broker.redis.store import Store

ALWAYS_MS: Final = 253_402_300_799_000
"""The end of the year 9999: a token that is revoked by its ``jti`` was issued before then."""


class Revocations(Store):
    """The records."""

    async def revoke(self, order: Order, *, ttl_seconds: int) -> int:
        """Keep the order's revocation in mind; before when tokens must have been issued, in ms.

        The same again, or an earlier moment, changes nothing.
        """
        if order.jti is not None:
            key, before = self.keys.revoked_token(order.tenant, order.jti), ALWAYS_MS
        else:
            key = self.keys.revoked_user(Owner(order.tenant, order.user_id or ""))
            before = order.issued_before_ms or 0
        note = {"by": order.by, "at": time.time(), "reason": order.reason}
        reply = await self._run_durably(
            scripts.REVOKE, [key], [before, ttl_seconds, orjson.dumps(note)]
        )
        return int(reply)

    def look_up(self, records: Sequence[bytes]) -> asyncio.Future[list[Any]]:
        """Ask now what each record says; :func:`moments` reads the answer, if it is wanted yet."""
        asked = [("HGET", each, "before") for each in records]
        return self.client.submit_many(asked, keep_errors=True)


def moments(found: Sequence[Any]) -> list[int]:
    """What the records said, in milliseconds since 1970; 0 for one that is not there.

    :class:`~broker.errors.BrokerUnavailable` when one could not be read: nobody knows then who may
    come in.
    """
    for each in found:
        if isinstance(each, BrokerUnavailable):
            raise each
    try:
        return [int(each or 0) for each in found]
    except (ValueError, TypeError):  # not what revoke.lua writes, or of another type altogether
        raise BrokerUnavailable(why="a revocation cannot be read") from None
