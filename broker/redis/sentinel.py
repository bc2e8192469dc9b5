"""Following a failover that Sentinel decides.

All sentinels are asked, not the first that answers: one that was cut off may name a master that is
none any more. The answer of the highest configuration epoch counts, and the server named must call
itself a master. While connected the question is repeated, so that nobody stays on a master that was
paused or partitioned away and does not know that it was replaced.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from redis.exceptions import ResponseError

from broker.errors import BrokerUnavailable
from broker.redis.address import Address, Endpoint
from broker.redis.records import text_pairs
from broker.redis.server_client import ServerClient
from broker.redis.source import Fixed

LOOK_SECONDS: Final = 1.0
"""How often the sentinels are asked while connected."""

_ANSWER_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class _Answer:
    """Where a sentinel says that the master is, since which change of configuration."""

    epoch: int
    host: str
    port: int


class Sentinels:
    """Tells where the master is; a :class:`~broker.redis.source.Source`."""

    def __init__(self, address: Address, *, name: str) -> None:
        self._address = address
        self._clients = [
            ServerClient(Fixed(each), name=f"sentinel {name}", reply_seconds=_ANSWER_SECONDS)
            for each in address.servers
        ]

    async def start(self) -> None:
        """Connect to every sentinel, in the background."""
        for client in self._clients:
            client.begin()

    async def stop(self) -> None:
        """Disconnect."""
        for client in self._clients:
            await client.stop()

    async def locate(self) -> Endpoint:
        """The master that the sentinels' newest configuration names."""
        if not any(client.connected for client in self._clients):
            await self._any_connected()
        answers = await asyncio.gather(*map(self._ask, self._clients))
        told = [answer for answer in answers if not isinstance(answer, str)]
        if not told:
            whys = ", ".join(
                f"{sentinel.place}: {answer}"
                for sentinel, answer in zip(self._address.servers, answers, strict=True)
            )
            why = f"no sentinel names a master {self._address.master!r} ({whys})"
            raise BrokerUnavailable(why=why)
        newest = max(told, key=lambda answer: answer.epoch)
        return self._address.data.at(newest.host, newest.port, must_be_master=True)

    async def moved(self, endpoint: Endpoint) -> None:
        """Return when the sentinels name another master than ``endpoint``."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                master = await self.locate()
            except BrokerUnavailable:
                continue  # nobody says that it is elsewhere
            if master.place != endpoint.place:
                return

    async def _ask(self, client: ServerClient) -> _Answer | str:
        """What a sentinel says of the master, or why it says nothing.

        The one that leads a failover has its epoch already while ``SENTINEL MASTER`` still tells of
        the old master, until the other replicas have been told. Where the new one is, only the
        second question says; asked in this order, no address is taken for newer than it is.
        """
        if not client.connected:
            return client.why or "not connected"
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                about, place = await client.execute_many(
                    [
                        ("SENTINEL", "MASTER", self._address.master),
                        ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._address.master),
                    ]
                )
        except TimeoutError:
            return "no answer in time"
        except BrokerUnavailable as error:
            return error.why
        except ResponseError as error:
            return str(error).partition(", with args")[0]
        if place is None:
            return "it was told to forget that master"
        host, port = place
        return _Answer(int(text_pairs(about)["config-epoch"]), host.decode(), int(port))

    async def _any_connected(self) -> None:
        waits = [
            asyncio.ensure_future(client.wait_connected(timeout_seconds=_ANSWER_SECONDS))
            for client in self._clients
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
