"""The front of the broker: all verbs over one client."""

from __future__ import annotations

from broker.redis.agents import Agents
from broker.redis.figures import Figures
from broker.redis.holdings import Holdings
from broker.redis.inspection import Inspection
from broker.redis.log import Log
from broker.redis.orders import Orders
from broker.redis.overdue import Overdue
from broker.redis.revocations import Revocations
from broker.redis.steering import Steering
from broker.redis.store import Limits
from broker.redis.threads import Threads
from broker.redis.webhooks import Webhooks


class Broker(
    Holdings,
    Overdue,
    Agents,
    Figures,
    Inspection,
    Log,
    Orders,
    Revocations,
    Steering,
    Threads,
    Webhooks,
):
    """Every verb, for one Redis. Safe for any number of concurrent callers."""


__all__ = ["Broker", "Limits"]
