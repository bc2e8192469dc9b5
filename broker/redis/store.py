"""What every verb of the broker needs: a client, the key names, and the limits."""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from redis.exceptions import ResponseError

from broker.channels import Keys
from broker.config import Durability, Settings
from broker.errors import BrokerUnavailable
from broker.redis.client import RedisClient
from broker.redis.connection import Argument
from broker.redis.replicas import Replicas
from broker.redis.scripts import Script

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much and how long: the same on every process of an installation. And how safely.

    ``durability``: what an event or a registration needs to count as done: the master's reply
    (``acknowledged``), or that of a replica as well (``replicated``).
    """

    history_events: int = 1000
    history_ttl_seconds: int = 86_400
    max_event_bytes: int = 262_144
    max_text_bytes: int = 4 * 1024 * 1024
    max_queued_requests: int = 10_000
    lease_seconds: float = 15.0
    queue_timeout_seconds: float = 60.0
    stop_deadline_seconds: float = 10.0
    input_seconds: float = 900.0
    audit_ttl_seconds: int = 90 * 86_400
    durability: Durability = "acknowledged"

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """Those of the settings."""
        return cls(
            history_events=settings.history_events,
            history_ttl_seconds=settings.history_ttl_seconds,
            max_event_bytes=settings.max_event_bytes,
            lease_seconds=settings.lease_seconds,
            queue_timeout_seconds=settings.queue_timeout_seconds,
            stop_deadline_seconds=settings.stop_deadline_seconds,
            input_seconds=settings.input_seconds,
            audit_ttl_seconds=settings.audit_ttl_seconds,
            durability=settings.durability,
        )

    @property
    def kept_seconds(self) -> int:
        """What a run's keys get as their time to live: a tenth more than they must live.

        So an event need not renew them while less than that tenth has passed (``publish.lua``).
        """
        return -(-self.history_ttl_seconds * 11 // 10)


class Store:
    """Base of the verb groups in this package."""

    def __init__(self, client: RedisClient, *, keys: Keys, limits: Limits | None = None) -> None:
        self.client = client
        self.keys = keys
        self.limits = limits or Limits()
        self._replicas = Replicas(client)

    async def _run_script(self, script: Script, keys: list[Argument], args: list[Argument]) -> Any:
        return await self.client.run_script(script, keys, args)

    async def _run_durably(self, script: Script, keys: list[bytes], args: list[Argument]) -> Any:
        """The script's reply, once what it wrote is as durable as the limits ask for.

        ``BrokerUnavailable`` when no replica confirms it in time: the outcome is unknown. The same
        again is confirmed only if the script writes then, too.
        """
        connection = self.client.connection_to(keys[0])
        reply = await self._run_script(script, [*keys], args)
        await self._replicated(keys[0], connection)
        return reply

    async def _replicated(self, key: bytes, connection: object) -> None:
        """Return once what was written to the server of ``key`` is as durable as asked for.

        ``connection``: the one to it, from before anything of that was sent.
        """
        if self.limits.durability == "replicated":
            await self._replicas.confirm(key, connection)


def unavailable_if_refused(
    verb: Callable[P, Coroutine[Any, Any, T]],
) -> Callable[P, Coroutine[Any, Any, T]]:
    """For a verb that an error reply tells to come later: ``BrokerUnavailable``.

    A key of another type above all: what cannot be read now may be readable when it is gone.
    """

    @wraps(verb)
    async def tried(*args: P.args, **named: P.kwargs) -> T:
        try:
            return await verb(*args, **named)
        except ResponseError as error:
            raise BrokerUnavailable(why=str(error)) from error

    return tried


def random_step() -> int:
    """By how much an id of a log advances within its millisecond, or a fence: 1 to 2^20.

    Chance keeps two masters, as a failover may have for a second or two, from giving different
    events the same id, and different workers the same fence. It takes no secrecy.
    """
    return random.getrandbits(20) + 1


def milliseconds(seconds: float) -> int:
    """Seconds of a setting → whole milliseconds for a script."""
    return round(seconds * 1000)
