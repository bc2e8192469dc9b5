"""What operators order, written down once for those who ask later and for the gateways to do.

The audit log is both: an order is in it before anybody acts on it, with who gave it and when, and
every gateway reads it. A notice says that there is something new; a lost notice costs a second.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

import orjson

from broker.cursor import ZERO, Cursor, from_redis
from broker.events import timestamp
from broker.redis import scripts
from broker.redis.store import Store, unavailable_if_refused

ORDERS_PAGE: Final = 128


class Verb(StrEnum):
    """What an operator can order."""

    DISCONNECT = "disconnect"
    REVOKE = "revoke"
    DRAIN = "drain"
    STOP = "stop"
    """A run: done by the gateway that was asked, which no other gateway has to hear of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """``by``: the operator's subject, or ``operator key``. What does not apply is None.

    ``issued_before_ms``: tokens issued before then are revoked, in milliseconds since 1970.
    """

    verb: Verb
    by: str
    tenant: str = ""
    user_id: str | None = None
    jti: str | None = None
    node_id: str | None = None
    run_id: str | None = None
    issued_before_ms: int | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """An order as the audit log has it; ``order`` is None when it cannot be read."""

    id: Cursor
    order: Order | None

    def view(self) -> dict[str, Any]:
        """As the admin API shows it."""
        told = {} if self.order is None else asdict(self.order)
        shown = {name: value for name, value in told.items() if value is not None}
        return {"id": str(self.id), "at": timestamp(self.id.ms), **shown}


class Orders(Store):
    """The audit log."""

    async def give(self, order: Order) -> Cursor:
        """Write the order down and tell the gateways; its id.

        :class:`~broker.errors.BrokerUnavailable`: perhaps it is written, perhaps not.
        """
        kept = self.limits.audit_ttl_seconds
        body = {name: value for name, value in asdict(order).items() if value is not None}
        raw = await self._run_durably(
            scripts.ORDER,
            [self.keys.audit, self.keys.orders],
            [orjson.dumps(body), int(time.time() - kept) * 1000, kept],
        )
        return from_redis(raw)

    @unavailable_if_refused
    async def last_order(self) -> Cursor:
        """The newest order's id; ``0-0`` when there is none."""
        newest = await self.client.execute("XREVRANGE", self.keys.audit, "+", "-", "COUNT", 1)
        return from_redis(newest[0][0]) if newest else ZERO

    @unavailable_if_refused
    async def orders_after(self, after: Cursor) -> list[Given] | None:
        """A page of what follows, oldest first; None when ``after`` is not in the log any more."""
        reply = await self.client.execute(
            "XRANGE", self.keys.audit, str(after), "+", "COUNT", ORDERS_PAGE + 1
        )
        if after == ZERO:
            return [_given(entry) for entry in reply]
        if not reply or from_redis(reply[0][0]) != after:
            return None
        return [_given(entry) for entry in reply[1:]]

    @unavailable_if_refused
    async def newest_orders(self, *, before: Cursor | None, most: int) -> list[Given]:
        """What was ordered last, newest first."""
        if before == ZERO:
            return []  # Redis takes no range that ends before the first id
        top = "+" if before is None else f"({before}"
        reply = await self.client.execute("XREVRANGE", self.keys.audit, top, "-", "COUNT", most)
        return [_given(entry) for entry in reply]


def _given(entry: Sequence[Any]) -> Given:
    raw, fields = entry
    try:
        order = _order(orjson.loads(fields[1]))
    except (ValueError, TypeError, LookupError):
        order = None
    return Given(id=from_redis(raw), order=order)


def _order(told: dict[str, Any]) -> Order:
    before = told.pop("issued_before_ms", None)
    if not isinstance(before, int | None) or not all(
        isinstance(each, str) for each in told.values()
    ):
        raise TypeError("not what an operator's gateway writes")
    return Order(**{**told, "verb": Verb(told["verb"])}, issued_before_ms=before)
