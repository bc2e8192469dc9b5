"""The micro benchmarks: pytest-benchmark over ``micro/``, in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks import machine

FOLDER = Path(__file__).parent / "micro"
MOST_SECONDS = 180


def run(*, quick: bool, console: Console) -> dict[str, Any]:
    """Benchmark → nanoseconds a call: median, and lowest. ``RuntimeError`` when one failed."""
    console.print("[bold]micro[/]: single functions …")
    with TemporaryDirectory() as name:
        path = Path(name) / "micro.json"
        seconds = "0.1" if quick else "1.0"
        done = subprocess.run(
            [
                sys.executable, "-m", "pytest", "-q", "-o", "python_files=bench_*.py",
                "-o", "python_functions=bench_*",
                "-p", "no:cacheprovider", FOLDER, f"--benchmark-json={path}",
                f"--benchmark-max-time={seconds}", "--benchmark-disable-gc", "--benchmark-quiet",
            ],
            cwd=machine.ROOT, capture_output=True, text=True, timeout=MOST_SECONDS, check=False,
        )  # fmt: skip
        if done.returncode:
            console.print(done.stdout, markup=False)
            raise RuntimeError("a micro benchmark failed, see above")
        stored = json.loads(path.read_text(encoding="utf-8"))
    found = {
        each["name"].removeprefix("bench_"): {
            "median_ns": each["stats"]["median"] * 1e9,
            "lowest_ns": each["stats"]["min"] * 1e9,
        }
        for each in stored["benchmarks"]
    }
    table = Table("function", "median", "lowest")
    for name, figures in found.items():
        table.add_row(name, *(f"{figures[each]:,.0f} ns" for each in figures))
    console.print(table)
    return found
