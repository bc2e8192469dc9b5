"""Who serves which slot, kept up to date.

Asked at the start, whenever something points at a change, and every now and then besides: a slot
can move, and a master can be replaced, without anything failing here.
"""

from __future__ import annotations

import asyncio
import random
from asyncio import FIRST_COMPLETED
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final

import structlog
from redis.exceptions import ResponseError

from broker.errors import BrokerUnavailable
from broker.redis.address import Address
from broker.redis.connection import RedisConnection
from broker.redis.slots import Server, SlotMap

log = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 15.0
LOOK_AGAIN_SECONDS: Final = 0.25
"""Between two looks while something is amiss: a failover is decided somewhere in between."""

LOOKS_AFTER_HINT: Final = 6
"""How often to look again once something points at a change: the node that tells of a failover is
ahead of those that are asked, and an answer of the same epoch may still be the old one."""

MOST_ASKED: Final = 4
"""Nodes asked per look. Of their answers that of the highest epoch counts: one may be cut off."""

_ANSWER_SECONDS: Final = 0.75
"""How long a look waits for all of them, if one has answered: who is cut off holds nobody up."""

_PATIENCE_SECONDS: Final = 4.0
"""How long it waits for the first: of a Cluster that is far away, and behind TLS, all are slow."""


class ClusterMap:
    """The map of one Cluster.

    ``on_look(slots)`` is called after each look, also when nothing has changed; ``settled()`` says
    whether the next one has time.
    """

    def __init__(
        self,
        address: Address,
        *,
        name: str,
        on_look: Callable[[SlotMap], None],
        settled: Callable[[], bool],
    ) -> None:
        self._address, self._name = address, name
        self._on_look, self._settled = on_look, settled
        self._task: asyncio.Task[None] | None = None
        self._wanted = asyncio.Event()
        self.slots = SlotMap.nothing()
        self.why = ""
        self._looked: asyncio.Future[None] | None = None
        self._told: set[int] = set()

    def start(self) -> None:
        """Look from now on."""
        self._task = asyncio.create_task(self._keep_looking(), name=f"cluster map {self._name}")

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def look_soon(self) -> None:
        """Something points at a change."""
        self._wanted.set()

    async def looked(self) -> None:
        """Return after the next look."""
        if self._looked is None:
            self._looked = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._looked)

    def moved(self, slot: int, server: Server) -> None:
        """A node said that another one serves ``slot``.

        Believed once between two looks: nodes that do not agree would send everybody to and fro.
        """
        if self.slots.server(slot) != server:
            self.look_soon()
            if slot not in self._told:
                self._told.add(slot)
                self.slots = self.slots.with_moved(slot, server)
                self._on_look(self.slots)

    async def _keep_looking(self) -> None:
        looks = 0
        while True:
            if self._wanted.is_set():
                looks = LOOKS_AFTER_HINT
                self._wanted.clear()
            slots = await self._look()
            if slots is not None:
                self._told.clear()
                self.slots = slots
                self._on_look(slots)
            if self._looked is not None:
                self._looked.set_result(None)
                self._looked = None
            await asyncio.sleep(LOOK_AGAIN_SECONDS * (0.5 + random.random()))  # noqa: S311 - jitter
            looks -= 1
            if slots is not None and looks <= 0 and self._settled():
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_SECONDS):
                        await self._wanted.wait()

    async def _look(self) -> SlotMap | None:
        known = list(self.slots.servers)
        random.shuffle(known)
        seeds = [_server(each.place) for each in self._address.servers]
        asked = list(dict.fromkeys([*known[:MOST_ASKED], *seeds]))
        told = await self._answers(asked)
        return max(told, key=lambda answer: answer[0])[1] if told else None

    async def _answers(self, servers: Iterable[Server]) -> list[tuple[int, SlotMap]]:
        """What those of them told who answer in time; one of them has more time than all have."""
        told = list[tuple[int, SlotMap]]()
        waiting = {asyncio.create_task(self._ask(each)) for each in servers}
        try:
            done, waiting = await asyncio.wait(waiting, timeout=_ANSWER_SECONDS)
            while True:
                told += [answer for each in done if (answer := each.result()) is not None]
                if told or not waiting:
                    return told
                done, waiting = await asyncio.wait(waiting, return_when=FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def _ask(self, server: Server) -> tuple[int, SlotMap] | None:
        replies: asyncio.Queue[Any] = asyncio.Queue()
        connection = RedisConnection(
            replies.put_nowait, on_lost=lambda why: replies.put_nowait(OSError(why))
        )
        endpoint = self._address.data.at(*server)
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await connection.open(endpoint, name=self._name, timeout_seconds=_PATIENCE_SECONDS)
                connection.send("CLUSTER", "INFO")
                connection.send("CLUSTER", "SLOTS")
                info, slots = await replies.get(), await replies.get()
        except (BrokerUnavailable, TimeoutError) as error:
            self._explain(server, str(error) or "no answer in time")
            return None
        finally:
            connection.abort()
        for reply in (info, slots):
            if isinstance(reply, (ResponseError, OSError)):
                self._explain(server, str(reply))
                return None
        return _epoch(info), SlotMap.told(slots, server)

    def _explain(self, server: Server, why: str) -> None:
        self.why = f"{server.host}:{server.port}: {why}"
        log.debug("cluster_node_does_not_tell", node=self.why)


def _epoch(info: bytes) -> int:
    for line in info.decode().splitlines():
        name, _, value = line.partition(":")
        if name == "cluster_current_epoch":
            return int(value)
    return 0


def _server(place: str) -> Server:
    host, _, port = place.rpartition(":")
    return Server(host, int(port))
