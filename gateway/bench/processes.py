"""CPU time and memory of processes on this machine, as Linux tells them in /proc."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import socket
from pathlib import Path
from typing import Final

from gateway.bench.failure import BenchFailed
from gateway.open_files import allow_most

PROC: Final = Path("/proc")
SPARE_FILES: Final = 64
"""What a process opens beside its connections."""
_LISTEN: Final = "0A"


def cpu_seconds(pid: int) -> float | None:
    """What all threads of the process have used so far; None when it cannot be read."""
    try:
        tasks = list((PROC / str(pid) / "task").iterdir())
        total = sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)
    except (OSError, ValueError, IndexError):
        return None
    return total / 1e9


def resident_bytes(pid: int) -> int | None:
    """Its resident set; None when it cannot be read."""
    try:
        pages = int((PROC / str(pid) / "statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * resource.getpagesize()


def machine_cpu_seconds() -> float | None:
    """What everybody on this machine has used since it started."""
    try:
        words = (PROC / "stat").read_text().partition("\n")[0].split()[1:]
        user, nice, system, _idle, _wait, irq, soft, steal = map(int, words[:8])
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, str | int | float]:
    """What numbers are compared by."""
    cpu = ""
    with contextlib.suppress(OSError):
        for line in (PROC / "cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": cpu or platform.machine(),
        "cores": cores(),
        "memory_gib": round(memory, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def gateway_processes(host: str, port: int) -> tuple[tuple[int, ...], str]:
    """The processes that listen there; without any, why they are not known.

    Only Python programs count: a proxy or a container's port forwarder is not the gateway.
    """
    if not _is_here(host):
        return (), f"the gateway is not on this machine ({host})"
    if not PROC.joinpath("net/tcp").exists():
        return (), "only Linux tells the memory of another process"
    inodes = _listening(port)
    found = [pid for pid in _pids() if inodes & _sockets(pid)]
    if not found:
        return (), f"the process that listens at port {port} is another user's: run it as root"
    strange = sorted({name for pid in found if not (name := _program(pid)).startswith("python")})
    if strange:
        return (), f"what listens at port {port} is {', '.join(strange)}, not the gateway itself"
    return tuple(found), ""


def allow_files(connections: int, processes: int) -> None:
    """Raise this process's limit of open files, and so its children's, to the hard one.

    :raises BenchFailed: the hard one is too low for so many connections.
    """
    needed = -(-connections // processes) + SPARE_FILES
    allowed = allow_most()
    if allowed != resource.RLIM_INFINITY and allowed < needed:
        raise BenchFailed(
            why=f"A process may open {allowed} files here, and {needed} are needed",
            todo="Raise the hard limit (ulimit -Hn, or LimitNOFILE=), or measure with fewer "
            "--connections.",
        )


def _is_here(host: str) -> bool:
    try:
        places = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)
    except OSError:
        return False
    for family, kind, number, _, address in places:
        with contextlib.suppress(OSError), socket.socket(family, kind, number) as probe:
            probe.bind(address)
            return True
    return False


def _listening(port: int) -> set[str]:
    """The inodes of sockets that listen at the port, whatever their address."""
    found = set()
    for name in ("net/tcp", "net/tcp6"):
        with contextlib.suppress(OSError):
            for line in (PROC / name).read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == _LISTEN and int(words[1].rpartition(":")[2], 16) == port:
                    found.add(f"socket:[{words[9]}]")
    return found


def _pids() -> list[int]:
    return sorted(int(path.name) for path in PROC.iterdir() if path.name.isdigit())


def _sockets(pid: int) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):
        for link in (PROC / str(pid) / "fd").iterdir():
            with contextlib.suppress(OSError):
                found.add(str(link.readlink()))
    return found


def _program(pid: int) -> str:
    try:
        return (PROC / str(pid) / "exe").readlink().name
    except OSError:
        return "unknown"
