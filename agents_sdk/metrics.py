"""A worker's own metrics, for Prometheus: off unless a port is given.

What is counted per event are plain numbers; they are read when somebody asks. The server has a
thread of its own, so an agent that blocks the event loop does not hide that it does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sized
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from broker.errors import ConfigurationError
from broker.metrics import FAST, Row

if TYPE_CHECKING:
    from agents_sdk.errors import Reason
    from broker.redis.records import Claim

RUN_SECONDS: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)

MOST_LATENCIES: Final = 1000
"""The newest between two scrapes: they tell percentiles as well as all of them."""

METRICS: Final[Mapping[str, Row]] = {row.name: row for row in (
    Row("runcast_worker_concurrency", "gauge", "Most runs at once"),
    Row("runcast_worker_runs", "gauge", "Runs that it carries", ("agent",)),
    Row("runcast_worker_run_seconds", "histogram",
        "From the claim of a run until its last event is in the log, by how it ended; lost: "
        "somebody else has it", ("agent", "status")),
    Row("runcast_worker_retries_total", "counter",
        "Runs taken over from a worker that was lost", ("agent",)),
    Row("runcast_worker_stops_total", "counter",
        "Runs that were told to end before they did, by reason", ("reason",)),
    Row("runcast_worker_events_confirmed_total", "counter", "Events that Redis has in its log"),
    Row("runcast_worker_buffer_events", "gauge",
        "Events and pieces of text that are said and not confirmed"),
    Row("runcast_worker_publish_seconds", "histogram",
        "From sending until Redis has confirmed, of what leaves together; a sample"),
    Row("runcast_worker_publish_retries_total", "counter",
        "Times that something was sent again because it was not confirmed"),
)}  # fmt: skip
"""Name → the metric."""


class Tally:
    """What the buffers of a process count, in plain numbers.

    ``waiting``: those that hold something; ``latencies``: of the newest sendings, in seconds.
    """

    __slots__ = ("confirmed", "latencies", "retries", "waiting")

    def __init__(self) -> None:
        self.confirmed = self.retries = 0
        self.waiting: set[Sized] = set()
        self.latencies: deque[float] = deque(maxlen=MOST_LATENCIES)


class WorkerMetrics(Collector):
    """One worker's. Everything is counted from its start; :meth:`serve` only shows it."""

    def __init__(
        self, tally: Tally, *, concurrency: int, running: Callable[[], Mapping[str, int]]
    ) -> None:
        self._tally, self._concurrency, self._running = tally, concurrency, running
        self._server: Callable[[], None] | None = None
        self.port: int | None = None
        """Where it is served."""
        self.registry = CollectorRegistry()
        self.registry.register(self)  # first: what it moves into a histogram is told by that
        self._publish = self._histogram("runcast_worker_publish_seconds", FAST)
        self._runs = self._histogram("runcast_worker_run_seconds", RUN_SECONDS)
        self._stops = self._counter("runcast_worker_stops_total")
        self._retries = self._counter("runcast_worker_retries_total")
        ProcessCollector(registry=self.registry)

    def run_ended(self, claim: Claim, status: str, told: Reason | None, seconds: float) -> None:
        """A run that was carried here is over."""
        self._runs.labels(claim.agent, status).observe(seconds)
        if told is not None:
            self._stops.labels(told.value).inc()
        if claim.attempt > 1:
            self._retries.labels(claim.agent).inc()

    def serve(self, host: str, port: int | None) -> None:
        """Answer ``GET /metrics`` there, from a thread; None: nowhere.

        :class:`ConfigurationError` when the port is taken.
        """
        if port is None:
            return
        try:
            server, thread = start_http_server(port, host, self.registry)
        except OSError as error:
            raise ConfigurationError(
                setting=f"{host}, port {port}, for a worker's metrics",
                why=error.strerror or str(error),
                todo="Choose another one: --metrics-port, or RUNCAST_WORKER_METRICS_PORT; 0 picks "
                "a free one.",
            ) from None
        self.port = server.server_port

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        self._server = stop

    def stop(self) -> None:
        """Answer no more."""
        if self._server is not None:
            self._server()
            self._server = None

    def collect(self) -> Iterator[Metric]:
        """What is read when somebody asks."""
        tally = self._tally
        while tally.latencies:
            self._publish.observe(tally.latencies.popleft())
        # In one step each: the event loop's thread goes on meanwhile.
        unconfirmed = sum(len(buffer) for buffer in list(tally.waiting))
        yield self._gauge("runcast_worker_concurrency", {(): self._concurrency})
        running: dict[tuple[str, ...], float] = {
            (agent,): count for agent, count in self._running().items()
        }
        yield self._gauge("runcast_worker_runs", running)
        yield self._gauge("runcast_worker_buffer_events", {(): unconfirmed})
        for name, count in (
            ("runcast_worker_events_confirmed_total", tally.confirmed),
            ("runcast_worker_publish_retries_total", tally.retries),
        ):
            yield CounterMetricFamily(name, METRICS[name].what, count)

    def _gauge(self, name: str, values: Mapping[tuple[str, ...], float]) -> Metric:
        family = GaugeMetricFamily(name, METRICS[name].what, labels=METRICS[name].labels)
        for labels, value in values.items():
            family.add_metric(labels, value)
        return family

    def _counter(self, name: str) -> Counter:
        row = METRICS[name]
        return Counter(name, row.what, row.labels, registry=self.registry)

    def _histogram(self, name: str, buckets: tuple[float, ...]) -> Histogram:
        row = METRICS[name]
        return Histogram(name, row.what, row.labels, buckets=buckets, registry=self.registry)
