"""What a process costs: CPU time by its own clock in nanoseconds, memory by the kernel's books."""

import os
import time
from collections.abc import Iterable
from pathlib import Path

_CPU_CLOCK = 2
"""CPUCLOCK_SCHED of Linux: what the scheduler has counted, of all threads, those ended included."""


def cpu_ns(pid: int) -> int:
    """CPU time that a process has used so far, in user and kernel."""
    return time.clock_gettime_ns((~pid << 3) | _CPU_CLOCK)


def resident_bytes(pid: int) -> int:
    """Memory of a process: its own, and its share of what it shares."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/{pid}/smaps_rollup has no Pss")


def family(pid: int) -> list[int]:
    """A process and all that it started."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += family(int(child))
    return found


class Meter:
    """CPU time of some processes over a stretch of time."""

    def __init__(self, pids: Iterable[int]) -> None:
        self.pids = list(pids)
        self._began = {pid: cpu_ns(pid) for pid in self.pids}

    def used_ns(self) -> int:
        """Since the meter was made."""
        return sum(cpu_ns(pid) - self._began[pid] for pid in self.pids)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))
