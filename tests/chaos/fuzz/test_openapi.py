"""Schemathesis reads the OpenAPI document and finds no request that a real gateway answers wrongly:
no 5xx, no answer, status or content type that is not in the document, no wrong request let through.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.servers import OPERATOR_KEY, WORKER_KEY, running_fleet, running_redis, token

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs" / "reference" / "openapi.json"
CONFIG = Path(__file__).with_name("schemathesis.toml")

EXCLUDED = ("positive_data_acceptance",)
"""OpenAPI cannot say which parameters belong together, or that ids are limited in bytes: so there
are requests that the document allows and the gateway refuses with 400. What must be accepted is
said by tests/integration/test_user_api.py and test_admin.py."""

STREAMS = "/sse"
"""Answers have no end; tests/integration/test_event_stream.py reads them."""


@pytest.fixture
def base() -> Iterator[str]:
    """A gateway that nobody else uses: an operator may drain it."""
    with running_redis() as redis, running_fleet(redis, RUNCAST_DEFAULT_AGENT="five") as fleet:
        fleet.worker()
        yield fleet.gateway()


def schemathesis(base: str, folder: Path, credential: str, *options: str, at_least: int) -> None:
    """Run it as anybody would; every failure and every error of its own fails the test."""
    command = [
        sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run",
        str(DOCUMENT), "--url", base, "--header", f"Authorization: Bearer {credential}",
        "--exclude-path", STREAMS,
        "--checks", "all", "--exclude-checks", ",".join(EXCLUDED), "--continue-on-failure",
        "--seed", "1", "--generation-database", "none", "--request-timeout", "10",
        "--suppress-health-check", "all", "--no-color", *options,
    ]  # fmt: skip
    env = {name: value for name, value in os.environ.items() if not name.startswith("RUNCAST_")}
    done = subprocess.run(
        command, cwd=folder, env=env, check=False, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
    counted = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert counted is not None, done.stdout
    assert int(counted[2]) == int(counted[1]) > at_least


@pytest.mark.long
@pytest.mark.timeout(300)
def test_of_a_user(base: str, tmp_path: Path) -> None:
    schemathesis(
        base, tmp_path, token(ttl_seconds=3600), "--exclude-tag", "operators", "-n", "20",
        at_least=800,
    )  # fmt: skip


@pytest.mark.long
@pytest.mark.timeout(300)
def test_of_an_operator(base: str, tmp_path: Path) -> None:
    """Not in sequences: they would only drain the gateway and look at it."""
    schemathesis(
        base, tmp_path, OPERATOR_KEY, "--include-tag", "operators", "-n", "20",
        "--phases", "examples,coverage,fuzzing", at_least=200,
    )  # fmt: skip


@pytest.mark.long
@pytest.mark.timeout(200)
def test_of_a_worker(base: str, tmp_path: Path) -> None:
    schemathesis(
        base, tmp_path, WORKER_KEY, "--include-tag", "workers", "-n", "100",
        "--phases", "examples,coverage,fuzzing", at_least=100,
    )  # fmt: skip
