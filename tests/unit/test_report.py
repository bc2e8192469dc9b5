"""The table's rows: every figure with its unit and a meaning, and no figure where there is none."""

from typing import Any

import pytest

from gateway.bench.plan import MEASURES
from gateway.bench.report import TITLES, Row, kibibytes, milliseconds, rows

MS = {"p50": 1.234, "p90": 12.34, "p99": 123.4, "p99.9": None, "max": 1234.5, "count": 437}
RESULTS: dict[str, dict[str, Any]] = {
    "connect": {"connections": 200, "per_second": 1234.5, "to_live_ms": MS},
    "memory": {"per_connection_bytes": 8192, "uncertain_bytes": 1024, "gateway_bytes": 1 << 26,
               "connections": 200},
    "latency": {"asked_per_second": 200.0, "published_per_second": 199.9,
                "publish_to_receive_ms": MS},
    "throughput": {"deliveries_per_second": 5000, "publish_to_receive_ms": MS,
                   "bottleneck": "redis", "why": "Redis was full",
                   "gateway_cpu_us_per_delivery": 20.4, "redis_cpu_us_per_event": None},
    "fanout": {"tabs": 50, "published_per_second": 40.0, "deliveries_per_second": 2000,
               "publish_to_last_tab_ms": MS},
    "resume": {"clients": 200, "behind_events": 27, "all_level_seconds": 0.5, "per_second": 400.0,
               "to_level_ms": MS},
}  # fmt: skip


def row(measure: str, name: str, **changed: object) -> Row:
    return next(
        each for each in rows(measure, {**RESULTS[measure], **changed}) if each.name == name
    )


@pytest.mark.parametrize("measure", MEASURES)
def test_every_figure_has_a_value_and_a_meaning(measure: str) -> None:
    shown = rows(measure, RESULTS[measure])
    assert shown
    assert measure in TITLES
    assert all(each.value and each.meaning for each in shown)
    assert len({each.name for each in shown}) == len(shown)


def test_units() -> None:
    assert [milliseconds(each) for each in (1.234, 12.34, 123.4, 1234.5)] == [
        "1.23 ms", "12.3 ms", "123 ms", "1,234 ms"
    ]  # fmt: skip
    assert kibibytes(8192) == "8.0 KiB"
    assert row("connect", "rate").value == "1,234 /s"
    assert row("memory", "per connection").value == "8.0 KiB ± 1.0"
    assert row("throughput", "gateway CPU").value == "20 µs"


def test_too_few_events_are_no_percentile() -> None:
    assert row("latency", "p99.9") == Row("p99.9", "unknown", "437 events are too few to tell")


def test_nothing_measured_says_why() -> None:
    why = {"per_connection_bytes": None, "why": "the gateway is not on this machine"}
    assert rows("memory", why) == [Row("per connection", "not measured", why["why"])]  # type: ignore[arg-type]
    assert row("throughput", "Redis CPU").value == "not measured"
    assert row("throughput", "sustained", deliveries_per_second=None).value == "not reached"
    empty = dict.fromkeys(MS) | {"count": 0}
    names = [
        each.name
        for each in rows("latency", {**RESULTS["latency"], "publish_to_receive_ms": empty})
    ]
    assert "longest" not in names


def test_a_figure_that_says_little_says_so() -> None:
    assert "use more --connections" in row("memory", "per connection", uncertain_bytes=4096).meaning
    assert "use more" not in row("memory", "per connection").meaning
    assert "of 200" in row("latency", "rate", published_per_second=150.0).meaning
