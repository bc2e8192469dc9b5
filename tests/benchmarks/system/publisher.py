"""The publisher: one worker process with many runs, and one publish alone."""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tests.benchmarks.system.measuring import Found, Scenario
from tests.benchmarks.system.systems import PEERS, running_redis

RUNS: Final = 200
MOST_SECONDS: Final = 60.0


def measure(seconds: float) -> Found:
    """What the worker process tells."""
    with TemporaryDirectory(prefix="runcast-bench-") as name, running_redis(Path(name)) as redis:
        command = [sys.executable, PEERS / "publisher.py", redis.url, RUNS, seconds]
        done = subprocess.run(
            [str(word) for word in command], stdout=subprocess.PIPE, check=True,
            timeout=MOST_SECONDS,
        )  # fmt: skip
        found: Found = json.loads(done.stdout.splitlines()[-1])
    return found


def run(*, quick: bool) -> dict[str, Found]:
    """The SDK as a worker uses it."""
    return {"SDK": measure(1.0 if quick else 5.0)}


SCENARIO: Final = Scenario(name="publisher", what="confirmed events of one worker", run=run)
