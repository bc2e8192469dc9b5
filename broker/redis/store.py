"""What every verb of the broker needs: a client, the key names, and the limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from broker.channels import Keys
from broker.redis.client import RedisClient
from broker.redis.connection import Argument
from broker.redis.scripts import Script


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much and how long. The same on every process of an installation."""

    history_events: int = 1000
    history_ttl_seconds: int = 86_400
    max_event_bytes: int = 262_144
    max_text_bytes: int = 4 * 1024 * 1024
    max_queued_requests: int = 10_000
    lease_seconds: float = 15.0
    queue_timeout_seconds: float = 60.0
    stop_deadline_seconds: float = 10.0


class Store:
    """Base of the verb groups in this package."""

    def __init__(self, client: RedisClient, *, keys: Keys, limits: Limits | None = None) -> None:
        self.client = client
        self.keys = keys
        self.limits = limits or Limits()

    async def _run_script(self, script: Script, keys: list[Argument], args: list[Argument]) -> Any:
        return await self.client.run_script(script, keys, args)


def milliseconds(seconds: float) -> int:
    """Seconds of a setting → whole milliseconds for a script."""
    return round(seconds * 1000)
