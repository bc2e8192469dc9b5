"""The sweeper: no run stays open for ever (promise G5).

Every open run has a place in its partition's ``leases``, by the time at which somebody must look at
it: a queue time-out, a lease, a stop deadline. Every gateway runs a sweeper; a lock that lives a
little longer than a tick lets one of them act. It only saves work: each decision is one script.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog
from redis.exceptions import ResponseError

from broker.errors import BrokerUnavailable, Refused
from broker.redis.broker import Broker
from gateway.commands import end_run

log = structlog.get_logger(__name__)

TICK_SECONDS: Final = 1.0
LOCK_MS: Final = 2500
MOST_PER_PARTITION: Final = 100
"""Runs looked at per partition and tick; more are left to the next tick."""


class Sweeper:
    """One gateway's sweeper."""

    def __init__(self, broker: Broker, *, node_id: str) -> None:
        self._broker = broker
        self._node_id = node_id

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            try:
                if await self._my_turn():
                    await self.sweep()
            except (BrokerUnavailable, ResponseError) as error:
                log.warning("sweep_failed", why=str(error))
            await asyncio.sleep(TICK_SECONDS)

    async def sweep(self) -> int:
        """Look at every run that is due; how many were ended."""
        seconds, micros = await self._broker.client.execute("TIME")
        epoch_ms = int(seconds) * 1000 + int(micros) // 1000
        partitions = range(self._broker.keys.partitions)
        due = await self._broker.due(partitions, epoch_ms=epoch_ms, most=MOST_PER_PARTITION)
        ended = 0
        for partition, runs in zip(partitions, due, strict=True):
            for run_id in runs:
                ended += await self._look_at(partition, run_id.decode())
        return ended

    async def _look_at(self, partition: int, run_id: str) -> bool:
        try:
            status = await end_run(self._broker, partition, run_id, node_id=self._node_id)
        except ResponseError as error:
            log.error("sweep_of_run_failed", run=run_id, why=str(error))  # noqa: TRY400 - the text says it
            return False
        except Refused as refused:
            # Its worker or another sweeper was faster; the next tick sees what is left to do.
            log.info("sweep_refused", run=run_id, why=str(refused))
            return False
        if status is None:
            return False
        log.warning("run_ended_by_sweeper", run=run_id, status=status)
        return True

    async def _my_turn(self) -> bool:
        key, client = self._broker.keys.sweeper, self._broker.client
        if await client.execute("SET", key, self._node_id, "NX", "PX", LOCK_MS) is not None:
            return True
        if await client.execute("GET", key) != self._node_id.encode():
            return False
        await client.execute("PEXPIRE", key, LOCK_MS)
        return True
