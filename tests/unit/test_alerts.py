"""The alert rules: what they look at is there, each has been seen to fire, and a page says what
to do."""

import re
from pathlib import Path

import pytest
import yaml

from tests.support.promql import mistakes, promtool, rules_of

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "compose" / "prometheus"
ALERTS = FOLDER / "alerts.yml"
TESTS = FOLDER / "alerts.test.yml"
PAGE = ROOT / "docs" / "how-to" / "alerts.md"
RULES = {rule["alert"]: rule for rule in rules_of(ALERTS)}


@pytest.mark.parametrize("name", RULES)
def test_an_alert_looks_at_metrics_that_there_are(name: str) -> None:
    assert list(mistakes(RULES[name]["expr"])) == []
    assert RULES[name]["labels"]["severity"] in ("page", "ticket")
    assert {"summary", "description"} == RULES[name]["annotations"].keys()


@pytest.mark.parametrize(
    ("query", "mistake"),
    [
        ("sum(runcast_connections) > 0", None),
        ('sum by (mode) (runcast_connections{transport="sse", instance=~"a"})', None),
        ("histogram_quantile(0.9, sum by (le) (rate(runcast_delivery_seconds_bucket[1m])))", None),
        ('up{job="runcast-gateway"} == 0', None),
        ("sum(runcast_connection)", "no metric runcast_connection"),
        ("rate(runcast_delivery_seconds[1m])", "no metric runcast_delivery_seconds"),
        ("runcast_ready_count", "no metric runcast_ready_count"),
        ("sum by (user) (runcast_connections)", "nothing in it has a label user"),
        ('runcast_ready{mode="main"}', "runcast_ready has no label mode"),
        ("1 > 0", "no metric at all"),
    ],
)  # fmt: skip
def test_a_query_of_something_else_is_found(query: str, mistake: str | None) -> None:
    assert list(mistakes(query)) == ([] if mistake is None else [mistake])


def test_every_alert_has_a_paragraph_that_says_what_to_do_and_none_is_left_over() -> None:
    _, _, told = PAGE.read_text("utf-8").partition("## What to do")
    headings = re.findall(r"^### (\w+)\n\n(?=\S)", told, re.MULTILINE)
    assert headings == list(RULES)


def test_every_alert_is_seen_to_fire_and_not_to_fire() -> None:
    """In the tests that promtool runs."""
    seen: dict[str, set[bool]] = {name: set() for name in RULES}
    for case in yaml.safe_load(TESTS.read_text("utf-8"))["tests"]:
        for each in case["alert_rule_test"]:
            seen[each["alertname"]].add(bool(each.get("exp_alerts")))
    assert seen == {name: {True, False} for name in RULES}


def test_promtool_finds_no_fault_with_the_rules_and_their_tests_pass() -> None:
    assert f"{len(RULES)} rules found" in promtool("check", "rules", ALERTS)
    assert "SUCCESS" in promtool("test", "rules", TESTS)


def test_promtool_finds_no_fault_with_the_configuration() -> None:
    promtool("check", "config", "--syntax-only", FOLDER / "prometheus.yml")
