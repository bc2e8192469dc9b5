"""A TCP proxy that fails on command: between the program and Redis, or a client and a gateway.

It lives in a thread of its own with its own event loop, so a busy test does not distort it. Faults
are switched on and off at any time from the test's thread, for connections that exist and for new
ones, in one direction or both, and, in front of Redis, for connections of a certain name only. Each
fault counts what it hit, so a test can prove that its fault happened.
"""

import asyncio
import random
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self, TypeVar

from tests.support.fault_link import Link
from tests.support.faults import Counters, Fault, Kind, Matches, Named, Way, anyone

Upstream = tuple[str, int] | Path
"""Where connections go on: an address, or a unix socket."""

PATIENCE_SECONDS: Final = 30.0
"""For the proxy's thread to answer."""

Value = TypeVar("Value")


@dataclass(eq=False)
class FaultProxy:
    """``with FaultProxy(("127.0.0.1", port)) as proxy``: connect to ``proxy.url`` instead.

    ``resp``: what passes is Redis' protocol; names, messages and commands are seen only then.
    ``seed``: of the sizes of split pieces.
    """

    upstream: Upstream
    resp: bool = True
    seed: int = 0
    counters: Counters = field(default_factory=Counters)
    port: int = 0

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self._faults: tuple[Fault, ...] = ()
        self._links: set[Link] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="fault proxy", daemon=True)
        self._loop: asyncio.AbstractEventLoop
        self._over: asyncio.Event
        self.changed: asyncio.Event

    @property
    def url(self) -> str:
        """In place of a Redis' URL."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def base(self) -> str:
        """In place of a gateway's address."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.result(PATIENCE_SECONDS)
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive(), "the fault proxy does not end"

    # --- faults

    def cut(self, to: Named = anyone) -> int:
        """Reset the connections that exist (RST on both sides); how many."""
        return self._call(lambda: sum(link.cut() for link in self._links if to(link.name)))

    def refuse(self, to: Named = anyone) -> Fault:
        """Reset new connections: at once, or as soon as they bear a name that is meant."""
        return self._begin(self._fault(Kind.REFUSE, to=to))

    def down(self, to: Named = anyone) -> Fault:
        """:meth:`refuse` and :meth:`cut`: no connection lives and none is made."""
        fault = self.refuse(to)
        fault.hits += self.cut(to)
        return fault

    def delay(self, seconds: float, way: Way = Way.BOTH, to: Named = anyone) -> Fault:
        """Everything arrives this much later, each way; order and throughput stay."""
        return self._begin(self._fault(Kind.DELAY, way=way, to=to, seconds=seconds))

    def black_hole(
        self, way: Way = Way.BOTH, to: Named = anyone, *, spare_new: bool = False
    ) -> Fault:
        """Half-open: bytes are taken and lost, an end of the connection is not passed on.

        ``spare_new``: connections made from now on are well, as after a firewall forgot the old.
        Ending the fault resets the connections that lost something: nothing can go on there.
        """
        fault = self._fault(Kind.BLACK_HOLE, way=way, to=to)
        fault.newest = self.counters.connections if spare_new else None
        return self._begin(fault)

    def stall(self, way: Way = Way.BOTH, to: Named = anyone) -> Fault:
        """Bytes are held back, and go on in order when the fault ends: nothing is lost."""
        return self._begin(self._fault(Kind.STALL, way=way, to=to))

    def split(self, most: int = 7, way: Way = Way.BOTH, to: Named = anyone) -> Fault:
        """Write pieces of 1 to ``most`` bytes, wherever that cuts."""
        return self._begin(self._fault(Kind.SPLIT, way=way, to=to, most=most))

    def suppress(
        self, matches: Matches, *, nth: int = 1, times: int | None = 1, to: Named = anyone
    ) -> Fault:
        """Lose published messages: from the ``nth`` that matches on, ``times`` (None = all)."""
        return self._begin(
            self._fault(Kind.SUPPRESS, way=Way.DOWN, to=to, matches=matches, nth=nth, times=times)
        )

    def lose_reply(
        self, matches: Matches, *, nth: int = 1, times: int | None = 1, to: Named = anyone
    ) -> Fault:
        """A matching command is carried out; its reply, and the connection with it, is lost.

        For connections with one reply per command, so not for a subscriber's.
        """
        return self._begin(
            self._fault(Kind.LOSE_REPLY, way=Way.UP, to=to, matches=matches, nth=nth, times=times)
        )

    def cut_at(
        self,
        matches: Matches,
        *,
        nth: int = 1,
        times: int | None = 1,
        way: Way = Way.UP,
        to: Named = anyone,
    ) -> Fault:
        """Reset a connection as a matching command (UP) or reply (DOWN) is about to pass."""
        return self._begin(
            self._fault(Kind.CUT_AT, way=way, to=to, matches=matches, nth=nth, times=times)
        )

    def retarget(self, upstream: Upstream) -> None:
        """New connections go there; old ones stay where they are: a changed DNS entry."""
        self.upstream = upstream

    def names(self) -> list[str]:
        """Of the connections that exist now."""
        return self._call(lambda: [link.name for link in self._links])

    # --- in its thread

    def acting(self, kind: Kind, name: str, way: Way, number: int) -> list[Fault]:
        """The faults of this kind that are on for this direction of a connection."""
        return [f for f in self._faults if f.kind is kind and f.means(name, way, number)]

    def _fault(
        self,
        kind: Kind,
        *,
        to: Named,
        way: Way = Way.BOTH,
        seconds: float = 0.0,
        most: int = 0,
        matches: Matches = bool,
        nth: int = 1,
        times: int | None = None,
    ) -> Fault:
        return Fault(
            kind=kind, stop=self._end, way=way, to=to, seconds=seconds, most=most,
            matches=matches, nth=nth, times=times,
        )  # fmt: skip

    def _begin(self, fault: Fault) -> Fault:
        self._call(lambda: self._change((*self._faults, fault)))
        return fault

    def _end(self, fault: Fault) -> None:
        def end_now() -> None:
            self._change(tuple(each for each in self._faults if each is not fault))
            for link in self._links:
                if fault in link.swallowed_by:
                    link.cut()

        self._call(end_now)

    def _change(self, faults: tuple[Fault, ...]) -> None:
        self._faults = faults
        self.changed.set()
        self.changed = asyncio.Event()

    def _call(self, function: Callable[[], Value]) -> Value:
        """Run in the proxy's thread, and wait for it: a fault is on when this returns."""
        done: Future[Value] = Future()

        def run() -> None:
            try:
                done.set_result(function())
            except Exception as error:  # noqa: BLE001 - it is the caller's
                done.set_exception(error)

        self._loop.call_soon_threadsafe(run)
        return done.result(PATIENCE_SECONDS)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        self.changed = asyncio.Event()
        server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set_result(None)
        await self._over.wait()
        # A connection that is accepted and has no transport yet is lost when its server closes.
        self._loop.remove_reader(server.sockets[0].fileno())
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for link in list(self._links):
                link.cut()
            for task in list(self._serving):
                task.cancel()
            await asyncio.wait(others)
        server.close()
        await server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._connect(reader, writer))
        self._serving.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._serving.discard(task)
            writer.transport.abort()  # one that was cancelled before it began has closed nothing

        task.add_done_callback(ended)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.counters.connections += 1
        number = self.counters.connections
        refusals = self.acting(Kind.REFUSE, "", Way.BOTH, number)
        if refusals:
            refusals[0].hits += 1
            self.counters.refused += 1
            writer.transport.abort()
            return
        try:
            if isinstance(self.upstream, Path):
                above = await asyncio.open_unix_connection(self.upstream)
            else:
                above = await asyncio.open_connection(*self.upstream)
        except OSError:
            writer.transport.abort()
            return
        link = Link(self, number, (reader, writer), above)
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)
            for each in (writer, above[1]):
                with suppress(OSError):
                    await each.wait_closed()
