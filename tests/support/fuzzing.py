"""Many generated cases against a running system, and the judge of what they did to everybody else.

Cases are generated in the calling thread, and checked on an event loop in another one, so that the
watcher is served the whole time.
"""

import asyncio
import os
import random
import re
import threading
import urllib.request
import uuid
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import psutil
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.support.chaos_report import Row
from tests.support.clients import Client, cursor_key
from tests.support.seeds import SEED
from tests.support.servers import SECRET, Fleet, Process, wait_until

T = TypeVar("T")

TROUBLE: Final = re.compile(r"Traceback|Exception\b|[Uu]nhandled|never retrieved")
"""What a log holds when something went wrong that nobody had thought of."""

MOST_GROWTH: Final = 20 * 1024 * 1024
"""Bytes of memory that a process may have gained after the first tenth of the cases."""

BEATS_PER_SECOND: Final = 40


class LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], *, seconds: float = 60.0) -> T:
        """The coroutine's result."""
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(seconds)
        except TimeoutError:
            future.cancel()
            raise

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@dataclass
class Bench:
    """A gateway and a worker to be fuzzed, as processes."""

    fleet: Fleet
    base: str
    gateway: Process
    worker: Process
    loop: LoopThread

    @property
    def port(self) -> int:
        return int(self.base.rpartition(":")[2])


@contextmanager
def running_bench(fleet: Fleet) -> Iterator[Bench]:
    """One gateway and one worker on the fleet's Redis, and a loop for their clients."""
    loop = LoopThread()
    try:
        worker = fleet.worker()
        base, gateway = fleet.gateway_process()
        yield Bench(fleet, base, gateway, worker, loop)
    finally:
        loop.stop()


@dataclass
class Judge:
    """Watches a bench while it is fuzzed. ``tokens``: what must not be in any log."""

    bench: Bench
    area: str
    seed: int
    tokens: set[str] = field(default_factory=set)
    cases: int = 0
    _rss: dict[int, int] = field(default_factory=dict)
    _sockets: int = 0
    _read: dict[Path, int] = field(default_factory=dict)

    def settle(self) -> None:
        """From here on memory has to stay level."""
        self._rss = {pid: psutil.Process(pid).memory_info().rss for pid in self._pids()}

    @property
    def settled(self) -> bool:
        return bool(self._rss)

    def grown(self) -> dict[int, int]:
        """Bytes gained since, by process."""
        return {pid: psutil.Process(pid).memory_info().rss - rss for pid, rss in self._rss.items()}

    def begin(self) -> None:
        self._read = {each.log: len(each.printed()) for each in self._processes()}
        self._sockets = self._connections()

    def check_processes(self) -> None:
        """Alive, ready, level in memory, sockets gone, and nothing odd in the logs."""
        for process in self._processes():
            status = process.popen.poll()
            assert status is None, f"ended with {status}: {process.printed()[-2000:]}"
        with urllib.request.urlopen(f"{self.bench.base}/readyz", timeout=30) as response:
            assert response.status == 200
        wait_until(
            lambda: self._connections() <= self._sockets,
            what=f"{self.area}: the gateway's sockets are back to {self._sockets}",
        )
        for pid, more in self.grown().items():
            assert more < MOST_GROWTH, f"{self.area}: process {pid} grew by {more >> 20} MiB"
        for process in self._processes():
            text = process.printed()[self._read[process.log] :]
            found = TROUBLE.search(text)
            assert found is None, (
                f"{self.area} (seed {self.seed}): in {process.log.name}: "
                f"{text[max(0, found.start() - 300) : found.start() + 2500]}"
            )
            leaked = [token for token in (*self.tokens, SECRET) if token in text]
            assert not leaked, f"{self.area}: a token is in {process.log.name}: {leaked[:1]}"

    def _processes(self) -> tuple[Process, Process]:
        return self.bench.gateway, self.bench.worker

    def _pids(self) -> list[int]:
        return [process.popen.pid for process in self._processes()]

    def _connections(self) -> int:
        process = psutil.Process(self.bench.gateway.popen.pid)
        return sum(each.status == psutil.CONN_ESTABLISHED for each in process.net_connections())


