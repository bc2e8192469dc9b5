"""The figures in words: what each row of the table is called, in which unit, and what it means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.bench.plan import CONNECTING_AT_ONCE

UNKNOWN: Final = "unknown"
TITLES: Final[Mapping[str, str]] = {
    "connect": "Connect",
    "memory": "Memory",
    "latency": "Latency, publish to receive",
    "throughput": "Throughput",
    "fanout": "Fan-out, one user with many tabs",
    "resume": "Resume",
}

_PARTS: Final[Mapping[str, str]] = {
    "gateway": "gateway", "redis": "Redis", "bench": "the bench", "machine": "this machine",
    "none": "none reached", "unknown": "unknown",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """One line: a figure's name, its value with unit, and its meaning."""

    name: str
    value: str
    meaning: str


def rows(measure: str, result: Mapping[str, Any]) -> list[Row]:
    """The lines of one measure."""
    return list(_ROWS[measure](result))


def percentiles(summary: Mapping[str, Any], *, what: str) -> Iterator[Row]:
    """p50 to p99.9 and the longest; one that takes more events than there were says so."""
    for name, share in _SHARES.items():
        value = summary[name]
        if value is None:
            told = f"{summary['count']:,} {what}s are too few to tell"
            yield Row(name, UNKNOWN, told)
        else:
            yield Row(name, milliseconds(value), f"{share} {what}s took at most this")
    if summary["max"] is not None:
        yield Row("longest", milliseconds(summary["max"]), f"of {summary['count']:,} {what}s")


def milliseconds(value: float) -> str:
    """Three digits, whatever the size."""
    digits = 2 if value < 10 else 1 if value < 100 else 0  # noqa: PLR2004 - three digits in all
    return f"{value:,.{digits}f} ms"


def kibibytes(value: float) -> str:
    """With one digit where it matters."""
    return f"{value / 1024:,.1f} KiB"


def _connect(result: Mapping[str, Any]) -> Iterator[Row]:
    told = f"new connections, {result['connections']:,} in all: token, subscription, first frame"
    yield Row("rate", f"{result['per_second']:,.0f} /s", told)
    for row in percentiles(result["to_live_ms"], what="connect"):
        if row.name in ("p50", "p99"):
            at_once = f", {CONNECTING_AT_ONCE} at once" if row.value != UNKNOWN else ""
            yield Row(row.name, row.value, f"{row.meaning}{at_once}")


def _memory(result: Mapping[str, Any]) -> Iterator[Row]:
    each = result["per_connection_bytes"]
    if each is None:
        yield Row("per connection", "not measured", result["why"])
        return
    uncertain = result["uncertain_bytes"]
    told = "of the gateway's resident memory, idle and subscribed"
    if uncertain > max(each, 1) / 4:
        told += "; uncertain: use more --connections"
    yield Row("per connection", f"{kibibytes(each)} ± {uncertain / 1024:,.1f}", told)
    mebibytes = result["gateway_bytes"] / 2**20
    yield Row("gateway", f"{mebibytes:,.0f} MiB", f"with {result['connections']:,} connections")


def _latency(result: Mapping[str, Any]) -> Iterator[Row]:
    asked, reached = result["asked_per_second"], result["published_per_second"]
    told = "published, over all users in turn"
    if reached < asked * 0.95:
        told = f"published, of {asked:,.0f}: the bench or Redis could not do more"
    yield Row("rate", f"{reached:,.0f} /s", told)
    yield from percentiles(result["publish_to_receive_ms"], what="event")


def _throughput(result: Mapping[str, Any]) -> Iterator[Row]:
    if result["deliveries_per_second"] is None:
        yield Row("sustained", "not reached", result["why"])
        return
    told = "the largest rate at which all arrives and p99 stays below 100 ms"
    yield Row("sustained", f"{result['deliveries_per_second']:,} /s", told)
    for row in percentiles(result["publish_to_receive_ms"], what="event"):
        if row.name in ("p50", "p99"):
            yield Row(row.name, row.value, f"{row.meaning}, at that rate")
    yield Row("limited by", _PARTS[result["bottleneck"]], result["why"])
    for name, key, told, why in (
        ("gateway CPU", "gateway_cpu_us_per_delivery", "for each delivery at that rate",
         "its process cannot be seen from here"),
        ("Redis CPU", "redis_cpu_us_per_event", "for each event: fence, log and live message",
         "a Cluster has many, or this user may not ask for INFO"),
    ):  # fmt: skip
        value = result[key]
        if value is None:
            yield Row(name, "not measured", why)
        else:
            yield Row(name, f"{value:,.0f} µs", told)


def _fan_out(result: Mapping[str, Any]) -> Iterator[Row]:
    told = f"{result['published_per_second']:,.0f} events/s to {result['tabs']} tabs of one user"
    yield Row("deliveries", f"{result['deliveries_per_second']:,} /s", told)
    for row in percentiles(result["publish_to_last_tab_ms"], what="event"):
        if row.name in ("p50", "p99", "longest"):
            yield Row(row.name, row.value, row.meaning.replace("took", "reached the last tab in"))


def _resume(result: Mapping[str, Any]) -> Iterator[Row]:
    clients, behind = result["clients"], result["behind_events"]
    told = f"until {clients:,} clients, {behind} events behind each, had all of them"
    yield Row("all level", f"{result['all_level_seconds']:,.2f} s", told)
    yield Row("rate", f"{result['per_second']:,.0f} /s", "clients brought level")
    for row in percentiles(result["to_level_ms"], what="resume"):
        if row.name in ("p50", "p99"):
            yield row


_SHARES: Final[Mapping[str, str]] = {
    "p50": "half of the",
    "p90": "90 % of the",
    "p99": "99 % of the",
    "p99.9": "999 of 1,000",
}
_ROWS: Final = {
    "connect": _connect,
    "memory": _memory,
    "latency": _latency,
    "throughput": _throughput,
    "fanout": _fan_out,
    "resume": _resume,
}
