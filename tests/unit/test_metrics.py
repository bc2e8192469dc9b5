"""The table of metrics, and how what several processes say becomes one answer."""

import re

import pytest
from prometheus_client import Histogram, generate_latest

from agents_sdk.metrics import METRICS as WORKER
from broker.metrics import FAST, Row
from gateway.metrics import (
    FLEET,
    METRICS,
    MOST_AGENTS,
    OTHERS,
    OWN,
    PROCESS,
    SUM,
    Exposition,
    Sample,
    by_agent,
    of_histogram,
)
from tests.support.promql import promtool

ROWS = [*METRICS.values(), *WORKER.values()]


def text(processes: dict[str, list[Sample]], fleet: list[Sample]) -> str:
    return generate_latest(Exposition(processes, fleet)).decode()


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("#")]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_metric_is_named_as_prometheus_would_have_it(row: Row) -> None:
    """https://prometheus.io/docs/practices/naming/: a prefix, base units, ``_total``."""
    assert re.fullmatch(r"(runcast|process)_[a-z_]+", row.name)
    assert row.name.endswith("_total") == (row.kind == "counter")
    assert row.name.endswith("_seconds") or row.kind != "histogram"
    assert not re.search(r"_(ms|milliseconds|kb|mb|count|bucket|sum)$", row.name)
    assert row.what[0].isalnum()
    assert not row.what.endswith(".")


def test_no_label_can_name_a_user() -> None:
    """Labels have few values: everything that grows with users is missing."""
    assert {label for row in ROWS for label in row.labels} == {
        PROCESS, "agent", "code", "mode", "reason", "stage", "state", "status", "transport",
        "version",
    }  # fmt: skip


def test_names_are_unique() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS) == len(OWN) + len(FLEET) + len(WORKER)


def test_what_processes_say_of_themselves_is_told_apart_and_what_they_say_of_all_is_told_once() -> (
    None
):
    told = text(
        {
            "0": [Sample("runcast_closes_total", ("1000",), 3)],
            "1": [
                Sample("runcast_closes_total", ("1000",), 4),
                Sample("runcast_runs_open", ("a", "running"), 1),
            ],
        },
        [Sample("runcast_gateways", (), 2), Sample("runcast_runs_open", ("a", "running"), 2)],
    )
    assert lines(told) == [
        'runcast_closes_total{code="1000",process="0"} 3.0',
        'runcast_closes_total{code="1000",process="1"} 4.0',
        "runcast_gateways 2.0",
        'runcast_runs_open{agent="a",state="running"} 2.0',
    ]
    assert told.count("# TYPE runcast_closes_total counter\n") == 1
    assert "runcast_ready" not in told, "there is no metric without a value"


def test_a_histogram_comes_through_whole() -> None:
    row = METRICS["runcast_delivery_stage_seconds"]
    histogram = Histogram(row.name, row.what, ("stage",), buckets=FAST, registry=None)
    for seconds in (0.00005, 0.0004, 0.003, 99):
        histogram.labels("sdk_to_redis").observe(seconds)
    (metric,) = histogram.collect()
    samples = list(of_histogram(metric))
    assert [each.edge for each in samples] == [*map(str, FAST), "+Inf", SUM]
    told = lines(text({"7": samples}, []))
    labels = 'process="7",stage="sdk_to_redis"'
    assert f'{row.name}_bucket{{le="0.0005",{labels}}} 2.0' in told
    assert f"{row.name}_count{{{labels}}} 4.0" in told
    assert f"{row.name}_sum{{{labels}}} 99.00345" in told


def test_agents_without_end_get_no_labels_without_end() -> None:
    """Whoever may write to Redis names agents."""
    counts = {f"a{number:04}": 1.0 for number in range(MOST_AGENTS + 7)}
    shown = by_agent(counts)
    assert len(shown) == MOST_AGENTS + 1
    assert shown[OTHERS] == 7
    assert by_agent({**counts, "z": 9.0}, together=max)[OTHERS] == 9
    assert by_agent({"b": 1, "a": 2}) == {"b": 1, "a": 2}


def test_promtool_finds_no_fault_with_any_metric() -> None:
    """Whatever there is to say, strange names of agents included."""
    samples: dict[bool, list[Sample]] = {False: [], True: []}
    for rows, is_fleet in ((OWN, False), (FLEET, True)):
        for row in rows:
            labels = tuple('ü"\\\n' for _ in row.labels)
            edges = ("0.1", "+Inf", SUM) if row.kind == "histogram" else ("",)
            samples[is_fleet] += [Sample(row.name, labels, 1, edge) for edge in edges]
    promtool("check", "metrics", given=text({"0": samples[False]}, samples[True]).encode())
