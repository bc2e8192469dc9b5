"""The front of the broker: all verbs over one client."""

from __future__ import annotations

from broker.redis.log import Log
from broker.redis.publisher import EventPublisher
from broker.redis.store import Limits


class Broker(EventPublisher, Log):
    """Runs, publishing and the log, for one Redis. Safe for any number of concurrent callers."""


__all__ = ["Broker", "Limits"]
