"""One connection through the fault proxy: two pipes, and what becomes of each chunk in them."""

import asyncio
import random
import socket
import struct
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final, Protocol
from urllib.parse import unquote

from tests.support.faults import Counters, Fault, Kind, Way
from tests.support.resp_frames import Framer, NotResp, is_live, parsed

MOST_HELD: Final = 256 * 1024
"""Bytes under way in one direction: beyond that the proxy stops reading, as a network does."""

RESET: Final = struct.pack("ii", 1, 0)


class Network(Protocol):
    """What a connection asks its proxy for."""

    resp: bool
    counters: Counters
    rng: random.Random
    changed: asyncio.Event

    def acting(self, kind: Kind, name: str, way: Way, number: int) -> list[Fault]:
        """The faults of this kind that are on for this direction of a connection."""


class Link:
    """Runs until one side ends it, or a fault does."""

    def __init__(
        self,
        network: Network,
        number: int,
        below: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        above: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self.network, self.number, self.name = network, number, ""
        self.swallowed_by: set[Fault] = set()
        self.commands = self.replies = 0
        self.doomed: dict[int, Fault] = {}
        self.over = asyncio.Event()
        self._writers = (below[1], above[1])
        self._pipes = (
            Pipe(self, Way.UP, below[0], above[1]),
            Pipe(self, Way.DOWN, above[0], below[1]),
        )
        for writer in self._writers:
            place = writer.get_extra_info("socket")
            if place.family != socket.AF_UNIX:
                place.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            writer.transport.set_write_buffer_limits(high=65536)

    async def run(self) -> None:
        tasks = [
            asyncio.create_task(work)
            for pipe in self._pipes
            for work in (pipe.take_all(), pipe.give_all())
        ]
        try:
            await self.over.wait()
        finally:
            for writer in self._writers:  # what was written still goes out
                writer.close()
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    def cut(self) -> bool:
        """RST to both sides, now; false when it had ended already."""
        if self.over.is_set():
            return False
        self.network.counters.cut += 1
        for writer in self._writers:
            with suppress(OSError):
                place = writer.get_extra_info("socket")
                place.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()
        self.over.set()
        return True


class Pipe:
    """One direction: taken in by one task, given on by another, so that a delay costs no rate."""

    def __init__(
        self, link: Link, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._link, self._way = link, way
        self._reader, self._writer = reader, writer
        self._held: deque[tuple[float, bytes]] = deque()
        self._size = 0
        self._moved = asyncio.Event()
        self._framer = Framer() if link.network.resp else None

    async def take_all(self) -> None:
        network, loop = self._link.network, asyncio.get_running_loop()
        while True:
            try:
                data = await self._reader.read(65536)
            except OSError:
                await self._unless(Kind.STALL, Kind.BLACK_HOLE)
                self._link.cut()
                return
            if not data:
                await self._unless(Kind.STALL, Kind.BLACK_HOLE)
                self._put(loop.time(), b"")
                return
            await self._unless(Kind.STALL)
            if self._swallow(data):
                continue
            if self._way is Way.UP:
                network.counters.bytes_up += len(data)
            else:
                network.counters.bytes_down += len(data)
            delay = sum(fault.seconds for fault in self._acting(Kind.DELAY))
            for unit in self._units(data):
                if not self._passes(unit):
                    continue
                self._put(loop.time() + delay, unit)
                if not unit:
                    return
            while self._size > MOST_HELD:
                self._moved.clear()
                await self._moved.wait()

    async def give_all(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while not self._held:
                self._moved.clear()
                await self._moved.wait()
            due, data = self._held.popleft()
            self._size -= len(data)
            self._moved.set()
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            if not data:
                self._link.over.set()
                return
            try:
                await self._write(data)
            except OSError:
                self._link.cut()
                return

    def _put(self, due: float, data: bytes) -> None:
        """Empty data: the end of the connection, after all that came before it."""
        self._held.append((due, data))
        self._size += len(data)
        self._moved.set()

    async def _write(self, data: bytes) -> None:
        splitting = self._acting(Kind.SPLIT)
        if not splitting:
            self._writer.write(data)
            await self._writer.drain()
            return
        at = 0
        while at < len(data):
            piece = data[at : at + self._link.network.rng.randint(1, splitting[0].most)]
            at += len(piece)
            splitting[0].hits += 1
            self._writer.write(piece)
            await self._writer.drain()
            await asyncio.sleep(0)  # the reader's turn: it is to see the pieces apart

    def _acting(self, kind: Kind) -> list[Fault]:
        link = self._link
        return link.network.acting(kind, link.name, self._way, link.number)

    async def _unless(self, *kinds: Kind) -> None:
        """Wait while any of these is on."""
        while True:
            changed = self._link.network.changed
            faults = [fault for kind in kinds for fault in self._acting(kind)]
            if not faults:
                return
            for fault in faults:
                fault.hits += 1
                if fault.kind is Kind.BLACK_HOLE:
                    self._link.swallowed_by.add(fault)
            await changed.wait()

    def _swallow(self, data: bytes) -> bool:
        faults = self._acting(Kind.BLACK_HOLE)
        for fault in faults:
            fault.hits += 1
            self._link.swallowed_by.add(fault)
        if faults:
            self._link.network.counters.bytes_swallowed += len(data)
        return bool(faults)

    def _units(self, data: bytes) -> Iterator[bytes]:
        if self._framer is None:
            yield data
            return
        try:
            yield from self._framer.feed(data)
        except NotResp:
            rest, self._framer = self._framer.rest(), None
            yield rest

    def _passes(self, unit: bytes) -> bool:
        """Whether this unit is given on; empty afterwards means: and nothing more."""
        if self._framer is None:
            return True
        return self._passes_up(unit) if self._way is Way.UP else self._passes_down(unit)

    def _passes_up(self, frame: bytes) -> bool:
        link = self._link
        words = parsed(frame)
        if not isinstance(words, list) or not words:
            return True
        link.commands += 1
        if words[0].upper() == b"CLIENT" and words[1].upper() == b"SETNAME":
            link.name = unquote(words[2].decode())
            refusals = self._acting(Kind.REFUSE)
            for fault in refusals:
                fault.hits += 1
                link.network.counters.refused += 1
            if refusals:
                return not link.cut()
        if self._struck(Kind.CUT_AT, words):
            return not link.cut()
        for fault in self._struck(Kind.LOSE_REPLY, words):
            link.doomed[link.commands] = fault
        return True

    def _passes_down(self, frame: bytes) -> bool:
        link = self._link
        if is_live(frame):
            link.network.counters.messages += 1
            lost = bool(self._struck(Kind.SUPPRESS, frame))
            link.network.counters.suppressed += lost
            return not lost
        link.replies += 1
        if link.replies in link.doomed:
            link.network.counters.replies_lost += 1
            self._put(asyncio.get_running_loop().time(), b"")
            link.network.counters.cut += 1
            return False
        if self._struck(Kind.CUT_AT, frame):
            return not link.cut()
        return True

    def _struck(self, kind: Kind, frame: bytes | list[Any]) -> list[Fault]:
        faults = self._acting(kind)
        if not faults:
            return []
        value = parsed(frame) if isinstance(frame, bytes) else frame
        words = value if isinstance(value, list) else [value]
        return [fault for fault in faults if fault.strikes(words)]
