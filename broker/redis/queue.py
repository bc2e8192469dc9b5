"""The request queue: a stream per agent, one consumer group, requests taken by whoever is free.

An entry names a run and no more; the run's own hash has the request. So an entry that is delivered
twice, or late, does no harm: claiming decides.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
from redis.exceptions import ResponseError

from broker.channels import Keys
from broker.redis import scripts
from broker.redis.client import RedisClient
from broker.redis.topology import new_client

log = structlog.get_logger(__name__)

GROUP: Final = "workers"
_BLOCK_MS: Final = 1000
_RECLAIM_IDLE_MS: Final = 5000
"""A request read this long ago and neither claimed nor done belongs to a worker that died."""
_RETIRE_IDLE_MS: Final = 3_600_000
"""A consumer that has not read for an hour, and has nothing pending, is a worker that is gone: one
that lives reads every second, and a name that was taken away too early is made again by reading."""


@dataclass(frozen=True, slots=True)
class Request:
    """A run that waits for a worker."""

    partition: int
    run_id: str
    queue: bytes
    entry_id: bytes

    @property
    def queued_ms(self) -> int:
        """When it was queued, by Redis' clock, in milliseconds since 1970."""
        return int(self.entry_id.partition(b"-")[0])


class RequestQueue:
    """One worker's end of the queues of its agents.

    It blocks on a connection of its own; what must not wait behind that goes over ``client``.
    ``on_remade()`` is awaited when a queue was gone and is there again: with Redis' data, other
    things will be gone too.
    """

    def __init__(
        self,
        url: str,
        *,
        keys: Keys,
        consumer: str,
        client: RedisClient,
        ttl_seconds: int = 86_400,
        on_remade: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._on_remade = on_remade
        self._client = new_client(url, name=f"queue {consumer}")
        self._prompt = client
        self._ttl_seconds = ttl_seconds
        self._keys, self._consumer = keys, consumer
        self._queues: list[bytes] = []

    async def start(self, agents: Sequence[str], *, timeout_seconds: float = 5.0) -> None:
        """Connect and join the group of each agent's queue. BrokerUnavailable when not in time.

        Names that workers left behind when they died are taken off the group here: once per start,
        as only starts add any.
        """
        await self._client.start(timeout_seconds=timeout_seconds)
        self._queues = [self._keys.requests(agent) for agent in agents]
        await self._join()
        await self._retire("", idle_ms=_RETIRE_IDLE_MS)

    async def stop(self) -> None:
        """Close.

        A :meth:`take` under way ends with BrokerUnavailable; what it had read already is taken over
        by another worker.
        """
        await self._client.stop()

    async def leave(self) -> None:
        """Take this worker's name off the groups, unless requests are pending for it still.

        The last thing to do, after :meth:`stop` and the last :meth:`done`. BrokerUnavailable when
        Redis is away; then another worker's start does it, an hour later or more.
        """
        await self._retire(self._consumer, idle_ms=0)

    async def take(self, count: int) -> list[Request]:
        """Up to ``count`` requests; empty after a second without any.

        BrokerUnavailable when the connection is lost. Never cancel it: stop the queue instead.
        """
        try:
            reply = await self._client.execute(
                "XREADGROUP", "GROUP", GROUP, self._consumer, "COUNT", count, "BLOCK", _BLOCK_MS,
                "STREAMS", *self._queues, *[">"] * len(self._queues),
            )  # fmt: skip
        except ResponseError as error:
            await self._rejoin(error)
            return []
        return await self._readable(reply or [])

    async def done(self, requests: Sequence[Request]) -> None:
        """Take requests off the queue: their runs are claimed, or need no worker any more."""
        await self._prompt.execute_many(
            [
                command
                for request in requests
                for command in (
                    ("XACK", request.queue, GROUP, request.entry_id),
                    ("XDEL", request.queue, request.entry_id),
                )
            ]
        )

    async def reclaim(self, count: int) -> list[Request]:
        """Requests that another worker read and neither claimed nor finished, now this one's."""
        try:
            replies = await self._autoclaim(count)
        except ResponseError as error:
            await self._rejoin(error)
            return []
        return await self._readable(
            [(queue, reply[1]) for queue, reply in zip(self._queues, replies, strict=True)]
        )

    async def _readable(self, queues: Sequence[Sequence[Any]]) -> list[Request]:
        """The requests in queues' entries; an entry that is none is taken off its queue."""
        found, rubbish = [], []
        for queue, entries in queues:
            for entry in entries:
                if entry is None or entry[1] is None:  # deleted; Redis 6.2 still lists it
                    continue
                request = _request(queue, entry)
                if request is not None:
                    found.append(request)
                else:
                    rubbish.append(Request(0, "", queue, entry[0]))
        if rubbish:
            log.warning("requests_unreadable", entries=[str(each.entry_id) for each in rubbish])
            await self.done(rubbish)
        return found

    async def _rejoin(self, error: ResponseError) -> None:
        """A queue is gone, after its time-to-live or with Redis' data: make it again."""
        if not str(error).startswith(("NOGROUP", "UNBLOCKED")):
            raise error
        await self._join()
        if self._on_remade is not None:
            await self._on_remade()

    async def _autoclaim(self, count: int) -> list[Any]:
        return await self._prompt.execute_many(
            [
                (
                    "XAUTOCLAIM",
                    queue,
                    GROUP,
                    self._consumer,
                    _RECLAIM_IDLE_MS,
                    "0-0",
                    "COUNT",
                    count,
                )
                for queue in self._queues
            ]
        )

    async def _retire(self, consumer: str, *, idle_ms: int) -> None:
        for queue in self._queues:
            await self._prompt.run_script(scripts.RETIRE, [queue], [GROUP, consumer, idle_ms])

    async def _join(self) -> None:
        for queue in self._queues:
            try:
                await self._client.execute("XGROUP", "CREATE", queue, GROUP, "0", "MKSTREAM")
                await self._client.execute("EXPIRE", queue, self._ttl_seconds)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise


def _request(queue: bytes, entry: Sequence[Any]) -> Request | None:
    try:
        partition, _, run_id = entry[1][1].decode().partition(" ")
        return Request(int(partition), run_id, queue, entry[0])
    except ValueError:
        return None
