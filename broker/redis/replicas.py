"""Confirmation by replicas: what ``durability="replicated"`` waits for.

``WAIT`` blocks its connection until a replica has everything that was written over it before. So
there is never more than one under way on a connection: whoever asks meanwhile shares the next one.
"""

from __future__ import annotations

import asyncio
from typing import Final

from redis.exceptions import ResponseError

from broker.errors import BrokerUnavailable
from broker.redis.client import RedisClient

REPLICAS: Final = 1
"""How many must confirm. One is what survives the loss of the master."""

WAIT_MS: Final = 500
"""Longest wait. A replica that lives answers within a round trip, so this is long enough for a busy
one; and everybody else on the connection waits behind it, so it is no longer than a hiccup."""

NOT_CONFIRMED: Final = (
    "no replica confirmed it in time; check the replicas, or use durability acknowledged"
)


class Replicas:
    """One client's confirmations. Safe for any number of concurrent callers."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._callers: dict[object, list[asyncio.Future[None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def confirm(self, key: bytes, connection: object) -> None:
        """Return once a replica has all that was written over ``connection`` before.

        ``connection`` is the one that ``key`` had before it was written to. On another one ``WAIT``
        would say nothing about that, so then, and when no replica answers in time, it is
        ``BrokerUnavailable`` with an unknown outcome.
        """
        if connection not in self._callers:
            self._callers[connection] = []
            # Its first step is in the next turn of the loop, so that whoever got his reply in the
            # same read shares the WAIT.
            task = asyncio.create_task(self._serve(key, connection), name="replicas")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._callers[connection].append(confirmed)
        await confirmed

    async def _serve(self, key: bytes, connection: object) -> None:
        while callers := self._callers[connection]:
            self._callers[connection] = []
            why = await self._wait(key, connection)
            for caller in callers:
                if caller.done():  # cancelled
                    continue
                if why:
                    caller.set_exception(BrokerUnavailable(why=why, outcome_unknown=True))
                else:
                    caller.set_result(None)
        del self._callers[connection]

    async def _wait(self, key: bytes, connection: object) -> str:
        """Why it is not confirmed; empty when it is."""
        if self._client.connection_to(key) != connection:
            return "the connection was lost before a replica confirmed it"
        try:
            confirmed = await self._client.submit_to(key, "WAIT", REPLICAS, WAIT_MS)
        except BrokerUnavailable as error:
            return error.why
        except ResponseError as error:  # a replica itself, or not allowed to this user
            return str(error)
        return "" if confirmed >= REPLICAS else NOT_CONFIRMED
