"""Where and on what a result was measured."""

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from broker.embedded import find_server
from tests.benchmarks.system.processes import cores

ROOT = Path(__file__).parents[2]


def facts() -> dict[str, object]:
    """JSON: date, commit, machine, versions."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _said("git", "rev-parse", "--short", "HEAD"),
        "changed": bool(_said("git", "status", "--porcelain", "--untracked-files=no")),
        "cpu": _cpu(),
        "cores": cores(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "redis_server": _said(str(find_server()), "--version").partition(" sha=")[0],
        "versions": {name: version(name) for name in ("aiohttp", "redis", "hiredis", "uvloop")},
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _said(*command: str) -> str:
    """What a program answers; empty outside of a checkout."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()
