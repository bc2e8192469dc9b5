"""The dashboard of a fleet as Grafana reads it: a table of panels, and the JSON made of it.

``docs/generate.py`` writes ``dashboards/runcast.json`` with it; ``tests/unit/test_dashboard.py``
holds every query to the metrics that there are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

SOURCE: Final = {"type": "prometheus", "uid": "prometheus"}
"""The data source of ``provisioning/datasources/prometheus.yml``."""

HERE: Final = 'instance=~"$instance"'
WIDTH: Final = 24
HEIGHT: Final = 7


class Panel(NamedTuple):
    """``queries``: PromQL → legend. ``across``: how many of these share a line."""

    title: str
    unit: str
    queries: Mapping[str, str]
    kind: Literal["timeseries", "stat"] = "timeseries"
    across: int = 3
    what: str = ""


def _stat(title: str, query: str, unit: str = "short", what: str = "") -> Panel:
    return Panel(title, unit, {query: ""}, "stat", 6, what)


def _quantiles(name: str, by: str = "") -> dict[str, str]:
    """The percentiles of a histogram; ``by``: apart per value of this label."""
    group = f"le, {by}" if by else "le"
    legend = f" {{{{{by}}}}}" if by else ""
    return {
        f"histogram_quantile({quantile}, sum by ({group}) "
        f"(rate({name}_bucket{{{HERE}}}[$__rate_interval])))": f"p{quantile * 100:g}{legend}"
        for quantile in ((0.5, 0.95, 0.99) if not by else (0.95,))
    }


def _rate(name: str, by: str = "", match: str = HERE) -> str:
    group = f" by ({by})" if by else ""
    return f"sum{group} (rate({name}{{{match}}}[$__rate_interval]))"


ROWS: Final[Mapping[str, tuple[Panel, ...]]] = {
    "The fleet": (
        _stat("Connections", f"sum(runcast_connections{{{HERE}}})"),
        _stat("Gateway processes ready", f"sum(runcast_ready{{{HERE}}})"),
        _stat("Open runs", "sum(runcast_runs_open)"),
        _stat("Requests that wait", "sum(max by (agent) (runcast_queue_requests))"),
        _stat("Events delivered", _rate("runcast_events_delivered_total"), "ops"),
        _stat(
            "Isolation violations, a day",
            f"sum(increase(runcast_isolation_violations_total{{{HERE}}}[1d]))",
            what="Anything but 0 is to be looked at: see the alerts' page.",
        ),
    ),
    "Connections": (
        Panel(
            "Connections", "short",
            {f"sum by (mode, transport) (runcast_connections{{{HERE}}})": "{{mode}} {{transport}}"},
        ),
        Panel(
            "Made and ended, by close code", "ops",
            {
                _rate("runcast_connects_total"): "made",
                _rate("runcast_closes_total", "code"): "ended {{code}}",
            },
        ),
        Panel("Refused", "ops", {_rate("runcast_refused_total", "code"): "{{code}}"}),
        Panel(
            "Connections per gateway", "short",
            {f"sum by (instance) (runcast_connections{{{HERE}}})": "{{instance}}"},
        ),
        Panel(
            "Readers fed from the log", "short",
            {f"sum by (instance) (runcast_clients_lagging{{{HERE}}})": "{{instance}}"},
            what="They resume, or do not keep up.",
        ),
        Panel(
            "Bytes that wait for clients", "bytes",
            {f"sum by (instance) (runcast_outbox_bytes{{{HERE}}})": "{{instance}}"},
        ),
    ),
    "Events": (
        Panel(
            "Events", "ops",
            {
                _rate(f"runcast_events_{word}_total"): word
                for word in ("published", "delivered", "replayed", "repaired")
            },
        ),
        Panel("From Redis to the sockets", "s", _quantiles("runcast_delivery_seconds")),
        Panel("By stage, p95", "s", _quantiles("runcast_delivery_stage_seconds", "stage")),
        Panel(
            "Told that something is missing", "ops",
            {_rate("runcast_resyncs_total", "reason"): "{{reason}}"},
        ),
        Panel("Event loop is late, p95", "s", _quantiles("runcast_loop_lag_seconds", "instance")),
        Panel(
            "Channels listened to", "short",
            {f"sum by (instance) (runcast_channels{{{HERE}}})": "{{instance}}"},
        ),
    ),
    "Runs and workers": (
        Panel(
            "Open runs", "short",
            {"sum by (agent, state) (runcast_runs_open)": "{{agent}} {{state}}"},
        ),
        Panel(
            "Ended", "ops",
            {
                "max by (agent, status) (rate(runcast_runs_ended_total[$__rate_interval]))":
                "{{agent}} {{status}}"
            },
        ),
        Panel(
            "Left out one of the five", "ops",
            {"max by (agent) (rate(runcast_runs_incomplete_total[$__rate_interval]))": "{{agent}}"},
        ),
        Panel(
            "Requests that wait", "short",
            {"max by (agent) (runcast_queue_requests)": "{{agent}}"},
        ),
        Panel(
            "Age of the oldest request", "s",
            {"max by (agent) (runcast_queue_oldest_seconds)": "{{agent}}"},
        ),
        Panel(
            "Workers: running of capacity", "short",
            {
                "max by (agent) (runcast_workers_running)": "{{agent}} runs",
                "max by (agent) (runcast_workers_capacity)": "{{agent}} capacity",
            },
        ),
        Panel(
            "Duration of runs, p95", "s",
            {
                "histogram_quantile(0.95, sum by (le, agent) "
                "(rate(runcast_worker_run_seconds_bucket[$__rate_interval])))": "{{agent}}"
            },
        ),
        Panel(
            "Workers: publishing, p95", "s",
            {
                "histogram_quantile(0.95, sum by (le, instance) "
                "(rate(runcast_worker_publish_seconds_bucket[$__rate_interval])))": "{{instance}}"
            },
        ),
        Panel(
            "Workers: not confirmed, and sent again", "short",
            {
                "sum by (instance) (runcast_worker_buffer_events)": "{{instance}} waits",
                "sum by (instance) (rate(runcast_worker_publish_retries_total[$__rate_interval]))":
                "{{instance}} again",
            },
        ),
    ),
    "Redis and processes": (
        Panel("Redis round trip", "s", _quantiles("runcast_redis_round_trip_seconds")),
        Panel("Probe by pub/sub", "s", _quantiles("runcast_redis_probe_seconds")),
        Panel(
            "Silence of the subscriber", "s",
            {f"max by (instance) (runcast_subscriber_silence_seconds{{{HERE}}})": "{{instance}}"},
        ),
        Panel(
            "Processor", "percentunit",
            {_rate("process_cpu_seconds_total", "job, instance"): "{{job}} {{instance}}"},
        ),
        Panel(
            "Memory", "bytes",
            {f"sum by (job, instance) (process_resident_memory_bytes{{{HERE}}})":
             "{{job}} {{instance}}"},
        ),
        Panel(
            "File descriptors", "percentunit",
            {f"max by (instance) (process_open_fds{{{HERE}}} / process_max_fds{{{HERE}}})":
             "{{instance}}"},
        ),
    ),
}  # fmt: skip
"""Row → its panels, in order."""


def queries() -> list[str]:
    """Every query of the dashboard."""
    return [query for panels in ROWS.values() for panel in panels for query in panel.queries]


def dashboard() -> str:
    """The file's text."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        line = {"type": "row", "title": title, "collapsed": False, "panels": []}
        panels.append(_placed(line, 0, y, WIDTH, 1))
        y, x = y + 1, 0
        for panel in row:
            width = WIDTH // panel.across
            height = HEIGHT if panel.kind == "timeseries" else HEIGHT // 2 + 1
            panels.append(_placed(_panel(panel), x, y, width, height))
            x += width
            if x == WIDTH:
                x, y = 0, y + height
        y += HEIGHT if x else 0
    for number, each in enumerate(panels, 1):
        each["id"] = number
    return json.dumps(
        {
            "uid": "runcast",
            "title": "Runcast",
            "description": "Made by docs/generate.py from compose/grafana/dashboard.py.",
            "tags": ["runcast"],
            "schemaVersion": 38,
            "version": 1,
            "editable": True,
            "refresh": "10s",
            "time": {"from": "now-30m", "to": "now"},
            "timezone": "browser",
            "templating": {"list": [_instances()]},
            "panels": panels,
        },
        indent=1,
    ) + "\n"  # fmt: skip


def _placed(panel: dict[str, Any], x: int, y: int, width: int, height: int) -> dict[str, Any]:
    return {**panel, "gridPos": {"x": x, "y": y, "w": width, "h": height}}


def _panel(panel: Panel) -> dict[str, Any]:
    made: dict[str, Any] = {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.what,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + at), "datasource": SOURCE, "expr": query,
             "legendFormat": legend or "__auto"}
            for at, (query, legend) in enumerate(panel.queries.items())
        ],
    }  # fmt: skip
    if panel.kind == "stat":
        made["options"] = {"reduceOptions": {"calcs": ["lastNotNull"]}, "graphMode": "area"}
    else:
        made["options"] = {"tooltip": {"mode": "multi", "sort": "desc"}}
    return made


def _instances() -> dict[str, Any]:
    return {
        "name": "instance",
        "label": "Gateway",
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": "label_values(runcast_ready, instance)", "refId": "instance"},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }
