"""The Grafana dashboard: what it asks for is there, and its panels lie side by side."""

import json
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest
import yaml

from compose.grafana.dashboard import SOURCE, WIDTH, dashboard, queries
from tests.support.promql import mistakes, promtool

FOLDER = Path(__file__).parents[2] / "compose" / "grafana"
INTERVAL = "$__rate_interval"
"""What Grafana puts a duration for."""


@pytest.fixture
def made() -> dict[str, Any]:
    told: dict[str, Any] = json.loads(dashboard())
    return told


@pytest.mark.parametrize("query", queries())
def test_a_query_asks_for_metrics_that_there_are(query: str) -> None:
    assert list(mistakes(query)) == []


def test_promtool_reads_every_query(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": query.replace(INTERVAL, "1m")}
        for number, query in enumerate(queries())
    ]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", "--lint=none", file)


def test_panels_lie_side_by_side(made: dict[str, Any]) -> None:
    places = [panel["gridPos"] for panel in made["panels"]]
    cells = [
        set(product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])))
        for at in places
    ]
    assert all(at["x"] + at["w"] <= WIDTH for at in places)
    assert not any(one & other for one, other in combinations(cells, 2))
    assert len({panel["id"] for panel in made["panels"]}) == len(places)


def test_its_data_source_is_the_one_that_is_provisioned(made: dict[str, Any]) -> None:
    folder = FOLDER / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text())[
        "datasources"
    ]
    assert {"type": source["type"], "uid": source["uid"]} == SOURCE
    asked = {
        json.dumps(each["datasource"])
        for panel in made["panels"]
        for each in (panel, *panel.get("targets", ()))
        if "datasource" in each
    }
    assert asked == {json.dumps(SOURCE)}
