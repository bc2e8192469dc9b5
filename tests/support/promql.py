"""What a query of Prometheus names, held to the metrics and labels that there are."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agents_sdk.metrics import METRICS as WORKER
from broker.metrics import Row
from gateway.metrics import METRICS

ROWS: dict[str, Row] = {**METRICS, **WORKER}
OF_TARGETS = {"instance", "job"}
"""Labels that Prometheus adds to every sample."""

NAME = re.compile(r"\b(?:runcast|process)_\w+")
SELECTED = re.compile(r"\b((?:runcast|process)_\w+)\{([^}]*)\}")
MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
GROUPED = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")


def row_of(name: str) -> Row | None:
    """The metric that a sample of this name is of."""
    if name in ROWS and ROWS[name].kind != "histogram":
        return ROWS[name]
    base = re.sub(r"_(bucket|sum|count)$", "", name)
    row = ROWS.get(base)
    return row if row is not None and row.kind == "histogram" and base != name else None


def mistakes(query: str) -> Iterator[str]:
    """What in the query is of no metric that there is."""
    names = NAME.findall(GROUPED.sub("", re.sub(r'"[^"]*"', '""', query)))
    labels = {"le", *OF_TARGETS}
    for name in names:
        row = row_of(name)
        if row is None:
            yield f"no metric {name}"
        else:
            labels.update(row.labels)
    if not names and not re.search(r"\bup\b", query):
        yield "no metric at all"
    for name, matchers in SELECTED.findall(query):
        row = row_of(name)
        for label in MATCHER.findall(re.sub(r'"[^"]*"', '""', matchers)):
            if row is not None and label not in {*row.labels, *OF_TARGETS}:
                yield f"{name} has no label {label}"
    for group in GROUPED.findall(query):
        for label in filter(None, re.split(r"[,\s]+", group)):
            if label not in labels:
                yield f"nothing in it has a label {label}"


def promtool(*arguments: str | Path, given: bytes | None = None) -> str:
    """What Prometheus' own checker says; fails when it finds fault, skips where it is not."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not on PATH: on Debian and Ubuntu it is in the package prometheus")
    done = subprocess.run(
        [program, *map(str, arguments)],
        input=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    said = done.stdout.decode()
    assert done.returncode == 0, said
    return said


def rules_of(file: Path) -> list[dict[str, Any]]:
    """The rules of a rule file."""
    groups = yaml.safe_load(file.read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]
