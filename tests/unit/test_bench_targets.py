"""The benchmark's table: each target is judged by its figures, at its limit and beyond."""

import json
from copy import deepcopy
from typing import Any

import pytest

from docs import generate
from tests.benchmarks import targets
from tests.benchmarks.targets import (
    FLOOR,
    JETSTREAM,
    JOINING,
    OURS,
    PLAIN,
    SOCKETIO,
    TARGETS,
    TWO,
    judged,
    rows,
)


def bulk(delivering: float, redis: float) -> dict[str, float]:
    return {"delivering_us": delivering, "redis_us": redis}


def even(p50: float, p99: float, p999: float) -> dict[str, float]:
    return {"p50_ms": p50, "p99_ms": p99, "p999_ms": p999}


def grown(first: float, last: float, **more: float) -> dict[str, Any]:
    """Sizes in the order of JSON, which is not that of numbers."""
    sizes = {
        "15000": {"delivering_us": last, "net_us": last, "connect_ms": 0.3},
        "1000": {"delivering_us": first, "net_us": first, "connect_ms": 0.2},
    }
    for figures in sizes.values():
        figures["background_cores"] = 0.1
    return {**sizes, **more}


AT_THE_LIMIT: dict[str, Any] = {
    "delivery": {
        FLOOR: {"bulk": bulk(8, 1), "2000": even(1, 2, 3), "5000": even(1, 2, 3)},
        OURS: {"bulk": bulk(12, 12), "2000": even(2, 6, 10), "5000": even(2, 6, 10)},
        PLAIN: {"bulk": bulk(12.1, 1)},
        SOCKETIO: {"bulk": bulk(20, 5)},
        JETSTREAM: {"missing": "there is no go on PATH"},
    },
    "script": {"publish.lua": {"events_per_core": 60_000, "redis_us": 16.6}},
    "fanout": {JOINING: {"delivering_us": 2.0}, OURS: {"delivering_us": 3.0}},
    "idle": {
        OURS: {"bytes_each": 5 * 1024},
        PLAIN: {"bytes_each": 15 * 1024},
        SOCKETIO: {"bytes_each": 10.1 * 1024},
        JETSTREAM: {"missing": "there is no go on PATH"},
    },
    "connect": {
        FLOOR: {"known_ms": 0.02, "new_ms": 0.02},
        OURS: {
            "known_ms": 0.25,
            "new_ms": 0.35,
            "quiet_p99_ms": 0.3,
            "connecting_p99_ms": 0.6,
        },
    },
    "resume": {
        OURS: {
            "clients": 5000,
            "level_seconds": 5.0,
            "redis_commands": 2.0,
            "resumed_ms": 2.0,
            "allowed_ms": 2.0,
        }
    },
    "publisher": {"SDK": {"events_per_second": 15_000, "sdk_us": 100, "bare_us": 50}},
    "over_http": {
        OURS: {size: {"gateway_us": us} for size, us in (("1", 1500), ("10", 200), ("100", 66.6))}
    },
    "text": {OURS: {"gateway_cores": 0.99, "redis_cores": 0.99, "tokens_per_second": 50_000}},
    "processes": {
        OURS: {"capacity": 100.0, "delivering_us": 10.0},
        TWO: {"capacity": 180.0, "delivering_us": 11.1, "cores": 2},
    },
    "growth": {
        OURS: {
            "connections": grown(10, 12),
            "users": grown(10, 12, redis_bytes_per_user=2048.0),
            "history": grown(10, 12, redis_bytes_per_event=400.0),
        }
    },
}

GROWTH, LAST = ("growth", OURS), ("15000", "delivering_us")
BEYOND = [
    ("delivery: gateway", ("delivery", OURS, "bulk", "delivering_us"), 12.05),
    ("delivery: gateway", ("delivery", PLAIN, "bulk", "delivering_us"), 12),
    ("published and", ("delivery", OURS, "bulk", "redis_us"), 12.1),
    ("published and", ("delivery", SOCKETIO, "bulk", "redis_us"), 4),
    ("the publish script", ("script", "publish.lua", "events_per_core"), 59_999),
    ("fan-out", ("fanout", OURS, "delivering_us"), 3.01),
    ("publish to receive at 2,000", ("delivery", OURS, "2000", "p50_ms"), 2.01),
    ("publish to receive at 2,000", ("delivery", OURS, "2000", "p99_ms"), 6.01),
    ("publish to receive at 5,000", ("delivery", OURS, "5000", "p999_ms"), 10.1),
    ("idle", ("idle", OURS, "bytes_each"), 5200),
    ("idle", ("idle", SOCKETIO, "bytes_each"), 10 * 1024),
    ("connect, token seen", ("connect", OURS, "known_ms"), 0.26),
    ("connect, new", ("connect", OURS, "new_ms"), 0.36),
    ("others' p99", ("connect", OURS, "connecting_p99_ms"), 0.61),
    ("everybody returns", ("resume", OURS, "level_seconds"), 5.1),
    ("resume: CPU", ("resume", OURS, "resumed_ms"), 2.1),
    ("publisher", ("publisher", "SDK", "events_per_second"), 14_999),
    ("one awaited", ("publisher", "SDK", "sdk_us"), 101),
    ("over HTTP", ("over_http", OURS, "100", "gateway_us"), 66.8),
    ("streamed", ("text", OURS, "redis_cores"), 1.0),
    ("streamed", ("text", OURS, "gateway_cores"), 1.0),
    ("two gateway", ("processes", TWO, "capacity"), 179.0),
    ("growth: cost per delivery, 1,000 → 15", (*GROWTH, "connections", "15000", "net_us"), 12.1),
    ("growth: CPU of a connect", (*GROWTH, "connections", "15000", "connect_ms"), 0.31),
    ("growth: cost per delivery, 1,000 → 100,000", (*GROWTH, "users", *LAST), 12.1),
    ("growth: cost per delivery, 1,000 retained", (*GROWTH, "history", *LAST), 12.1),
]  # fmt: skip


def missed(scenarios: dict[str, Any]) -> set[str]:
    return {target.what for target, verdict in judged(scenarios) if not verdict.reached}


def test_what_is_just_good_enough_is_reached() -> None:
    assert len(judged(AT_THE_LIMIT)) == len(TARGETS)
    assert missed(AT_THE_LIMIT) == set()


@pytest.mark.parametrize(("what", "place", "figure"), BEYOND)
def test_what_is_a_little_worse_is_not(what: str, place: tuple[str, ...], figure: float) -> None:
    scenarios: Any = deepcopy(AT_THE_LIMIT)
    *way, last = place
    figures = scenarios
    for name in way:
        figures = figures[name]
    figures[last] = figure
    assert any(each.startswith(what) for each in missed(scenarios))


def test_every_target_can_be_missed() -> None:
    for target in TARGETS:
        assert any(target.what.startswith(what) for what, _, _ in BEYOND), target.what


def test_what_was_not_measured_is_left_out() -> None:
    assert [row[0] for row in rows({"script": AT_THE_LIMIT["script"]})] == [
        "the publish script, per Redis core"
    ]


def test_a_row_tells_the_figure_and_the_verdict() -> None:
    (row,) = rows({"fanout": AT_THE_LIMIT["fanout"]})
    assert row[1:] == ("≤ 1.5 × the floor that joins writes", "3.00 µs = 1.50 × 2.00", "reached")


def test_the_published_result_has_a_figure_for_every_target() -> None:
    found = json.loads(generate.BENCHMARK.read_text(encoding="utf-8"))
    assert not found["quick"]
    assert [target for target, _ in judged(found["scenarios"])] == list(targets.TARGETS)
