"""The processes that share one port (``--processes``), as they tell each other their figures.

The kernel gives a connection to any of them, so one that is asked for metrics asks the others: by a
Unix socket of each in a folder that only this user can enter. Redis is not needed for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson
import structlog

from gateway.metrics import Sample

log = structlog.get_logger(__name__)

ANSWER_SECONDS: Final = 3.0
"""A process that has not answered by then does not count for this scrape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which of how many processes this is, and the folder in which they meet."""

    folder: Path
    index: int
    count: int

    def socket(self, index: int) -> Path:
        """Where a process answers."""
        return self.folder / f"{index}.sock"


class Siblings:
    """One process among the others; ``read`` reads its own figures."""

    def __init__(self, place: Place, read: Callable[[], Awaitable[Sequence[Sample]]]) -> None:
        self._place, self._read = place, read
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Answer from now on."""
        path = self._place.socket(self._place.index)
        self._server = await asyncio.start_unix_server(self._answer, path)

    async def stop(self) -> None:
        """Answer no more."""
        if self._server is not None:
            self._server.close()
            self._place.socket(self._place.index).unlink(missing_ok=True)

    async def all(self) -> dict[str, list[Sample] | None]:
        """What each of the processes says; None of one that does not answer in time."""
        told = await asyncio.gather(*map(self._ask, range(self._place.count)))
        return {str(index): samples for index, samples in enumerate(told)}

    async def _ask(self, index: int) -> list[Sample] | None:
        if index == self._place.index:
            return list(await self._read())
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                reader, writer = await asyncio.open_unix_connection(self._place.socket(index))
                try:
                    told = orjson.loads(await reader.read())
                finally:
                    writer.close()
        except (OSError, TimeoutError, orjson.JSONDecodeError) as error:
            log.warning("process_silent", process=index, why=str(error) or "no answer in time")
            return None
        return [Sample(name, tuple(labels), value, edge) for name, labels, value, edge in told]

    async def _answer(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(orjson.dumps([tuple(sample) for sample in await self._read()]))
            await writer.drain()
        except OSError:
            pass  # who asked has gone
        finally:
            writer.close()
