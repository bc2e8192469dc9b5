"""What ``GET /metrics`` tells (protocol section 7): one table, and its samples as Prometheus' text.

Pure. Who reads the samples off a gateway is :mod:`gateway.readings`. Labels have few values: no
user, tenant, run or connection is ever one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, NamedTuple, TypeAlias

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from broker.metrics import Row

PROCESS: Final = "process"
"""The label of what each process of a gateway has for itself: 0, 1, … of ``--processes``."""

STAGES: Final = ("sdk_to_redis", "redis_to_gateway", "gateway_to_socket")

SUM: Final = "sum"


class Sample(NamedTuple):
    """A value of the metric ``name``; ``labels`` in the order of its row, without the process.

    ``edge``: of a histogram, the bucket's upper edge as text, or :data:`SUM`.
    """

    name: str
    labels: tuple[str, ...]
    value: float
    edge: str = ""


_CONNECTION: Final = ("mode", "transport")

OWN: Final = (
    Row("runcast_build_info", "gauge", "1; the label is the version that runs", ("version",)),
    Row("runcast_ready", "gauge", "1 while /readyz is 200: Redis is heard, nothing was missed"),
    Row("runcast_draining", "gauge", "1 since it was told to drain"),
    Row("runcast_connections", "gauge", "Connections that are open", _CONNECTION),
    Row("runcast_connects_total", "counter", "Connections that were made", _CONNECTION),
    Row("runcast_refused_total", "counter",
        "Connections and frames that were refused, limits included, by the code told", ("code",)),
    Row("runcast_closes_total", "counter",
        "Connections that ended, by close code; lost: without one; other: a client's own",
        ("code",)),
    Row("runcast_messages_accepted_total", "counter", "Messages of clients that began a run"),
    Row("runcast_channels", "gauge", "Channels that are listened to"),
    Row("runcast_events_published_total", "counter", "Events that were heard from Redis"),
    Row("runcast_events_delivered_total", "counter", "Events put into connections' outboxes"),
    Row("runcast_events_replayed_total", "counter", "Those of them that were read from a log"),
    Row("runcast_events_repaired_total", "counter", "Events that pub/sub lost, read from a log"),
    Row("runcast_resyncs_total", "counter",
        "Times that clients were told that something is missing", ("reason",)),
    Row("runcast_isolation_violations_total", "counter",
        "Events withheld because their owner is not their reader's"),
    Row("runcast_delivery_seconds", "histogram",
        "From an event's entry into Redis' log until it is written to its sockets; a sample"),
    Row("runcast_delivery_stage_seconds", "histogram",
        "The same by stage, and the time before it: from the SDK into Redis' log; a sample",
        ("stage",)),
    Row("runcast_outbox_bytes", "gauge", "Bytes that wait for clients, the sockets' buffers too"),
    Row("runcast_clients_lagging", "gauge",
        "Readers that are fed from the log: they resume, or do not keep up"),
    Row("runcast_subscriber_hearing", "gauge",
        "1 while every channel's subscription is acknowledged"),
    Row("runcast_subscriber_silence_seconds", "gauge",
        "Since the gateway last heard its own probe by pub/sub, of every server of Redis"),
    Row("runcast_subscriber_reconnects_total", "counter",
        "Times that a subscriber's connection was lost and opened again"),
    Row("runcast_redis_connected", "gauge", "1 while commands can be sent"),
    Row("runcast_redis_probe_seconds", "histogram",
        "From publishing a probe until it is heard, every 5 s for each server of Redis"),
    Row("runcast_redis_round_trip_seconds", "histogram", "Of a command, every 5 s"),
    Row("runcast_loop_lag_seconds", "histogram",
        "By how much the event loop was late, four times a second"),
    Row("runcast_sweeper_active", "gauge", "1 at the one gateway process that sweeps"),
    Row("runcast_sweeps_total", "counter", "Looks at the runs whose time is up"),
    Row("runcast_sweeper_runs_ended_total", "counter",
        "Runs that the sweeper ended, by status", ("status",)),
    Row("process_cpu_seconds_total", "counter", "Processor time, of user and system"),
    Row("process_resident_memory_bytes", "gauge", "Resident memory"),
    Row("process_virtual_memory_bytes", "gauge", "Virtual memory"),
    Row("process_start_time_seconds", "gauge", "When it started, since 1970"),
    Row("process_open_fds", "gauge", "Open file descriptors: a connection is one"),
    Row("process_max_fds", "gauge", "How many it may open"),
)  # fmt: skip
"""What each process says of itself; the label :data:`PROCESS` comes first."""

FLEET: Final = (
    Row("runcast_processes", "gauge", "Processes that share this gateway's port"),
    Row("runcast_process_up", "gauge",
        "1 if the process told its figures for this scrape", (PROCESS,)),
    Row("runcast_fleet_up", "gauge",
        "1 if Redis told the fleet's figures, the ones below, for this scrape"),
    Row("runcast_gateways", "gauge", "Gateway processes that live, as Redis knows"),
    Row("runcast_runs_open", "gauge",
        "Runs that have not ended; told by the gateway that sweeps", ("agent", "state")),
    Row("runcast_runs_ended_total", "counter",
        "Runs that have ended, by status; abandoned: no worker took it, or it was lost",
        ("agent", "status")),
    Row("runcast_runs_incomplete_total", "counter",
        "Ended runs that left out one of the five events", ("agent",)),
    Row("runcast_runs_events_total", "counter",
        "Events that ended runs had published", ("agent",)),
    Row("runcast_queue_requests", "gauge", "Requests that no worker has claimed", ("agent",)),
    Row("runcast_queue_oldest_seconds", "gauge", "Age of the oldest of them; 0: there is none",
        ("agent",)),
    Row("runcast_workers", "gauge", "Workers that serve the agent", ("agent",)),
    Row("runcast_workers_capacity", "gauge",
        "Runs that these can carry at once, shared by all agents that they serve", ("agent",)),
    Row("runcast_workers_running", "gauge", "Runs of the agent that they carry", ("agent",)),
)  # fmt: skip
"""What one says of all of them, and of the fleet: the same from every gateway."""

METRICS: Final[Mapping[str, Row]] = {
    row.name: row
    for row in (*(each._replace(labels=(PROCESS, *each.labels)) for each in OWN), *FLEET)
}
"""Name → the metric with all of its labels, in the order of the answer."""

OF_FLEET: Final = frozenset(row.name for row in FLEET)

MOST_AGENTS: Final = 200
"""Agents that have a label of their own; anybody who may write to Redis names agents."""

OTHERS: Final = "(others)"
"""What all further agents are counted as."""

_Samples: TypeAlias = Iterable[Sample]


class Exposition(Collector):
    """One answer, for ``prometheus_client.generate_latest``.

    ``processes``: what each process said of itself; ``fleet``: what one of them said of all. Of two
    samples for the same labels the last counts. Each metric's rows stand together, whoever said it.
    """

    def __init__(self, processes: Mapping[str, _Samples], fleet: _Samples) -> None:
        self._found: dict[str, dict[tuple[str, ...], dict[str, float]]] = {
            name: {} for name in METRICS
        }
        for process, samples in processes.items():
            for sample in samples:
                whose = () if sample.name in OF_FLEET else (process,)
                self._put(sample, (*whose, *sample.labels))
        for sample in fleet:
            self._put(sample, sample.labels)

    def _put(self, sample: Sample, labels: tuple[str, ...]) -> None:
        self._found[sample.name].setdefault(labels, {})[sample.edge] = sample.value

    def collect(self) -> Iterator[Metric]:
        """The metrics that have samples."""
        for name, row in METRICS.items():
            if self._found[name]:
                yield _family(row, self._found[name])


def _family(row: Row, found: Mapping[tuple[str, ...], Mapping[str, float]]) -> Metric:
    if row.kind == "histogram":
        histogram = HistogramMetricFamily(row.name, row.what, labels=row.labels)
        for labels, edges in found.items():
            buckets = [(edge, value) for edge, value in edges.items() if edge != SUM]
            histogram.add_metric(labels, buckets, edges[SUM])
        return histogram
    kind = CounterMetricFamily if row.kind == "counter" else GaugeMetricFamily
    family = kind(row.name, row.what, labels=row.labels)
    for labels, edges in found.items():
        family.add_metric(labels, edges[""])
    return family


def of_histogram(histogram: Metric) -> Iterator[Sample]:
    """What a histogram of ``prometheus_client`` has counted."""
    for name, labels, value, *_ in histogram.samples:
        whose = tuple(labels[label] for label in METRICS[histogram.name].labels[1:])
        if name.endswith("_bucket"):
            yield Sample(histogram.name, whose, value, labels["le"])
        elif name.endswith("_sum"):
            yield Sample(histogram.name, whose, value, SUM)


def by_agent(
    counts: Mapping[str, float], *, together: Callable[[Iterable[float]], float] = sum
) -> dict[str, float]:
    """Agent → number, of no more than :data:`MOST_AGENTS`, the first by name, and the others."""
    rows = sorted(counts.items())
    shown, others = dict(rows[:MOST_AGENTS]), rows[MOST_AGENTS:]
    if others:
        shown[OTHERS] = together([count for _, count in others])
    return shown