@contextmanager
def judged(
    bench: Bench, area: str, *, may_resync: bool = False, user: str | None = None
) -> Iterator[Judge]:
    """Fuzz inside; a watcher that reads a run all the while must not notice anything of it.

    ``may_resync``: what the cases do to the watcher's log has to be told to it.
    """
    judge = Judge(bench, area, int(os.environ.get(SEED) or random.SystemRandom().getrandbits(32)))
    judge.begin()
    client = Client(bench.base, user or f"watcher-{uuid.uuid4().hex[:8]}")
    bench.loop.run(client.__aenter__())
    try:
        run_id = bench.loop.run(
            client.ask({"count": 10**7, "per_second": BEATS_PER_SECOND}, agent="beats")
        )
        bench.loop.run(client.first("agent_thinking"))
        yield judge
        bench.loop.run(client.send("stop_agent", {"run_id": run_id}, ref="stop"))
        try:
            bench.loop.run(client.completed(run_id))
        finally:
            _check_watcher(client, run_id, area, judge, may_resync=may_resync)
    finally:
        bench.loop.run(client.__aexit__())
    judge.check_processes()


def _check_watcher(
    client: Client, run_id: str, area: str, judge: Judge, *, may_resync: bool
) -> None:
    told = f"{area} (seed {judge.seed}): the watcher"
    assert client.close_code is None, f"{told} was disconnected with {client.close_code}"
    events = client.events(run_id)
    seqs = [event["seq"] for event in events]
    assert seqs == list(range(1, len(seqs) + 1)), f"{told} got {_first_breach(seqs)}"
    assert len(events) > 3, f"{told} got next to nothing"
    logged = [cursor_key(frame) for frame in client.logged()]
    assert logged == sorted(set(logged)), f"{told} got cursors out of order, or twice"
    foreign = [frame for frame in client.logged() if frame.get("user_id") != client.user]
    assert not foreign, f"{told} got a foreign event: {foreign[0]}"
    usual = {"connection_established", "live", "run_accepted", "ok"}
    odd = [frame for frame in client.frames if "id" not in frame and frame["type"] not in usual]
    if may_resync:
        odd = [frame for frame in odd if frame["type"] != "resync"]
    assert not odd, f"{told} got {odd[0]}"


def _first_breach(seqs: list[int]) -> str:
    for at, seq in enumerate(seqs, 1):
        if seq != at:
            return f"seq {seq} where {at} belongs, of {len(seqs)} events"
    return "all"


def fuzz(
    judge: Judge,
    strategy: st.SearchStrategy[T],
    check: Callable[[list[T]], Coroutine[Any, Any, None]],
    *,
    cases: int,
    batch: int,
) -> None:
    """Check about ``cases`` generated cases, ``batch`` at a time."""
    began = judge.cases
    failures: list[Exception] = []

    @seed(judge.seed)
    @settings(
        max_examples=-(-cases // batch),
        deadline=None,
        database=None,
        phases=[Phase.generate],  # a failure names its case: shrinking would repeat the noise
        suppress_health_check=list(HealthCheck),
    )
    @given(_batches(strategy, batch))
    def examine(generated: _Batch[T]) -> None:
        if failures:
            return
        judge.cases += len(generated.cases)
        try:
            judge.bench.loop.run(check(generated.cases))
        except Exception as error:  # noqa: BLE001 - raised below, once, and not searched for again
            failures.append(error)
        if not judge.settled and judge.cases - began >= cases // 10:
            judge.settle()

    examine()
    for error in failures:
        error.add_note(f"{judge.area}: {SEED}={judge.seed} gives the same cases again")
        raise error


@dataclass
class _Batch(Generic[T]):
    """Cases that are not printed: there are too many of them."""

    cases: list[T] = field(repr=False)


@st.composite
def _batches(draw: st.DrawFn, strategy: st.SearchStrategy[T], size: int) -> _Batch[T]:
    return _Batch(draw(st.lists(strategy, min_size=size, max_size=size)))


def row(judge: Judge) -> Row:
    """The judge's line in the report: cases count as events, and each was dealt with."""
    return Row(fault=f"fuzz: {judge.area}", published=judge.cases, lost=0, doubled=0, leaked=0)
