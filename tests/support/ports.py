"""Loopback ports of the tests' servers: one that was handed out is its test process's alone.

A port that is picked, let go and taken later can be picked twice: by two nodes of one cluster, or
by two test processes, one of whose servers is just being started or is down for a moment. So a
picked port is locked, in a file that all test processes of this user share, until the process that
picked it ends.
"""

import fcntl
import os
import random
import socket
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final

PORTS: Final = range(10_000, 32_000)
"""Below those that the system takes for outgoing connections: a server that is started again on its
port must find it free."""

BUS: Final = 10_000
"""How far above a cluster node's port its bus is."""

_ours: set[int] = set()


def free_port(*, bus: bool = False) -> int:
    """A port on which nobody listens, and that nobody else is given while this process lives.

    ``bus``: so is the one of a cluster node's bus.
    """
    choice = random.SystemRandom()
    while True:
        port = choice.choice(PORTS[:-BUS] if bus else PORTS)
        wanted = (port, port + BUS) if bus else (port,)
        # Nobody is disturbed by the look: those that are in use are locked.
        if all(map(_reserve, wanted)) and all(map(_is_free, wanted)):
            return port


def _reserve(port: int) -> bool:
    if port in _ours:
        return False
    try:
        # A lock of one byte, which ends with this process and is not handed down to others.
        fcntl.lockf(_locks(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except BlockingIOError:
        return False
    _ours.add(port)
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe, suppress(OSError):
        probe.bind(("127.0.0.1", port))
        return True
    return False


@cache
def _locks() -> int:
    """The open file; closing any descriptor of it would end all locks, so it stays open."""
    path = Path(tempfile.gettempdir()) / f"runcast-test-ports-{os.getuid()}"
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
