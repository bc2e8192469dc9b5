"""Histograms of one gateway process. All that is sampled is counted by the clock, not as it comes.

A delivery costs nothing more for it: what a read of Redis leaves behind is an id, its body and two
times, and of no more than some of the reads.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from typing import Final

from prometheus_client import Histogram

from broker.cursor import from_redis
from broker.metrics import FAST
from gateway.metrics import METRICS, STAGES, Sample, of_histogram
from gateway.stats import Latency

MOST_LATENCIES: Final = 1000
"""Counted per turn, which is a second: so many tell percentiles as well as all of them."""

LATENCIES_PER_STEP: Final = 10
"""Of these, and one of the stages' reads: events wait for no longer than that takes."""

STAGES_PER_TURN: Final = 40
"""Reads of which every stage is timed, per turn."""

_BEFORE: Final = b',"timestamp":"'
_TIMESTAMP: Final = len("2026-11-23T01:45:49.123Z")


class Meters:
    """What one process has measured since it started."""

    def __init__(self) -> None:
        self.latency = Latency()
        """As ``/ws/stats`` and the reports have it."""
        self.delivery = _histogram("runcast_delivery_seconds")
        self.stages = _histogram("runcast_delivery_stage_seconds")
        self.probe = _histogram("runcast_redis_probe_seconds")
        self.round_trip = _histogram("runcast_redis_round_trip_seconds")
        self.loop_lag = _histogram("runcast_loop_lag_seconds")
        for stage in STAGES:
            self.stages.labels(stage)
        self._heard: list[tuple[bytes, float]] = []
        self._staged: list[tuple[bytes, bytes, float, float]] = []

    def heard(self, event_id: bytes) -> None:
        """The first event of a read has been written to its sockets."""
        # Counted at the next turn: not while others wait for their event.
        if len(self._heard) < MOST_LATENCIES:
            self._heard.append((event_id, time.time()))

    def staged(self, event_id: bytes, body: bytes, begun: float) -> None:
        """The same, of a read that had ended at ``begun``."""
        self._staged.append((event_id, body, begun, time.time()))

    def count(self) -> Iterator[None]:
        """Once a turn: what was noted since the last one, a little per step."""
        heard, self._heard = self._heard, []
        for number, (event_id, at) in enumerate(heard, 1):
            milliseconds = at * 1000 - from_redis(event_id).ms
            self.latency.add(milliseconds)
            self.delivery.observe(max(0.0, milliseconds / 1000))
            if number % LATENCIES_PER_STEP == 0:
                yield
        staged, self._staged = self._staged, []
        for event_id, body, begun, written in staged:
            yield
            logged = from_redis(event_id).ms / 1000
            with suppress(ValueError):  # another program's event
                self._stage("sdk_to_redis", logged - said_at(body))
            self._stage("redis_to_gateway", begun - logged)
            self._stage("gateway_to_socket", written - begun)

    def samples(self) -> Iterator[Sample]:
        """Of all histograms."""
        for each in (self.delivery, self.stages, self.probe, self.round_trip, self.loop_lag):
            for metric in each.collect():
                yield from of_histogram(metric)

    def _stage(self, stage: str, seconds: float) -> None:
        # The clocks of worker, Redis and gateway may differ by more than a stage takes.
        self.stages.labels(stage).observe(max(0.0, seconds))


def _histogram(name: str) -> Histogram:
    row = METRICS[name]
    return Histogram(name, row.what, row.labels[1:], buckets=FAST, registry=None)


def said_at(body: bytes) -> float:
    """An event's ``timestamp`` in seconds since 1970; ``ValueError`` when it has none."""
    _, _, rest = body.partition(_BEFORE)  # an unescaped quote: it is in no value of the envelope
    return datetime.fromisoformat(rest[:_TIMESTAMP].decode(errors="replace")).timestamp()
