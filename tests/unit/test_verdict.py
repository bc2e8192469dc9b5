"""Who was at the limit."""

from typing import Any

import pytest

from gateway.bench.verdict import Stopped, Usage, bottleneck

IDLE: dict[str, Any] = {
    "seconds": 2.0, "gateways": [0.4], "redis": 0.4, "publisher": 0.4, "clients": [0.2],
    "machine": 1.6, "cores": 4,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "part", "says"),
    [
        ({"gateways": [1.9]}, "gateway", "95 % of a core; add gateway processes"),
        ({"redis": 1.8}, "redis", "Redis used 90 % of a core"),
        ({"publisher": 1.75}, "bench", "the installation can do more"),
        ({"clients": [0.1, 1.8]}, "bench", "the bench itself used 90 % of a core"),
        ({"gateways": [1.75], "redis": 1.9}, "redis", "Redis"),
        (
            {"gateways": [0.9, 0.9], "machine": 7.5},
            "machine",
            "gateway 90 %, Redis 20 %, bench 30 %",
        ),
        ({"machine": 7.4}, "machine", "others 300 % of one"),
        ({}, "unknown", "no CPU was full"),
        ({"gateways": None}, "unknown", "cannot be seen here"),
        ({"gateways": None, "redis": None, "machine": None}, "unknown", "cannot be seen here"),
    ],
)
def test_the_full_part_is_named(changed: dict[str, Any], part: str, says: str) -> None:
    verdict = bottleneck(Usage(**{**IDLE, **changed}), stopped="failed")
    assert verdict.part == part
    assert says in verdict.why


@pytest.mark.parametrize(("stopped", "says"), [("capped", "--most-rate"), ("time", "--seconds")])
def test_a_search_that_nothing_stopped_has_no_bottleneck(stopped: Stopped, says: str) -> None:
    verdict = bottleneck(Usage(**{**IDLE, "gateways": [1.9]}), stopped=stopped)
    assert verdict.part == "none"
    assert says in verdict.why


def test_shares_are_cores() -> None:
    assert Usage(**{**IDLE, "gateways": [1.0, 0.5], "redis": None}).shares() == {
        "gateway": 0.75, "redis": None, "bench": 0.3, "machine": 0.8,
    }  # fmt: skip
